"""Claims whose answer never came: the connection broke after the server had done its part, perhaps.

Their messages are leased to us, and nobody works on them. Left alone they would lapse, and count as a loss. Each claim
has a token made here, so they can be found again. What such a call has dropped as expired is told by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ..messages import Message

LOOK_EVERY = 0.5
"""Seconds between looks: the server may still be at work on the statement when we are back."""


@dataclass
class _Call:
    worker: str
    token: int
    until: float  # time.monotonic() after which its leases have lapsed in any case
    finished: frozenset[tuple[UUID, int | None]]


@dataclass
class Unanswered:
    """The open calls of this process."""

    _calls: list[_Call] = field(default_factory=list)
    _looked_at: dict[str, float] = field(default_factory=dict)
    _expired: dict[str, list[Message]] = field(default_factory=dict)

    def note(
        self,
        worker: str,
        token: int,
        longest_lease: float,
        finished: Iterable[Message],
        expired: Iterable[Message] = (),
    ) -> None:
        """This call failed, and nobody knows where. ``expired``: what it has dropped for certain.

        ``longest_lease``: of what it may have claimed, and of what it was to finish: so long nobody else has that.
        """
        self._expired.setdefault(worker, []).extend(expired)
        names = frozenset((message.id, message.token) for message in finished)
        self._calls.append(_Call(worker, token, time.monotonic() + longest_lease, names))
        self._looked_at.pop(worker, None)

    def tokens(self, worker: str) -> list[int]:
        """The tokens to look for now."""
        if not self._calls:
            return []
        now = time.monotonic()
        self._calls = [call for call in self._calls if call.until > now]
        if now - self._looked_at.get(worker, 0.0) < LOOK_EVERY:
            return []
        self._looked_at[worker] = now
        return [call.token for call in self._calls if call.worker == worker]

    def take_expired(self, worker: str) -> list[Message]:
        """What the failed calls of this worker have dropped, once."""
        return self._expired.pop(worker, [])

    def may_have_finished(self, lost: Sequence[Message]) -> list[Message]:
        """Those that one of the calls was to finish: they may be gone because it did."""
        names = {name for call in self._calls for name in call.finished}
        return [message for message in lost if (message.id, message.token) in names]
