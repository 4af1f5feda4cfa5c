"""Claims whose answer never came: the connection broke after the server had done its part, perhaps.

Their messages are leased to us, and nobody works on them. Left alone they would lapse, and count as a loss. Each claim
has a token made here, so they can be found again. What such a call has dropped as expired is told by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..messages import Message
from .store import ClaimCall, ClaimName

RECOVERY_INTERVAL_S = 0.5
"""Seconds between looks: the server may still be at work on the statement when we are back."""
REPLY_GRACE_S = 15.0
"""Seconds that a call may come late: a server that stood still does what it has been sent once it goes on."""


@dataclass
class _Call:
    worker: str
    token: int
    lease: float
    channels: set[str]  # that it may yet claim from, as their server has not answered since
    until: float  # time.monotonic() after which its leases have lapsed in any case, if all have answered
    finished: frozenset[ClaimName]


@dataclass
class UnconfirmedClaims:
    """The calls of this process whose reply was lost."""

    calls: list[_Call] = field(default_factory=list)
    _looked_at: dict[str, float] = field(default_factory=dict)
    _expired: dict[str, list[Message]] = field(default_factory=dict)

    def note(self, call: ClaimCall) -> None:
        """Remember the parts of a call that failed, and of which nobody knows whether the server has done them.

        So long nobody else has what they may have claimed, nor what they were to finish.
        """
        for token, lease, finished, channels in call.unconfirmed:
            names = frozenset((message.id, message.token) for message in finished)
            until = time.monotonic() + lease
            self.calls.append(_Call(call.worker, token, lease, set(channels), until, names))
            self._looked_at.pop(call.worker, None)

    def keep_expired(self, call: ClaimCall) -> None:
        """Keep what a call that failed has dropped for certain."""
        self._expired.setdefault(call.worker, []).extend(call.expired)

    def tokens(self, worker: str) -> list[int]:
        """The tokens to look for now."""
        now = time.monotonic()
        self.calls = [call for call in self.calls if call.channels or call.until > now]
        if now - self._looked_at.get(worker, 0.0) < RECOVERY_INTERVAL_S:
            return []
        self._looked_at[worker] = now
        return [call.token for call in self.calls if call.worker == worker]

    def confirmed(self, worker: str, channels: Iterable[str]) -> None:
        """The server of these channels answers: it has done what it was sent before, or does so very soon."""
        until = time.monotonic() + REPLY_GRACE_S
        for call in self.calls:
            if call.worker == worker and call.channels:
                call.channels.difference_update(channels)
                call.until = until + call.lease

    def take_expired(self, worker: str) -> list[Message]:
        """What the failed calls of this worker have dropped, once."""
        return self._expired.pop(worker, [])

    def may_have_finished(self, lost: Sequence[Message]) -> list[Message]:
        """Those that one of the calls was to finish: they may be gone because it did."""
        names = {name for call in self.calls for name in call.finished}
        return [message for message in lost if (message.id, message.token) in names]
