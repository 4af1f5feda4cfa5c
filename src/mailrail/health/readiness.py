"""Check the layer, its workers and its apps. Answers are cached, so frequent requests do not load the storage."""

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
"""Seconds for which an answer is cached."""
MAX_COUNTED = 1_000
"""Messages counted exactly per state and channel. With a lower number most counts would be estimated, which takes a
query each. Only the oldest message matters here."""
ANSWER_TIMEOUT_S = 2.0
"""Seconds that a check may take before other requests report that the layer does not answer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Hold the problems; without any, work may be sent. ``workers``: the running ones, if they were counted."""

    problems: tuple[Problem, ...] = ()
    workers: int = 0

    @property
    def is_ready(self) -> bool:
        return not self.problems

    @property
    def reason(self) -> str | None:
        """Return the problems for the public: they name no server, channel, mailer or content."""
        return "; ".join(problem.reason for problem in self.problems) or None

    @property
    def detail(self) -> str | None:
        """Return the problems for operators, with names and error texts."""
        return "; ".join(problem.detail for problem in self.problems) or None


def look(
    alias: str | None = None, limit: float | None = None, workers: int | None = 0, *, here: bool = False
) -> Readiness:
    """Check the layer, its workers and the rules of apps.

    The layer is a problem if it cannot be used, or if a message has been due for more than ``limit`` seconds. So are
    fewer than ``workers`` running workers (with ``here``: on this machine), and whatever an app's rule finds.

    Paused channels are ignored, and so are channels without a consumer in this project. ``limit=None`` means no limit
    and no rules. ``workers=None`` needs one worker where this project has a consumer. The rules apply to the default
    layer. Raises nothing.
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
    awaited = _awaited(layer, alias, stats)
    channel, seconds = max(awaited.items(), key=lambda item: item[1], default=("", 0.0))
    if limit is None or seconds <= limit:
        return
    text = f"has been due for {seconds:.0f} s, more than {limit:g} s"
    yield Problem(f"a message {text}", f"a message on {channel} {text}")


def _needed(layer: DurableLayer, alias: str | None) -> int:
    routing = Routing.of_layer(alias)
    return int(bool(routing.plans or routing.patterns) or layer.outbox is not None)


def _living(layer: DurableLayer, here: bool) -> int:
    host = socket.gethostname()
    return sum(not here or worker.info.get("host") == host for worker in layer.workers())


def _too_few(living: int, least: int, here: bool) -> Iterator[Problem]:
    if living < least:
        where = " on this machine" if here else ""
        running = f"{counted(living, 'worker')} running" if living else "no workers are running"
        text = f"{running}{where}" + (f", {least} are needed" if least > 1 else "")
        yield Problem(text, text)


def _awaited(layer: DurableLayer, alias: str | None, stats: Mapping[str, ChannelStats]) -> dict[str, float]:
    """Return the seconds for which each unpaused, routed channel has had a due message.

    Left out are channels with a limiter: only its app knows whether a message may have left (``register``).
    """
    routing = Routing.of_layer(alias)
    outbox = layer.outbox.channel if layer.outbox else None
    return {
        name: channel_stats.oldest_due
        for name, channel_stats in stats.items()
        if channel_stats.oldest_due is not None
        and not channel_stats.paused
        and (name == outbox or serves(name) or (name in routing and routing.plan_for(name).limiter is None))
    }


class Watch:
    """Cache the check for all requests and run one at a time, so that requests cannot load the storage."""

    def __init__(self, look: Callable[[], Readiness]) -> None:
        self._look = look
        self._looking = threading.Lock()
        self._began_at = 0.0
        self.forget()

    def forget(self) -> None:
        """Drop the cached answer."""
        self._found: Readiness | None = None
        self._found_at = float("-inf")

    def ask(self) -> Readiness:
        """Return the cached answer or a new one. While a check takes long, other requests do not wait for it."""
        if (readiness := self._fresh()) is not None:
            return readiness
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
