"""Check the layer, its workers and its apps. Answers are cached, so frequent requests do not load the storage."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.db import Error

from ..applications import serves
from ..errors import MailrailError
from ..layers import DurableLayer, default_alias, get_layer
from ..log import logger_of
from ..messages import ChannelStats, WorkerInfo
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
LAYER_ERRORS = (MailrailError, Error, OSError)
"""What a layer that cannot be used raises."""


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
        """Return the problems for the public: they name no server, channel, mailer or content.

        Of several channels, or of several mailers, only the first is told: without names the others say no more.
        """
        worst: dict[str, str] = {}
        for problem in self.problems:
            worst.setdefault(problem.kind if problem.name else problem.reason, problem.reason)
        return "; ".join(worst.values()) or None

    @property
    def detail(self) -> str | None:
        """Return the problems for operators, with names and error texts."""
        return "; ".join(problem.detail for problem in self.problems) or None


class Observed(NamedTuple):
    """Hold what a check asks of a layer. ``stats``: also those of its outbox. ``workers``: none if none are needed."""

    stats: Mapping[str, ChannelStats]
    workers: Sequence[WorkerInfo]


def look(
    alias: str | None = None,
    limit: float | None = None,
    workers: int | None = 0,
    *,
    here: bool = False,
    outages_from: float | None = None,
) -> Readiness:
    """Check the layer, its workers and the rules of apps.

    The layer is a problem if it cannot be used. So is each channel with a message that has been due for more than
    ``limit`` seconds. So are fewer than ``workers`` running workers (with ``here``: on this machine). So is what
    has been out for ``outages_from`` seconds (a mailer, say), and whatever else an app's rule finds.

    Paused channels are ignored, and so are channels without a consumer in this project. ``limit=None``: late work is
    no problem; ``outages_from=None``: outages are none. ``workers=None`` needs one worker where this project has a
    consumer. The rules apply to the default layer. Raises nothing.
    """
    try:
        layer = get_layer(alias)
        needed = _needed(layer, alias) if workers is None else workers
        observed = observe(layer, MAX_COUNTED, with_workers=needed > 0)
        return assess(observed, alias, limit, needed, here=here, outages_from=outages_from)
    except LAYER_ERRORS as error:
        return unusable(alias, error)


def observe(layer: DurableLayer, most: int, *, with_workers: bool = True) -> Observed:
    """Ask a layer for what a check needs. ``most``: as in ``stats``. Raises ``LAYER_ERRORS``."""
    stats = {**layer.stats(most), **(layer.outbox.stats(most) if layer.outbox else {})}
    return Observed(stats, layer.workers() if with_workers else ())


def assess(
    observed: Observed,
    alias: str | None,
    limit: float | None,
    workers: int | None,
    *,
    here: bool = False,
    outages_from: float | None = None,
) -> Readiness:
    """Check what was observed of a layer, as ``look``. Raises ``LAYER_ERRORS``: the routing may be at fault."""
    layer = get_layer(alias)
    needed = _needed(layer, alias) if workers is None else workers
    late = () if limit is None else _late(_awaited(layer, alias, observed.stats), limit)
    living = _living(observed.workers, here)
    rules = apply_rules(limit, outages_from) if alias in (None, default_alias()) else ()
    return Readiness((*late, *_too_few(living, needed, here), *rules), living)


def unusable(alias: str | None, error: Exception) -> Readiness:
    """Return that a layer cannot be used."""
    reason = f"the layer {alias or default_alias()!r} cannot be used"
    return Readiness((Problem(reason, f"{reason}: {error}", kind="layer", name=alias or default_alias()),))


def _late(awaited: Mapping[str, float], limit: float) -> Iterator[Problem]:
    """Yield the channels whose oldest message has been due for more than ``limit`` seconds, the latest first."""
    now = time.time()
    for channel, seconds in sorted(awaited.items(), key=lambda item: (-item[1], item[0])):
        if seconds <= limit:
            return
        text = f"has been due for {seconds:.0f} s, more than {limit:g} s"
        yield Problem(
            f"a message {text}", f"a message on {channel} {text}", now - seconds, "channel", channel
        )


def _needed(layer: DurableLayer, alias: str | None) -> int:
    routing = Routing.of_layer(alias)
    return int(bool(routing.plans or routing.patterns) or layer.outbox is not None)


def _living(workers: Sequence[WorkerInfo], here: bool) -> int:
    host = socket.gethostname()
    return sum(not here or worker.info.get("host") == host for worker in workers)


def _too_few(living: int, least: int, here: bool) -> Iterator[Problem]:
    if living < least:
        where = " on this machine" if here else ""
        running = f"{counted(living, 'worker')} running" if living else "no workers are running"
        text = f"{running}{where}" + (f", {least} are needed" if least > 1 else "")
        yield Problem(text, text, kind="workers")


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
