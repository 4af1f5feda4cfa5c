"""``rate`` on a route: how many messages of a channel may start, over all workers."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..layers import DurableLayer
from ..messages import Message, Rate

LONGEST_CLOSED = 5.0
"""Seconds after which an empty bucket is tried again in any case: somebody may have given tokens back."""
CLOSED_FOR = 1.0
"""Seconds until a bucket that could not be reached is tried again."""


class RateLimiter:
    """Takes tokens before claiming while there is a backlog, and none while there is nothing to claim.

    An idle worker that took tokens for every look would drain the bucket, or write all the time to give them back.
    So it looks for one message without a token, takes the token when it found one, and releases it if there is none.
    """

    def __init__(self, layer: DurableLayer, channel: str, rate: Rate) -> None:
        self._layer = layer
        self.channel = channel
        self._bucket = f"channel:{channel}"
        self._rate = rate
        self._open_at = 0.0  # time.monotonic() before which there are no tokens
        self._backlog = False
        self._taken = 0

    @property
    def open_at(self) -> float:
        return self._open_at

    def allow(self, capacity: int) -> int:
        """How many may be claimed now, of ``capacity`` wanted."""
        if capacity <= 0 or time.monotonic() < self._open_at:
            return 0
        if not self._backlog:
            return 1
        self._taken = self._take(capacity)
        return self._taken

    def close(self) -> None:
        """Its bucket cannot be asked just now."""
        self._open_at = time.monotonic() + CLOSED_FOR

    def reconcile_tokens(self, claims: Sequence[Message]) -> list[Message]:
        """Square tokens with what was claimed. Returns the claims that must be released again."""
        if self._taken:
            unused, self._taken = self._taken - len(claims), 0
            if unused:
                self._layer.take(self._bucket, -unused, self._rate)
            self._backlog = unused == 0
            return []
        if not claims:
            return []
        granted = self._take(len(claims))
        self._backlog = True
        return list(claims[granted:])

    @property
    def wait(self) -> float:
        """Seconds until there are tokens again."""
        return max(0.0, self._open_at - time.monotonic())

    def _take(self, n: int) -> int:
        granted, retry_after = self._layer.take(self._bucket, n, self._rate)
        if granted <= 0 < n:
            self._open_at = time.monotonic() + min(retry_after, LONGEST_CLOSED)
        return granted
