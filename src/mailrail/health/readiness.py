"""How the layer stands, in one word and a reason; asked for seldom, however often somebody wants to know."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.db import Error

from ..applications import serves
from ..errors import MailrailError
from ..layers import DurableLayer, default_alias, get_layer
from ..messages import ChannelStats
from ..routing import Routing

logger = logging.getLogger("mailrail.health")

LOOK_EVERY = 2.0
"""Seconds for which an answer is good."""
ENOUGH = 1_000
"""Messages of a kind and a channel to be counted: only the oldest matters. With fewer, most counts would be estimated,
which is a question of its own for each."""
PATIENCE = 2.0
"""Seconds that a look may take before others are told that there is no answer."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready, unless there is a ``reason``, which everybody may read: it names no server, no channel and no content.

    ``detail`` is for operators: the same with names, or the error as it was raised.
    """

    reason: str | None = None
    detail: str | None = None

    @property
    def is_ready(self) -> bool:
        return self.reason is None


def look(alias: str | None = None, limit: float | None = None) -> Readiness:
    """Ask the layer. Not ready: it cannot be used, or a message has been due for more than ``limit`` seconds.

    Paused channels are left out, and those that nobody here has a consumer for. A limit of ``None`` is none. Raises
    nothing.
    """
    try:
        layer = get_layer(alias)
        stats = {**layer.stats(ENOUGH), **(layer.outbox.stats() if layer.outbox else {})}
        late = _latest(_awaited(layer, alias, stats))
    except (MailrailError, Error, OSError) as error:
        reason = f"the layer {alias or default_alias()!r} cannot be used"
        return Readiness(reason, f"{reason}: {error}")
    if late is None or limit is None or late[1] <= limit:
        return Readiness()
    channel, seconds = late
    said = f"has been due for {seconds:.0f} s, more than {limit:g} s"
    return Readiness(f"a message {said}", f"a message on {channel} {said}")


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
        if not self._looking.acquire(timeout=max(0.0, self._began_at + PATIENCE - time.monotonic())):
            reason = f"the layer {default_alias()!r} does not answer"
            return Readiness(reason, reason)
        try:
            return self._fresh() or self._anew()
        finally:
            self._looking.release()

    def _fresh(self) -> Readiness | None:
        return self._found if time.monotonic() - self._found_at < LOOK_EVERY else None

    def _anew(self) -> Readiness:
        self._began_at = time.monotonic()
        self._found = self._look()
        self._found_at = time.monotonic()
        if self._found.detail:
            logger.warning("not ready: %s", self._found.detail)
        return self._found
