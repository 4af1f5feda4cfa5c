"""How the layer, its workers and its apps stand: what is wrong, if anything; asked for seldom, however often somebody
wants to know."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from django.db import Error

from ..applications import serves
from ..errors import MailrailError
from ..layers import DurableLayer, default_alias, get_layer
from ..log import logger_of
from ..messages import ChannelStats
from ..routing import Routing
from ..terminal import counted
from .rules import Problem, apply_rules

logger = logger_of("mailrail.health")

ANSWER_TTL_S = 2.0
"""Seconds for which an answer is good."""
MAX_COUNTED = 1_000
"""Messages of a kind and a channel to be counted: only the oldest matters. With fewer, most counts would be estimated,
which is a question of its own for each."""
ANSWER_TIMEOUT_S = 2.0
"""Seconds that a look may take before others are told that there is no answer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready, unless there are problems. ``workers``: how many live, where that was asked for."""

    problems: tuple[Problem, ...] = ()
    workers: int = 0

    @property
    def is_ready(self) -> bool:
        return not self.problems

    @property
    def reason(self) -> str | None:
        """What everybody may read: it names no server, no channel, no mailer and no content."""
        return "; ".join(each.reason for each in self.problems) or None

    @property
    def detail(self) -> str | None:
        """What operators read: the same with names, or errors as they were raised."""
        return "; ".join(each.detail for each in self.problems) or None


def look(
    alias: str | None = None, limit: float | None = None, workers: int | None = 0, *, here: bool = False
) -> Readiness:
    """Ask the layer, and the rules of apps. Not ready means one of these: the layer cannot be used, or a message has
    been due for more than ``limit`` seconds. Or fewer than ``workers`` live (with ``here``: on this machine), or an
    app's rule finds a problem.

    Paused channels are left out, and those that nobody here has a consumer for. A limit of ``None`` is none, and asks
    no rule; ``workers=None`` means one where this project has a consumer. The rules concern the default layer. Raises
    nothing.
    """
    try:
        layer = get_layer(alias)
        late = list(_late(layer, alias, limit))
        least = _needed(layer, alias) if workers is None else workers
        living = _living(layer, here) if least else 0
    except (MailrailError, Error, OSError) as error:
        reason = f"the layer {alias or default_alias()!r} cannot be used"
        return Readiness((Problem(reason, f"{reason}: {error}"),))
    rules = () if limit is None or alias not in (None, default_alias()) else apply_rules(limit)
    return Readiness((*late, *_too_few(living, least, here), *rules), living)


def _late(layer: DurableLayer, alias: str | None, limit: float | None) -> Iterator[Problem]:
    stats = {**layer.stats(MAX_COUNTED), **(layer.outbox.stats() if layer.outbox else {})}
    latest = _latest(_awaited(layer, alias, stats))
    if latest is None or limit is None or latest[1] <= limit:
        return
    channel, seconds = latest
    said = f"has been due for {seconds:.0f} s, more than {limit:g} s"
    yield Problem(f"a message {said}", f"a message on {channel} {said}")


def _needed(layer: DurableLayer, alias: str | None) -> int:
    return int(bool(Routing.of_layer(alias).plans) or layer.outbox is not None)


def _living(layer: DurableLayer, here: bool) -> int:
    host = socket.gethostname()
    return sum(not here or worker.info.get("host") == host for worker in layer.workers())


def _too_few(living: int, least: int, here: bool) -> Iterator[Problem]:
    if living < least:
        where = " on this machine" if here else ""
        running = f"{counted(living, 'worker')} running" if living else "no workers are running"
        said = f"{running}{where}" + (f", {least} are needed" if least > 1 else "")
        yield Problem(said, said)


def _awaited(layer: DurableLayer, alias: str | None, stats: Mapping[str, ChannelStats]) -> dict[str, float]:
    """The channels on which something is due that workers should take, and for how long (seconds)."""
    routing = Routing.of_layer(alias)
    outbox = layer.outbox.channel if layer.outbox else None
    return {
        name: each.oldest_due
        for name, each in stats.items()
        if each.oldest_due is not None
        and not each.paused
        and (name in routing or name == outbox or serves(name))
    }


def _latest(due: Mapping[str, float]) -> tuple[str, float] | None:
    return max(due.items(), key=lambda each: each[1], default=None)


class Watch:
    """Looks on behalf of all who ask: one at a time, and seldom, so that asking is no way to load the storage."""

    def __init__(self, look: Callable[[], Readiness]) -> None:
        self._look = look
        self._looking = threading.Lock()
        self._began_at = 0.0
        self.forget()

    def forget(self) -> None:
        """Look again when next asked."""
        self._found: Readiness | None = None
        self._found_at = float("-inf")

    def ask(self) -> Readiness:
        """The answer of a moment ago, or a new one. While a look takes long, nobody else waits with it."""
        if (found := self._fresh()) is not None:
            return found
        if not self._looking.acquire(timeout=max(0.0, self._began_at + ANSWER_TIMEOUT_S - time.monotonic())):
            reason = f"the layer {default_alias()!r} does not answer"
            return Readiness((Problem(reason, reason),))
        try:
            return self._fresh() or self._anew()
        finally:
            self._looking.release()

    def _fresh(self) -> Readiness | None:
        return self._found if time.monotonic() - self._found_at < ANSWER_TTL_S else None

    def _anew(self) -> Readiness:
        self._began_at = time.monotonic()
        self._found = self._look()
        self._found_at = time.monotonic()
        if self._found.detail:
            logger.warning("not ready: %s", self._found.detail)
        return self._found
