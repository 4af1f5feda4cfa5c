"""What keeps messages of a channel from starting: its ``rate``, over all workers, and its ``limiter``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from ..layers import DurableLayer
from ..limiters import Allowance, Limiter
from ..messages import Message, Rate
from ..routes import Plan
from ..transient import OUTAGES, is_outage
from .connections import close_connections
from .log import logger

LONGEST_CLOSED = 5.0
"""Seconds after which an empty bucket is tried again in any case: somebody may have given tokens back."""
CLOSED_FOR = 1.0
"""Seconds until a bucket that could not be reached, or a limiter that raised, is tried again."""
SHORTEST_CLOSED = 0.01
"""Seconds that a limiter is left alone after it has allowed nothing, so that no answer makes the worker spin."""


class RateLimiter(Limiter):
    """Takes tokens before claiming while there is a backlog, and none while there is nothing to claim.

    An idle worker that took tokens for every look would drain the bucket, or write all the time to give them back.
    So it looks for one message without a token, takes the token when it found one, and releases it if there is none.
    """

    def __init__(self, channel: str, layer: DurableLayer, rate: Rate) -> None:
        super().__init__(channel, layer)
        self._bucket = f"channel:{channel}"
        self._rate = rate
        self._backlog = False
        self._taken = 0

    def allow(self, wanted: int) -> Allowance:
        """Take tokens, while there is a backlog."""
        if not self._backlog:
            return Allowance(1)
        self._taken, retry_after = self._take(wanted)
        return Allowance(self._taken, min(retry_after, LONGEST_CLOSED))

    def claimed(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Square tokens with what was claimed."""
        if self._taken:
            unused, self._taken = self._taken - len(messages), 0
            if unused:
                with suppress(*OUTAGES):  # then they are lost, and the bucket fills up again
                    self.layer.take(self._bucket, -unused, self._rate)
            self._backlog = unused == 0
            return ()
        if not messages:
            return ()
        granted, retry_after = self._take(len(messages))
        if granted <= 0:
            self.open_at = time.monotonic() + min(retry_after, LONGEST_CLOSED)
        self._backlog = True
        return messages[granted:]

    def _take(self, n: int) -> tuple[int, float]:
        granted, retry_after = self.layer.take(self._bucket, n, self._rate)
        return max(0, granted), retry_after


class UnmadeLimiter(Limiter):
    """Stand in for a limiter of the project until it can be made: its own code may fail, as that of ``allow`` may."""

    def __init__(self, plan: Plan, layer: DurableLayer) -> None:
        super().__init__(plan.channel, layer)
        self._factory = plan.limiter

    def make(self) -> Limiter:
        """Return the project's limiter. Raises whatever its code raises."""
        assert self._factory is not None
        return self._factory(self.channel, self.layer)


class ChannelLimiter:
    """The limiters of one channel. Before a claim the loop asks each of them, and then tells it what was claimed."""

    def __init__(self, channel: str, limiters: Sequence[Limiter]) -> None:
        self.channel = channel
        self._limiters = [*limiters]
        self._asked: list[Limiter] = []
        self._is_told = False  # the error of the project's limiter was logged

    @property
    def open_at(self) -> float:
        """When (time.monotonic()) messages may start again."""
        return max([limiter.open_at for limiter in self._limiters])

    @property
    def defers(self) -> bool:
        """Does a limiter of the project say that nothing may start yet? For ``drain``, nothing is due then."""
        now = time.monotonic()
        return any(
            limiter.open_at > now for limiter in self._limiters if not isinstance(limiter, RateLimiter)
        )

    def allow(self, capacity: int) -> int:
        """How many may be claimed now, of ``capacity`` wanted. Call ``reconcile`` then, whatever comes of the claim."""
        self._asked = []
        if self.open_at > time.monotonic():
            return 0
        for n, limiter in enumerate(self._limiters):
            if capacity <= 0:
                break
            try:
                if isinstance(limiter, UnmadeLimiter):
                    limiter = self._limiters[n] = limiter.make()
                self._asked.append(limiter)
                before = limiter.times_reopened
                count, wait = limiter.allow(capacity)
                if count <= 0:
                    limiter.open_at = time.monotonic() + max(SHORTEST_CLOSED, wait)
                    # Compared after the write, so that no ``reopen`` is lost.
                    if limiter.times_reopened != before:
                        limiter.open_at = 0.0
                if not isinstance(limiter, RateLimiter):
                    self._is_told = False
                capacity = min(capacity, int(count))
            except Exception as error:
                self._fail(limiter, error)
                capacity = 0
        if capacity <= 0:
            self.reconcile(())
        return capacity

    def reconcile(self, claims: Sequence[Message]) -> list[Message]:
        """Tell the limiters that were asked what was claimed. Returns the claims that must be released again."""
        left, over = list(claims), list[Message]()
        asked, self._asked = self._asked, []
        for limiter in asked:
            try:
                refused = limiter.claimed(left)
            except Exception as error:
                self._fail(limiter, error)
                refused = left
            if refused:
                ids = {message.id for message in refused}
                over += [claim for claim in left if claim.id in ids]
                left = [claim for claim in left if claim.id not in ids]
        return over

    def _fail(self, limiter: Limiter, error: Exception) -> None:
        """Close the channel for a while. An error of a project's limiter keeps no other channel waiting."""
        if isinstance(limiter, RateLimiter):
            raise error  # of the layer itself: the claim loop waits for it
        limiter.open_at = time.monotonic() + CLOSED_FOR
        if is_outage(error):
            close_connections()  # of this thread: one is broken
        if not self._is_told:
            self._is_told = True
            text = "the limiter of channel %s failed, so its messages wait: %s"
            if is_outage(error):
                logger.warning(text, self.channel, error)
            else:
                logger.error(text, self.channel, error, exc_info=error)

    def close(self) -> None:
        """Its bucket cannot be asked just now."""
        for limiter in self._limiters:
            limiter.open_at = max(limiter.open_at, time.monotonic() + CLOSED_FOR)


def limiter_of(plan: Plan, layer: DurableLayer) -> ChannelLimiter | None:
    """Return what keeps messages of a channel from starting, if it has a rate or a limiter."""
    limiters: list[Limiter] = [] if plan.limiter is None else [UnmadeLimiter(plan, layer)]
    if plan.rate is not None:
        limiters.append(RateLimiter(plan.channel, layer, plan.rate))
    return ChannelLimiter(plan.channel, limiters) if limiters else None
