"""How much a worker may claim: free slots of each channel, free threads, tokens of rates, and recycling limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..routes import Plan
from .pools import Threads
from .rate_limiter import RateLimiter
from .recycling import RecyclingLimits


class Capacity:
    """Counts the slots of each channel. Only the worker's own thread asks."""

    def __init__(
        self, layer: DurableLayer, plans: Mapping[str, Plan], threads: Threads, recycling: RecyclingLimits
    ) -> None:
        self._plans = plans
        self._threads = threads
        self._recycling = recycling
        self.rate_limiters = {c: RateLimiter(layer, c, plan.rate) for c, plan in plans.items() if plan.rate}
        self._slots = Counter({c: _concurrency(plan, layer, threads) for c, plan in plans.items()})
        self._layer = layer
        self._away: LayerUnavailable | None = None  # why a limiter could not be asked

    def is_full(self, channel: str) -> bool:
        """Do as many consumers of this channel run as may?"""
        return self._slots[channel] <= 0

    def take(self, channel: str) -> None:
        """A consumer of this channel starts."""
        self._slots[channel] -= 1

    def give_back(self, channel: str) -> None:
        """It has ended, or nobody waits for it any longer."""
        self._slots[channel] += 1

    def limits(self) -> dict[str, int]:
        """Messages that may be claimed now, per channel with room."""
        limits: dict[str, int] = {}
        self._away = None
        for channel, plan in self._plans.items():
            slots = self._slots[channel]
            if not plan.is_async:
                slots = min(slots, self._threads.free)
            room = slots * (plan.batch or 1)
            if room > 0 and channel in self.rate_limiters:
                room = self._allowed(self.rate_limiters[channel], room)
            if room > 0:
                limits[channel] = room
        return limits

    def _allowed(self, limiter: RateLimiter, room: int) -> int:
        """A bucket that is away keeps its own channel waiting, and no other."""
        try:
            return limiter.allow(room)
        except LayerUnavailable as error:
            if not self._layer.has_parts:
                raise
            self._away = error
            limiter.close()
            return 0

    def check(self) -> None:
        """Raise what kept the last ``limits`` from knowing what a rate allows."""
        if self._away is not None:
            raise self._away

    def total(self, limits: Mapping[str, int]) -> int:
        """Sync consumers share the threads; async ones and batches are bounded by their channel alone."""
        singles = [c for c in limits if not self._plans[c].is_async and not self._plans[c].batch]
        others = sum(room for c, room in limits.items() if c not in singles)
        free = others + min(self._threads.free, sum(limits[c] for c in singles))
        return int(min(free, self._recycling.left))

    def awaited(self) -> list[str]:
        """The channels that could be claimed from, were something there; those out of tokens sleep."""
        return [
            channel
            for channel, plan in self._plans.items()
            if self._slots[channel] > 0
            and (plan.is_async or self._threads.free)
            and not (channel in self.rate_limiters and self.rate_limiters[channel].wait)
        ]

    def opening_times(self) -> Iterator[float]:
        """When (time.monotonic()) the channels that are out of tokens get some."""
        return (limiter.open_at for limiter in self.rate_limiters.values() if limiter.wait)


def _concurrency(plan: Plan, layer: DurableLayer, threads: Threads) -> int:
    if layer.has_one_writer and any(route.policy.atomic for route in plan.routes):
        return 1  # a second one would only wait for the first one's transaction
    return plan.concurrency or threads.size
