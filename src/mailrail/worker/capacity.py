"""How much a worker may claim: free slots of each channel, free threads, tokens of rates, and recycling limits.

The claim loops of a worker share threads and limits. Each reserves the threads that it claims for before it claims. A
claim that is not answered soon loses them: its server may hang, and the other loops need them. What such a claim
returns in the end is given back where no thread is left for it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..messages import Message
from ..routes import Plan
from .consume import ConsumerRun
from .pools import Threads
from .rate_limiter import ChannelLimiter, limiter_of
from .recycling import RecyclingLimits

RESERVED_FOR_S = 0.05
"""Seconds that a claim keeps from other loops what it claims for. A server that is well answers in one or two
milliseconds."""


class Capacity:
    """Count what the claim loops of one worker share."""

    def __init__(
        self, layer: DurableLayer, plans: Mapping[str, Plan], threads: Threads, recycling: RecyclingLimits
    ) -> None:
        self.plans = plans
        self._layer = layer
        self.threads = threads
        self.recycling = recycling
        self.lock = threading.Lock()
        self.slots = Counter({c: _concurrency(plan, layer, threads) for c, plan in plans.items()})
        self.is_shared = False
        """Is there more than one claim loop?"""
        self._shares: list[Share] = []
        self._last: Share | None = None  # whose claim came last

    def share_of(self, layer: DurableLayer) -> Share:
        """Return the share of a new claim loop, which claims from this layer."""
        share = Share(self, layer)
        with self.lock:
            self._shares = [*self._shares, share]
            self.is_shared = len(self._shares) > 1
        return share

    def serve(self, plans: Mapping[str, Plan]) -> None:
        """Add channels to those that the worker serves."""
        with self.lock:
            self.slots.update({c: _concurrency(plan, self._layer, self.threads) for c, plan in plans.items()})
            self.plans = {**self.plans, **plans}

    def leave(self, share: Share) -> None:
        """Forget a loop that has ended."""
        with self.lock:
            self._shares = [other for other in self._shares if other is not share]
            self.is_shared = len(self._shares) > 1

    @property
    def fair(self) -> int:
        """Return the threads that a loop gets however much the others have to do."""
        return max(1, self.threads.size // max(1, len(self._shares)))

    def free_for(self, share: Share) -> int:
        """Return how many threads this loop may claim for. Call it with the lock."""
        free, others = self.threads.free, [other for other in self._shares if other is not share]
        if not others:
            return free
        since = time.monotonic() - RESERVED_FOR_S
        free -= sum(other.reserved for other in others if other.reserved_at > since)
        waiting = [other for other in others if other.is_waiting]
        beyond = free - sum(max(0, self.fair - other.held) for other in waiting)
        own = min(free, self.fair - share.held)
        if self._last is share:  # a single thread goes round
            own = min(own, free - sum(not other.held for other in waiting))
        return max(0, beyond, own)

    def reserve(self, share: Share, threads: int) -> int:
        """Take up to this many threads for a claim, until ``unreserve``. Returns how many there were."""
        if not self.is_shared:
            return min(threads, self.threads.free)
        with self.lock:
            share.reserved = min(threads, self.free_for(share))
            share.reserved_at, share.is_waiting, self._last = time.monotonic(), False, share
            return share.reserved

    def unreserve(self, share: Share) -> None:
        """The claim is over, and what it got has started."""
        share.reserved = 0
        if self.is_shared:
            self.wake_others(share)

    def wake_others(self, share: Share) -> None:
        """Wake the loops that wait for a thread."""
        for other in self._shares:
            if other is not share and other.is_waiting:
                other.layer.wake()


class Share:
    """What one claim loop may claim. ``channels``: those that its layer has now."""

    def __init__(self, capacity: Capacity, layer: DurableLayer) -> None:
        self.layer = layer
        self.channels: Collection[str] = capacity.plans  # replaced, never changed: other threads read it
        self.held = 0  # threads that run its consumers
        self.reserved = 0  # threads that its claim under way may need
        self.reserved_at = 0.0  # time.monotonic()
        self.is_waiting = False  # something is due, and no thread was free
        self._capacity = capacity
        self._limiters: dict[str, ChannelLimiter] = {}
        self._away: LayerUnavailable | None = None  # why a limiter could not be asked

    def is_full(self, channel: str) -> bool:
        """Do as many consumers of this channel run as may?"""
        return self._capacity.slots[channel] <= 0

    def take(self, run: ConsumerRun, on_thread: bool) -> None:
        """A consumer starts."""
        capacity = self._capacity
        with capacity.lock:
            capacity.slots[run.channel] -= 1
            capacity.recycling.count(len(run.messages))
            if on_thread:
                run.holds_thread = True
                self.held += 1
                capacity.threads.busy += 1

    def give_back_thread(self, run: ConsumerRun) -> None:
        """It needs its thread no longer. The thread says so itself, as the claim loop may hang just then."""
        capacity = self._capacity
        with capacity.lock:
            if not run.holds_thread:  # given back when its time was over
                return
            run.holds_thread = False
            self.held -= 1
            capacity.threads.busy -= 1
        if capacity.is_shared:
            capacity.wake_others(self)

    def leave(self) -> None:
        """The loop has ended."""
        self._capacity.leave(self)

    def give_back(self, channel: str) -> None:
        """It has ended, or nobody waits for it any longer."""
        with self._capacity.lock:
            self._capacity.slots[channel] += 1

    @property
    def limiters(self) -> Mapping[str, ChannelLimiter]:
        """Return those of the channels that have a rate or a limiter."""
        for channel in self.channels:
            if channel not in self._limiters and (
                limiter := limiter_of(self._capacity.plans[channel], self.layer)
            ):
                self._limiters[channel] = limiter
        return self._limiters

    def limits(self) -> dict[str, int]:
        """Return the messages that may be claimed now, per channel with room."""
        limits: dict[str, int] = {}
        self._away = None
        limiters = self.limiters
        free = self._capacity.reserve(self, self._capacity.threads.size)
        for channel in self.channels:
            plan = self._capacity.plans[channel]
            slots = self._capacity.slots[channel]
            if not plan.is_async:
                slots = min(slots, free)
            room = slots * (plan.batch or 1)
            if room > 0 and channel in limiters:
                room = self._allowed(limiters[channel], room)
            if room > 0:
                limits[channel] = room
        return limits

    def _allowed(self, limiter: ChannelLimiter, room: int) -> int:
        """A bucket that is away keeps its own channel waiting, and no other."""
        try:
            return limiter.allow(room)
        except LayerUnavailable as error:
            if not self.layer.is_sharded:
                raise
            self._away = error
            limiter.close()
            return 0

    def check(self) -> None:
        """Raise what kept the last ``limits`` from knowing what a rate allows."""
        if self._away is not None:
            raise self._away

    def total(self, limits: Mapping[str, int]) -> int:
        """Return how many messages may be claimed in all, and reserve the threads for them.

        Sync consumers share the threads; async ones and batches are bounded by their channel alone.
        """
        singles = sum(limits[c] for c in limits if self._is_single(c))
        others = sum(limits.values()) - singles
        has_sync = any(not self._capacity.plans[c].is_async for c in limits)
        reserved = self._capacity.reserve(self, self._capacity.threads.size if has_sync else 0)
        return int(min(others + min(reserved, singles), self._capacity.recycling.left))

    def over(self, claims: Sequence[Message]) -> list[Message]:
        """Return the claims that may not start, as other loops have taken what they were claimed for.

        That is so where they came late, where their channel has just moved to another shard, and near a limit.
        """
        capacity = self._capacity
        if not capacity.is_shared:
            return []
        is_late = time.monotonic() - self.reserved_at > RESERVED_FOR_S
        with capacity.lock:
            threads = capacity.free_for(self) if is_late else len(claims)
            slots, left = capacity.slots.copy(), capacity.recycling.left
        over: list[Message] = []
        for claim in claims:
            takes_thread = self._is_single(claim.channel)
            slot = 0 if self._capacity.plans[claim.channel].batch else 1
            if left <= 0 or slots[claim.channel] < slot or (takes_thread and threads <= 0):
                over.append(claim)
                continue
            left, threads = left - 1, threads - takes_thread
            slots[claim.channel] -= slot
        return over

    def _is_single(self, channel: str) -> bool:
        return not self._capacity.plans[channel].is_async and not self._capacity.plans[channel].batch

    def done(self) -> None:
        """The claim is over, and what it got has started."""
        self._capacity.unreserve(self)

    def look(self) -> None:
        """Where no thread is free: wait for one if something is due, so that other loops leave some of theirs."""
        if not self._capacity.is_shared:
            return
        waiting = [c for c in self.channels if not self._capacity.plans[c].is_async and self._is_open(c)]
        with self._capacity.lock:
            may_get_one = self.held < self._capacity.fair or self._capacity.threads.free > 0
            may_wait = may_get_one and not self._capacity.free_for(self)
        self.is_waiting = bool(waiting) and may_wait and self.layer.poll(waiting) == 0

    def _is_open(self, channel: str) -> bool:
        limiter = self._limiters.get(channel)
        return self._capacity.slots[channel] > 0 and not (limiter and limiter.wait)

    def drainable(self) -> list[str]:
        """Return the channels that ``drain`` waits for: not those whose limiter lets nothing start yet."""
        limiters = self._limiters
        return [c for c in self.channels if c not in limiters or not limiters[c].defers]

    def awaited(self) -> list[str]:
        """Return the channels that could be claimed from, were something there; those out of tokens sleep."""
        with self._capacity.lock:
            free = self._capacity.free_for(self)
        if self._capacity.is_shared and not self.is_waiting and self.held < self._capacity.fair:
            free = 1  # it will be, as others leave it a thread once something is due
        return [c for c in self.channels if self._is_open(c) and (self._capacity.plans[c].is_async or free)]

    def opening_times(self) -> Iterator[float]:
        """When (time.monotonic()) the channels that are out of tokens get some."""
        return (limiter.open_at for limiter in self._limiters.values() if limiter.wait)


def _concurrency(plan: Plan, layer: DurableLayer, threads: Threads) -> int:
    if layer.has_one_writer and any(route.policy.atomic for route in plan.routes):
        return 1  # a second one would only wait for the first one's transaction
    return plan.concurrency or threads.size
