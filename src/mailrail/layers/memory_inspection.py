"""Inspection of the in-memory layer."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from uuid import UUID

from ..messages import DeadMessage, Message, MessageSummary, Place, State, encode
from ..tracebacks import error_class
from .inspection import ERROR_LENGTH, PREVIEW_LENGTH, Inspection, Waiting, latest, soonest


class InMemoryInspection(Inspection):
    """Goes through all there is."""

    _lock: threading.RLock
    _messages: dict[UUID, Message]
    _dead: dict[UUID, DeadMessage]
    _paused: set[str]

    def list_channels(self) -> list[str]:
        with self._lock:
            dead = {d.message.channel for d in self._dead.values()}
            return sorted({m.channel for m in self._messages.values()} | dead | self._paused)

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[MessageSummary]:
        now = time.time()
        with self._lock:
            here = [m for m in self._messages.values() if m.channel in channels]
        found = (_summary(m, m.due or 0.0, _state(m, now), m.error) for m in here)
        wanted = (it for it in found if state in (None, it.state) and (after is None or it.place > after))
        return soonest(wanted, limit)

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        with self._lock:
            here = [d for d in self._dead.values() if d.message.channel in channels]
        found = (_summary(d.message, d.buried_at, "dead", d.error) for d in here)
        wanted = (
            it
            for it in found
            if error_class in (None, it.error_class) and (before is None or it.place < before)
        )
        return latest(wanted, limit)

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        with self._lock:
            here = [d for d in self._dead.values() if d.message.channel in channels]
        return sorted({error_class(d.error) for d in here})

    def get(self, channel: str, id: UUID) -> Message | None:
        with self._lock:
            found = self._messages.get(id)
        return found if found and found.channel == channel else None

    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        with self._lock:
            found = self._dead.get(id)
        return found if found and found.message.channel == channel else None


def _state(message: Message, now: float) -> State:
    if (message.due or 0.0) <= now:
        return "ready"
    return "scheduled" if message.token is None else "claimed"


def _summary(message: Message, at: float, state: State, error: str = "") -> MessageSummary:
    return MessageSummary(
        message.channel,
        message.id,
        at,
        state,
        encode(message.content)[:PREVIEW_LENGTH],
        message.attempt,
        message.losses,
        message.priority,
        message.lane,
        message.key,
        message.worker,
        error_class(error),
        error[-ERROR_LENGTH:],
    )
