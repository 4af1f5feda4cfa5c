"""How much a worker may claim: free slots of each channel, free threads, tokens of rates, and recycling limits.

The claim loops of a worker share threads and limits. Each reserves the threads that it claims for before it claims. A
claim that is not answered soon loses them: its server may hang, and the other loops need them. What such a claim
returns in the end is given back where no thread is left for it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from ..errors import LayerUnavailable
from ..layers import DurableLayer
from ..messages import Message
from ..routes import Plan
from ..transient import OUTAGES
from .consume import ConsumerRun
from .outcomes import Outcome, OutcomeKind
from .rate_limiter import CLOSED_FOR, ChannelLimiter, limiter_of
from .recycling import RecyclingLimits
from .threads import Threads

RESERVED_FOR_S = 0.05
"""Seconds that a claim keeps from other loops what it claims for. A server that is well answers in one or two
milliseconds."""
WAITS_FOR = 4
"""For so many times as long, a loop that waits for a thread has one left for it. It looks again each time."""

Refusal = tuple[Message, Outcome]


class Capacity:
    """Count what the claim loops of one worker share."""

    def __init__(
        self,
        layer: DurableLayer,
        plans: Mapping[str, Plan],
        threads: Threads,
        recycling: RecyclingLimits | None = None,
    ) -> None:
        self.plans = plans
        self.leases = {channel: plan.lease for channel, plan in plans.items()}
        """Seconds by channel. Like the plans, replaced and never changed, as other threads read it."""
        self.threads = threads
        self.recycling = recycling
        self.lock = threading.Lock()
        self._layer = layer
        self.slots = Counter({c: _concurrency(plan, layer, threads) for c, plan in plans.items()})
        self.is_shared = False
        """Is there more than one claim loop?"""
        self._shares: list[Share] = []

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
            self.leases = {**self.leases, **{c: plan.lease for c, plan in plans.items()}}
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
        """Return how many threads this loop may claim for. Call it with the lock.

        A loop that waits and has no thread goes before those that have claimed since it last did.
        """
        free = self.threads.size - self.threads.busy
        if not self.is_shared:
            return max(0, free)
        others = [other for other in self._shares if other is not share]
        since = time.monotonic() - RESERVED_FOR_S
        free -= sum(other.reserved for other in others if other.reserved_at > since)
        waiting = [other for other in others if other.is_waiting]
        beyond = free - sum(max(0, self.fair - other.held) for other in waiting)
        first = sum(not other.held and other.claimed_at < share.claimed_at for other in waiting)
        return max(0, beyond, min(free - first, self.fair - share.held))

    def wake_others(self, share: Share) -> None:
        """Wake the loops that wait for a thread."""
        for other in self._shares:
            if other is not share and other.is_waiting:
                other.layer.wake()


class Share:
    """What one claim loop may claim. ``channels``: those that its layer has now; ``serve`` replaces them."""

    def __init__(self, capacity: Capacity, layer: DurableLayer) -> None:
        self.layer = layer
        self.channels: Collection[str] = ()  # replaced, never changed: other threads read it
        self.held = 0  # threads that run its consumers
        self.reserved = 0  # threads that its claim under way may need
        self.reserved_at = 0.0  # time.monotonic()
        self.claimed_at = 0.0  # time.monotonic() when it last reserved threads for a claim
        self._waits_until = 0.0  # time.monotonic()
        self._capacity = capacity
        self.limiters: dict[str, ChannelLimiter] = {}  # of the channels that have a rate or a limiter
        self._has_asked = False  # limiters, and has not told them yet what was claimed
        self._has_new = False  # channels whose limiters are not made yet: that may fail, and is tried again
        self.serve(capacity.plans)

    def serve(self, channels: Collection[str]) -> None:
        """Claim from these channels from now on."""
        has_changed = set(channels) != set(self.channels)
        self.channels = channels
        if has_changed:
            self._has_new = True
            self.layer.wake()

    def _make_limiters(self) -> None:
        self._has_new = False  # first, as another thread may serve more meanwhile
        try:
            for channel in self.channels:
                plan = self._capacity.plans[channel]
                if channel not in self.limiters and (limiter := limiter_of(plan, self.layer)):
                    self.limiters[channel] = limiter
        except Exception:
            self._has_new = True
            raise

    # -- what runs ----------------------------------------------------------------------------------------------

    def occupy(self, run: ConsumerRun) -> None:
        """A consumer starts."""
        capacity = self._capacity
        with capacity.lock:
            capacity.slots[run.channel] -= 1
            if capacity.recycling is not None:
                capacity.recycling.count(len(run.messages))
            if run.route.policy.isolate or not (run.is_isolated or run.route.is_async):
                run.holds_thread = True
                self.held += 1
                capacity.threads.busy += 1

    def free(self, run: ConsumerRun, slot: bool = True) -> None:
        """A consumer has ended, or nobody waits for it any longer: its thread is free, and with ``slot`` its slot."""
        capacity = self._capacity
        with capacity.lock:
            capacity.slots[run.channel] += slot
            if is_free := run.holds_thread:  # else it was freed before
                run.holds_thread = False
                self.held -= 1
                capacity.threads.busy -= 1
        if is_free and capacity.is_shared:
            capacity.wake_others(self)

    # -- claiming -----------------------------------------------------------------------------------------------

    def room(self) -> tuple[dict[str, int], int]:
        """Return how many messages may be claimed now, per channel with room and in all. Reserve threads for them.

        Sync consumers share the threads; async ones and batches are bounded by their channel alone. Raises what keeps
        the only channels with room from being asked for the tokens of their rates. Call ``reconcile_unclaimed`` if no
        claim follows; the next call of ``room`` does.
        """
        if self._has_asked:
            self.reconcile_unclaimed()
        if self._has_new:
            self._make_limiters()
        self._has_asked = bool(self.limiters)
        try:
            limits, total = self._room()
        except Exception:
            self.reconcile_unclaimed()
            raise
        if total > 0:
            return limits, total
        self.reconcile_unclaimed()
        return {}, 0

    def _room(self) -> tuple[dict[str, int], int]:
        capacity = self._capacity
        free = self._reserve(capacity.threads.size)
        limits, singles, wanted = dict[str, int](), 0, 0
        error: LayerUnavailable | None = None
        for channel in self.channels:
            plan = self._capacity.plans[channel]
            slots = capacity.slots[channel] if plan.is_async else min(capacity.slots[channel], free)
            room = slots * (plan.batch or 1)
            if room > 0 and (limiter := self.limiters.get(channel)) is not None:
                try:
                    room = limiter.allow(room)
                except LayerUnavailable as failure:  # its bucket's channel waits, and no other
                    limiter.close()
                    room, error = 0, error or failure
            if room > 0:
                limits[channel] = room
                singles += room if plan.takes_thread else 0
                wanted += 0 if plan.is_async else slots
        if error is not None and not limits:
            raise error
        threads = self._reserve(wanted, is_claim=True)
        total = sum(limits.values()) - singles + min(threads, singles)
        if capacity.recycling is not None:
            total = int(min(total, capacity.recycling.left))
        return limits, total

    def reconcile_unclaimed(self) -> None:
        """Tell limiters that were asked before a claim that failed, or was not made, so that they hold no token."""
        if self._has_asked:
            self._has_asked = False
            for limiter in self.limiters.values():
                limiter.reconcile(())

    def _reserve(self, threads: int, is_claim: bool = False) -> int:
        """Take up to this many threads for a claim, until ``done``. Returns how many there were."""
        capacity = self._capacity
        with capacity.lock:
            free = (
                capacity.free_for(self)
                if capacity.is_shared
                else capacity.threads.size - capacity.threads.busy
            )
            self.reserved = min(threads, max(0, free))
            self.reserved_at, self._waits_until = time.monotonic(), 0.0
            if is_claim and self.reserved:
                self.claimed_at = self.reserved_at
            return self.reserved

    def done(self) -> None:
        """The claim is over, and what it got has started."""
        self.reserved = 0
        if self._capacity.is_shared:
            self._capacity.wake_others(self)

    def admit(
        self, claims: Sequence[Message], refuse: Callable[[Message, Outcome], None]
    ) -> Sequence[Message]:
        """Return the claims that may start; refuse those that their channel's rate, or the threads, do not allow."""
        refusals: list[Refusal] = []
        for limiter in self.limiters.values():
            own = [claim for claim in claims if claim.channel == limiter.channel]
            try:
                over = limiter.reconcile(own)
            except OUTAGES:  # others may know what its rate allows
                limiter.close()
                over, reason, delay = own, "its channel's rate cannot be asked just now", 0.0
            else:
                reason = "its channel's rate or limiter allows no more"
                delay = CLOSED_FOR  # the channel is closed, and may be opened before
            if over:
                delay = min(delay, max(0.0, limiter.open_at - time.monotonic()))
                refusals += [(claim, Outcome(OutcomeKind.RELEASED, reason, delay)) for claim in over]
        self._has_asked = False
        if self._capacity.is_shared:
            refused = {claim.id for claim, _ in refusals}
            refusals += self._too_late([claim for claim in claims if claim.id not in refused])
        if not refusals:
            return claims
        for claim, outcome in refusals:
            refuse(claim, outcome)
        refused = {claim.id for claim, _ in refusals}
        return [claim for claim in claims if claim.id not in refused]

    def _too_late(self, claims: Sequence[Message]) -> list[Refusal]:
        """Return the claims for which other loops have taken the place.

        That is so where they came late, where their channel has just moved to another shard, and near a limit.
        """
        capacity = self._capacity
        is_late = time.monotonic() - self.reserved_at > RESERVED_FOR_S
        with capacity.lock:
            threads = capacity.free_for(self) if is_late else len(claims)
            slots = capacity.slots.copy()
            left = len(claims) if capacity.recycling is None else capacity.recycling.left
        outcome = Outcome(OutcomeKind.RELEASED, "its server took long, and no thread is left")
        refusals: list[Refusal] = []
        for claim in claims:
            plan = self._capacity.plans[claim.channel]
            slot = 0 if plan.batch else 1
            if left <= 0 or slots[claim.channel] < slot or (plan.takes_thread and threads <= 0):
                refusals.append((claim, outcome))
                continue
            left, threads = left - 1, threads - plan.takes_thread
            slots[claim.channel] -= slot
        return refusals

    # -- waiting ------------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Is something due, and no thread free for it? No longer after a while without a look: the server hangs."""
        return time.monotonic() < self._waits_until

    def drainable(self) -> list[str]:
        """Return the channels that ``drain`` waits for: not those whose limiter lets nothing start yet."""
        limiters = self.limiters
        return [c for c in self.channels if c not in limiters or not limiters[c].defers]

    def awaited(self) -> tuple[list[str], float]:
        """Return the channels that could be claimed from, were something there, and until when (time.monotonic())."""
        with self._capacity.lock:
            free = self._capacity.free_for(self)
        now = time.monotonic()
        moments = [at for limiter in self.limiters.values() if (at := limiter.open_at) > now]
        if self._capacity.is_shared and not free:
            if self._wait_for_thread():
                # Nobody tells when a reservation has lapsed.
                moments.append(now + RESERVED_FOR_S)
            else:
                free = self.held < self._capacity.fair  # one is left to it once something is due
        channels = [
            c for c in self.channels if (self._capacity.plans[c].is_async or free) and self._is_open(c)
        ]
        return channels, min(moments, default=float("inf"))

    def _wait_for_thread(self) -> bool:
        """Wait for a thread if something is due, so that other loops leave some of theirs. Tell whether it waits."""
        threads = self._capacity.threads
        channels = [c for c in self.channels if not self._capacity.plans[c].is_async and self._is_open(c)]
        may_get_one = self.held < self._capacity.fair or threads.busy < threads.size
        is_due = bool(channels) and may_get_one and self.layer.poll(channels) == 0
        self._waits_until = time.monotonic() + WAITS_FOR * RESERVED_FOR_S if is_due else 0.0
        return is_due

    def stop_waiting(self) -> None:
        """Its server is away: the other loops need the threads."""
        self._waits_until = 0.0

    def _is_open(self, channel: str) -> bool:
        limiter = self.limiters.get(channel)
        return self._capacity.slots[channel] > 0 and not (limiter and limiter.open_at > time.monotonic())


def _concurrency(plan: Plan, layer: DurableLayer, threads: Threads) -> int:
    if layer.has_one_writer and any(route.policy.atomic for route in plan.routes):
        return 1  # a second one would only wait for the first one's transaction
    return plan.concurrency or threads.size
