"""The claim loop of one server: claim, consume, settle, until the worker is told to stop.

A worker has one for each shard of its layer. Its thread talks to that shard only; consumers run in the pools that all
loops share; another thread keeps its leases alive. What consumers did comes back through ``_ended``.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..conf import settings
from ..layers import DurableLayer
from ..messages import Claimed, Content, Message
from ..routes import Plan, Route
from .capacity import RESERVED_FOR_S
from .connections import close_connections, own_connection
from .consume import ConsumerRun
from .events import log_outcome
from .incoming import IncomingMessage
from .leases import OUTAGES, LeaseKeeper, is_outage
from .log import logger
from .outages import Outages
from .outcomes import Outcome, OutcomeKind
from .prechecks import precheck
from .rate_limiter import ChannelLimiter
from .settle import Settler
from .shared import Shared

LONGEST_WAIT = 1.0
"""Seconds an idle loop sleeps at most without a look."""
DRAIN_WAIT = 0.05
"""The same for one that waits for the others, to end when nothing is due on any server."""
LONGEST_PAUSE = 0.005
"""Seconds a busy loop waits at most for more consumers to end before it talks to the layer again."""
NOT_STARTED_FOR = 1.0
"""Seconds until a message is due again for which no process of its own could be started."""


class ClaimLoop:
    """Claims the channels that a shard has. ``adopted``: run these claims first. ``beats``: its ``LeaseKeeper``'s."""

    def __init__(
        self,
        shared: Shared,
        layer: DurableLayer,
        adopted: Sequence[Message] = (),
        describe: Callable[[], Content] | None = None,
    ) -> None:
        self.layer = layer
        self.share = shared.capacity.share_of(layer)
        self.dry_at = 0.0  # time.monotonic() when it began to look, and found nothing due
        self._shared = shared
        self._adopted = list(adopted)
        self._leases = {channel: plan.lease for channel, plan in shared.plans.items()}
        self._keeper = LeaseKeeper(layer, shared.worker, self._leases, describe)
        self._settler = Settler(layer, self._keeper)
        self._running: set[ConsumerRun] = set()
        self._held: deque[ConsumerRun] = deque()  # while their channel has no slot, so something of it runs
        self._ended: deque[ConsumerRun | IncomingMessage] = deque()
        self._all_ended = threading.Event()
        self._is_ending = False  # it settles what is left, and claims nothing more
        self._is_told = False  # that something has ended, since it last looked
        self._pace = 0.0  # seconds the last claim took
        self._outages = Outages(shared.stopping, layer.is_sharded)

    @property
    def running(self) -> int:
        """Return how many runs run."""
        return len(self._running)

    def serve(self, plans: Mapping[str, Plan], *, has_all: bool) -> None:
        """Take further channels, which the worker has found. ``has_all``: the loop claims from all of them."""
        self._leases = {**self._leases, **{channel: plan.lease for channel, plan in plans.items()}}
        self._keeper.lease(self._leases)
        if has_all:
            self.share.channels = [*self.share.channels, *plans]

    def run(self) -> None:
        """Work until the worker stops (or is drained), then wait for what runs and release the rest."""
        with own_connection(self.layer):
            self._keeper.start()
            try:
                while not self._is_over():
                    self._round()
                    self._recycle_if_due()
                self._shut_down()
            finally:
                self._keeper.stop()
                self.layer.stop_listening()
                self.share.leave()
                close_connections()

    @property
    def _may_claim(self) -> bool:
        return self._shared.is_claiming and not self._is_ending and not self._shared.stopping.is_set()

    def _is_over(self) -> bool:
        shared = self._shared
        is_idle = not self._running and not self._adopted and not self._settler.has_work
        has_moved = not self.share.channels  # all to other shards
        return shared.stopping.is_set() or (
            is_idle and (has_moved or (shared.drain and not shared.is_claiming))
        )

    # -- claim, consume, settle ---------------------------------------------------------------------------------

    def _round(self) -> None:
        seen = self.layer.wakes
        try:
            self._collect()
            try:
                claims = self._claim()
                self._consume(claims)
            finally:
                self.share.done()
            if not claims and not self._ended:
                self._check()
                self._wait(seen)
            self._let_more_end()
            self._outages.over()
        except (
            Exception
        ) as error:  # a fault of ours or of a layer must not end what runs: it is told, and tried again
            self.share.is_waiting = False  # its server is away: the other loops need the threads
            self._outages.wait(error, self._shared.stop_at)

    def _collect(self) -> None:
        """Settle what consumers have ended since the last look, and what ran too long."""
        self._give_up_overdue()
        self._all_ended.clear()
        self._is_told = False  # before the look: what ends after that has to tell anew
        if self._ended:
            self._shared.worked_at = time.monotonic()
        while self._ended:
            ended = self._ended.popleft()
            if isinstance(ended, IncomingMessage):
                self._settler.add(ended)
            else:
                self._end(ended)
        for channel in {run.channel for run in self._held}:  # another loop may have freed a slot
            if not self.share.is_full(channel):
                self._start_held(channel)
        self._settler.settle()

    def _claim(self) -> list[Message]:
        """Claim for the free slots; what is finished is settled on the way."""
        if self._adopted:
            claims, self._adopted = self._adopted, []
            self._keeper.keep(claims)
            return claims
        limits = self.share.limits() if self._may_claim else {}
        finished = self._settler.finished
        if not limits and not finished:
            return []
        since = self._keeper.catch_up()
        begun = time.monotonic()
        total = self.share.total(limits)
        try:
            claimed = self.layer.claim(
                self._shared.worker, limits, self._leases, [m.claim for m in finished], total
            )
        except Exception as error:
            self._settler.finish_apart(error)
            raise
        self._pace = time.monotonic() - begun
        if claimed.claims:
            self._shared.worked_at = time.monotonic()
        self._keeper.keep(claimed.claims, since)  # first: receivers of signals may take their time
        self._settler.finished_by_claim(claimed)
        return self._admit(claimed)

    def _check(self) -> None:
        """Raise for a channel that cannot be reached, when there is nothing to do on the others."""
        self._settler.check()
        self.share.check()

    def _admit(self, claimed: Claimed) -> list[Message]:
        """Report what expired, and give back what its channel's rate, or the threads, do not allow."""
        for message in claimed.expired:
            log_outcome(
                IncomingMessage(message),
                Outcome(OutcomeKind.EXPIRED, "its time was over while it waited for a run"),
            )
        limiters = self.share.limiters.values()
        refused = {m.id for limiter in limiters for m in self._over_limit(limiter, claimed.claims)}
        claims = [message for message in claimed.claims if message.id not in refused]
        for late in self.share.over(claims):
            refused.add(late.id)
            self._settler.decide(
                late, Outcome(OutcomeKind.RELEASED, "its server took long, and no thread is left")
            )
        return [message for message in claimed.claims if message.id not in refused]

    def _over_limit(self, limiter: ChannelLimiter, claims: Sequence[Message]) -> list[Message]:
        mine = [claim for claim in claims if claim.channel == limiter.channel]
        try:
            over = limiter.reconcile(mine)
        except OUTAGES:
            over = mine  # whoever looks next will know
        for claim in over:
            self._settler.decide(
                claim,
                Outcome(OutcomeKind.RELEASED, "its channel's rate or limiter allows no more", limiter.wait),
            )
        return over

    def _consume(self, claims: Sequence[Message]) -> None:
        """Hand each claim, or each batch of them, to its consumer."""
        batches: dict[Route, list[IncomingMessage]] = {}
        for claim in claims:
            plan = self._shared.plans[claim.channel]
            found = precheck(claim, plan, plan.lease)
            if isinstance(found, Outcome):
                self._settler.decide(claim, found)
                continue
            route, arguments = found
            if plan.batch is None:
                self._start(ConsumerRun(route, [IncomingMessage(claim, route)], arguments))
            elif claim.alone or plan.is_suspect(claim):
                self._start_or_hold(
                    ConsumerRun(route, [IncomingMessage(claim, route, self._ended_early)], {})
                )
            else:
                batches.setdefault(route, []).append(IncomingMessage(claim, route, self._ended_early))
        for route, messages in batches.items():
            for part in _parts(messages, route.policy.batch or 1):
                self._start_or_hold(ConsumerRun(route, part, {}))

    def _start_or_hold(self, run: ConsumerRun) -> None:
        """Messages of one batch may have to run apart: they wait for each other, for there are no slots for so many."""
        if self.share.is_full(run.channel):
            self._held.append(run)
        else:
            self._start(run)

    def _start_held(self, channel: str) -> None:
        """A slot of this channel is free."""
        for run in self._held:
            if run.channel == channel:
                self._held.remove(run)
                self._start(run)
                return

    def _start(self, run: ConsumerRun) -> None:
        self._running.add(run)
        claim = run.messages[0].claim
        is_suspect = self._shared.isolated_runs is not None and self._shared.plans[claim.channel].is_suspect(
            claim
        )
        run.in_pool = not is_suspect
        self.share.take(run, on_thread=run.in_pool and not run.route.is_async)
        if self._shared.isolated_runs is not None and is_suspect:
            self._shared.isolated_runs.run(claim, lambda well: self._isolated_run_ended(run, well))
        elif run.route.is_async:
            self._shared.event_loop.submit(run, self._run_ended)
        else:
            self._shared.threads.submit(run, self._run_ended)

    def _end(self, run: ConsumerRun) -> None:
        """The consumer is done: free its slot, and settle what it left."""
        self._free(run)
        for message in run.messages:
            self._settler.add(message)

    def _free(self, run: ConsumerRun) -> None:
        if run in self._running:
            self._running.discard(run)
            self.share.give_back(run.channel)
            if run.holds_thread:
                self.share.give_back_thread(run)
            self._start_held(run.channel)

    def _run_ended(self, run: ConsumerRun) -> None:
        if run.holds_thread:
            self.share.give_back_thread(run)
        self._ended.append(run)
        if len(self._ended) >= len(self._running):
            self._all_ended.set()
        self._tell()

    def _ended_early(self, message: IncomingMessage) -> None:
        self._ended.append(message)
        self._tell()

    def _tell(self) -> None:
        """Wake the worker's own thread, once for all that ends until it looks."""
        if not self._is_told:
            self._is_told = True
            self.layer.wake()

    # -- waiting ------------------------------------------------------------------------------------------------

    def _wait(self, seen: int) -> None:
        """Sleep until something is due, a consumer ended, or a limit is over."""
        if self._is_dry() or (self._shared.stopping.is_set() and not self._running):
            return
        self.share.look()
        longest = DRAIN_WAIT if self.dry_at else LONGEST_WAIT
        if self.share.is_waiting:  # nobody wakes it when a reservation ends whose server hangs
            longest = RESERVED_FOR_S
        moments = [d.overdue_at for d in self._running] + [self._shared.stop_at, *self.share.opening_times()]
        timeout = min([longest * random.uniform(0.75, 1), *(m - time.monotonic() for m in moments)])
        if timeout > 0:
            self.layer.wait(self.share.awaited() if self._may_claim else [], timeout, seen)

    def _let_more_end(self) -> None:
        """One round trip settles all that have ended: wait for the others as long as the last one took."""
        self._all_ended.clear()
        if 0 < len(self._ended) < len(self._running):
            self._all_ended.wait(min(self._pace, LONGEST_PAUSE))

    def _is_dry(self) -> bool:
        """With ``drain``: nothing due and nothing running means the end."""
        shared, began = self._shared, time.monotonic()
        if not shared.drain or self._running or self._settler.has_work:
            return False
        if shared.is_claiming and self.layer.poll(self.share.drainable()) != 0 and not self._relay():
            self.dry_at = began
            shared.is_claiming = not shared.is_dry()
        return not shared.is_claiming

    def _relay(self) -> bool:
        """Hand on what waits in the outbox. Was there something?"""
        outbox = self._shared.layer.outbox
        if outbox is None or outbox.relay() == 0:
            return False
        self._shared.worked_at = time.monotonic()
        return True

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for run in [d for d in self._running if d.overdue_at <= now]:
            run.give_up()
            run.abandon()
            logger.error(
                "%s still runs past its time limit; this worker process will be replaced", run.route.name
            )
            self._end(run)
            if not run.route.is_async:
                self._shared.threads.replace_one()
            self._shared.should_recycle = True
        shared = self._shared
        if shared.should_recycle and shared.isolated_runs is not None and not shared.stopping.is_set():
            shared.stop(settings.shutdown_timeout)

    def _recycle_if_due(self) -> None:
        """Claim nothing more once a limit is reached, and end when what runs is done, however long that takes."""
        shared = self._shared
        if shared.should_recycle or shared.stopping.is_set() or (why := shared.recycling.reason()) is None:
            return
        logger.info("%s will be replaced when what it runs is done: %s", shared.worker, why)
        shared.should_recycle = True
        shared.stop(float("inf"))

    def _isolated_run_ended(self, run: ConsumerRun, well: bool | None) -> None:
        """Settle what the message's own process left. The supervisor's thread calls this."""
        [message] = run.messages
        outcome = {True: OutcomeKind.ISOLATED, False: OutcomeKind.LAPSED, None: OutcomeKind.RELEASED}[well]
        why, delay = ("no process of its own was started", NOT_STARTED_FOR) if well is None else ("", 0.0)
        message.decide(Outcome(outcome, why, delay))
        self._run_ended(run)

    # -- the end ------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Wait for what runs until the deadline, then give the rest back."""
        self._is_ending = True
        if self._shared.isolated_runs is not None and self._shared.stopping.is_set():
            self._shared.isolated_runs.cancel_pending()
        for claim in self._adopted:
            self._settler.decide(
                claim, Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer began")
            )
        self._adopted = []
        while (
            self._running or self._ended or self._settler.has_work
        ) and time.monotonic() < self._shared.stop_at:
            self._round()
        self._release_running()
        try:
            self._collect()
            self._claim()  # claims nothing now; settles what is finished
            self._settler.check()
        except Exception as error:
            trace = None if is_outage(error) else error
            logger.error("the layer cannot be used; %s", error, exc_info=trace)

    def _release_running(self) -> None:
        for run in self._held:
            for message in run.messages:
                message.decide(Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer began"))
                self._settler.add(message)
        self._held.clear()
        for run in list(self._running):
            if not run.in_pool:  # its own process settles it
                continue
            for message in run.messages:
                message.decide(
                    Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer was done")
                )
            run.abandon()
            self._end(run)
            self._shared.should_recycle = True


def _parts(messages: list[IncomingMessage], size: int) -> Iterator[list[IncomingMessage]]:
    return (messages[begin : begin + size] for begin in range(0, len(messages), size))
