"""The worker of one process: claim, consume, settle, until it is told to stop.

One thread, the one that calls ``run``, talks to the layer; consumers run in the pools; a third thread keeps the
leases alive. What consumers did comes back through ``_ended``.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ..applications import serves
from ..conf import settings
from ..layers import DurableLayer
from ..messages import Claimed, Content, Message
from ..project import identity
from ..routes import Route
from ..routing import Routing
from ..terminal import counted
from .capacity import Capacity
from .connections import close_connections, own_connection
from .consume import ConsumerRun
from .events import log_outcome
from .incoming import IncomingMessage
from .leases import OUTAGES, LeaseKeeper, is_outage
from .log import logger
from .maintenance import Maintenance
from .outages import Outages
from .outcomes import Outcome, OutcomeKind
from .pools import EventLoop, Threads
from .prechecks import precheck
from .rate_limiter import RateLimiter
from .recycling import RecyclingLimits
from .settle import Settler

LONGEST_WAIT = 1.0
"""Seconds an idle worker sleeps at most without a look."""
LONGEST_PAUSE = 0.005
"""Seconds a busy worker waits at most for more consumers to end before it talks to the layer again."""
NOT_STARTED_FOR = 1.0
"""Seconds until a message is due again for which no process of its own could be started."""


class IsolatedRuns(Protocol):
    """Run claims in processes of their own."""

    def run(self, message: Message, ended: Callable[[bool | None], None]) -> None:
        """Start a process for this message. It reports by ``ended``: True (well), False (died), None (not started)."""

    def cancel_pending(self) -> None:
        """Drop this worker's pending requests; each is reported as not started."""


def new_worker_id() -> str:
    """Return a name that no other worker has: host, process, and something random, as process ids are reused."""
    return f"{socket.gethostname()}-{os.getpid()}-{random.SystemRandom().randrange(16**4):04x}"


class Worker:
    """Consumes the channels of a routing until ``stop`` is called.

    ``channels``: those of the routing's to serve. ``isolated_runs`` runs messages that have cost a process before;
    without it, they run here. ``drain``: end when nothing is due. ``adopted``: run these claims and claim
    nothing. ``recycling``: end when it says so, after what runs is done.
    """

    def __init__(
        self,
        layer: DurableLayer,
        routing: Routing,
        channels: Sequence[str] | None = None,
        *,
        worker_id: str | None = None,
        threads: int | None = None,
        isolated_runs: IsolatedRuns | None = None,
        drain: bool = False,
        adopted: Sequence[Message] | None = None,
        recycling: RecyclingLimits | None = None,
    ) -> None:
        self.id = worker_id or new_worker_id()
        self.layer = layer
        self.plans = {c: routing.plans[c] for c in (routing.plans if channels is None else channels)}
        self._routing = routing
        self._isolated_runs = isolated_runs
        self._recycling = recycling or RecyclingLimits()
        self._drain = drain or adopted is not None
        self._adopted = list(adopted or ())
        self._claiming = adopted is None
        self._loop = EventLoop()
        self._threads = Threads(threads or settings.threads, layer)
        self._leases = {c: plan.lease for c, plan in self.plans.items()}
        self._keeper = LeaseKeeper(layer, self.id, self._leases, self._describe)
        self._settler = Settler(layer, self._keeper)
        self._capacity = Capacity(layer, self.plans, self._threads, self._recycling)
        self._running: set[ConsumerRun] = set()
        self._held: deque[ConsumerRun] = deque()  # while their channel has no slot, so something of it runs
        self._ended: deque[ConsumerRun | IncomingMessage] = deque()
        self._all_ended = threading.Event()
        self._is_told = False  # that something has ended, since it last looked
        self._stopping = threading.Event()
        self._maintenance = Maintenance(layer, self._stopping, self._report_unrouted, self.plans)
        self._stop_at = float("inf")
        self._pace = 0.0  # seconds the last claim took
        self._outages = Outages(self._stopping, layer.has_parts)
        self._unrouted: set[str] = set()
        self._project = identity()
        #: Should the process be replaced? At a limit, or when code past its time limit holds a thread or the loop.
        self.should_recycle = False

    def run(self) -> None:
        """Work until stopped (or drained), then wait for what runs and release the rest."""
        with own_connection(self.layer):
            self._run()

    def _run(self) -> None:
        self._keeper.start()
        if self._claiming:
            self._maintenance.start(only_look=self._drain)
        try:
            while not self._is_over():
                self._round()
                self._recycle_if_due()
            self._shut_down()
        finally:
            self._maintenance.stop()
            self._keeper.stop()
            self._threads.close()
            self._loop.close()
            self.layer.stop_listening()
            close_connections()

    def stop(self, timeout: float | None = None) -> None:
        """Claim nothing more; ``run`` returns when what runs is done, or after ``timeout`` seconds at the latest."""
        timeout = settings.shutdown_timeout if timeout is None else timeout
        self._stop_at = min(self._stop_at, time.monotonic() + timeout)
        self._stopping.set()
        self.layer.wake()

    def _is_over(self) -> bool:
        idle = not self._running and not self._adopted and not self._settler.has_work
        return self._stopping.is_set() or (self._drain and not self._claiming and idle)

    # -- claim, consume, settle ---------------------------------------------------------------------------------

    def _round(self) -> None:
        seen = self.layer.wakes
        try:
            self._collect()
            claims = self._claim()
            self._consume(claims)
            if not claims and not self._ended:
                self._check()
                self._wait(seen)
            self._let_more_end()
            self._outages.over()
        except (
            Exception
        ) as error:  # a fault of ours or of a layer must not end what runs: it is told, and tried again
            self._outages.wait(error, self._stop_at)

    def _collect(self) -> None:
        """Settle what consumers have ended since the last look, and what ran too long."""
        self._give_up_overdue()
        self._all_ended.clear()
        self._is_told = False  # before the look: what ends after that has to tell anew
        while self._ended:
            ended = self._ended.popleft()
            if isinstance(ended, IncomingMessage):
                self._settler.add(ended)
            else:
                self._end(ended)
        self._settler.settle()

    def _claim(self) -> list[Message]:
        """Claim for the free slots; what is finished is settled on the way."""
        if self._adopted:
            claims, self._adopted = self._adopted, []
            self._keeper.keep(claims)
            return claims
        limits = self._capacity.limits() if self._claiming and not self._stopping.is_set() else {}
        finished = self._settler.finished
        if not limits and not finished:
            return []
        since = self._keeper.catch_up()
        begun = time.monotonic()
        total = self._capacity.total(limits)
        try:
            claimed = self.layer.claim(self.id, limits, self._leases, [m.claim for m in finished], total)
        except Exception as error:
            self._settler.finish_apart(error)
            raise
        self._pace = time.monotonic() - begun
        self._keeper.keep(claimed.claims, since)  # first: receivers of signals may take their time
        self._settler.finished_by_claim(claimed)
        return self._admit(claimed)

    def _check(self) -> None:
        """Raise for a part of the layer that is away, when there is nothing to do on the others."""
        self._settler.check()
        self._capacity.check()

    def _admit(self, claimed: Claimed) -> list[Message]:
        """Report what expired, and give back what its channel's rate does not allow."""
        for message in claimed.expired:
            log_outcome(
                IncomingMessage(message),
                Outcome(OutcomeKind.EXPIRED, "its time was over while it waited for a run"),
            )
        limiters = self._capacity.rate_limiters.values()
        refused = {m.id for limiter in limiters for m in self._over_rate(limiter, claimed.claims)}
        return [message for message in claimed.claims if message.id not in refused]

    def _over_rate(self, limiter: RateLimiter, claims: Sequence[Message]) -> list[Message]:
        mine = [claim for claim in claims if claim.channel == limiter.channel]
        try:
            over = limiter.reconcile_tokens(mine)
        except OUTAGES:
            over = mine  # whoever looks next will know
        for claim in over:
            self._settler.decide(
                claim, Outcome(OutcomeKind.RELEASED, "its channel's rate is used up", limiter.wait)
            )
        return over

    def _consume(self, claims: Sequence[Message]) -> None:
        """Hand each claim, or each batch of them, to its consumer."""
        batches: dict[Route, list[IncomingMessage]] = {}
        for claim in claims:
            plan = self.plans[claim.channel]
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
        if self._capacity.is_full(run.channel):
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
        self._recycling.count(len(run.messages))
        self._capacity.take(run.channel)
        claim = run.messages[0].claim
        if self._isolated_runs is not None and self.plans[claim.channel].is_suspect(claim):
            run.in_pool = False
            self._isolated_runs.run(claim, lambda well: self._isolated_run_ended(run, well))
        elif run.route.is_async:
            self._loop.submit(run, self._run_ended)
        else:
            self._threads.submit(run, self._run_ended)

    def _end(self, run: ConsumerRun) -> None:
        """The consumer is done: free its slot, and settle what it left."""
        self._free(run)
        for message in run.messages:
            self._settler.add(message)

    def _free(self, run: ConsumerRun) -> None:
        if run in self._running:
            self._running.discard(run)
            self._capacity.give_back(run.channel)
            if not run.route.is_async and run.in_pool:
                self._threads.freed()
            self._start_held(run.channel)

    def _run_ended(self, run: ConsumerRun) -> None:
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
        if self._is_dry() or (self._stopping.is_set() and not self._running):
            return
        moments = [run.overdue_at for run in self._running] + [self._stop_at, *self._capacity.opening_times()]
        timeout = min([LONGEST_WAIT * random.uniform(0.75, 1), *(m - time.monotonic() for m in moments)])
        if timeout > 0:
            may_claim = self._claiming and not self._stopping.is_set()
            self.layer.wait(self._capacity.awaited() if may_claim else [], timeout, seen)

    def _let_more_end(self) -> None:
        """One round trip settles all that have ended: wait for the others as long as the last one took."""
        self._all_ended.clear()
        if 0 < len(self._ended) < len(self._running):
            self._all_ended.wait(min(self._pace, LONGEST_PAUSE))

    def _is_dry(self) -> bool:
        """With ``drain``: nothing due and nothing running means the end."""
        if not self._drain or self._running or self._settler.has_work:
            return False
        if self._claiming and self.layer.poll(list(self.plans)) != 0 and not self._relay():
            self._claiming = False
        return not self._claiming

    def _relay(self) -> bool:
        """Hand on what waits in the outbox. Was there something?"""
        return self.layer.outbox is not None and self.layer.outbox.relay() > 0

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _give_up_overdue(self) -> None:
        now = time.monotonic()
        for run in [run for run in self._running if run.overdue_at <= now]:
            run.give_up()
            run.abandon()
            logger.error(
                "%s still runs past its time limit; this worker process will be replaced", run.route.name
            )
            self._end(run)
            if not run.route.is_async:
                self._threads.replace_one()
            self.should_recycle = True
        if self.should_recycle and self._isolated_runs is not None and not self._stopping.is_set():
            self.stop()

    def _recycle_if_due(self) -> None:
        """Claim nothing more once a limit is reached, and end when what runs is done, however long that takes."""
        if self.should_recycle or self._stopping.is_set() or (why := self._recycling.reason()) is None:
            return
        logger.info("%s will be replaced when what it runs is done: %s", self.id, why)
        self.should_recycle = True
        self.stop(float("inf"))

    def _isolated_run_ended(self, run: ConsumerRun, well: bool | None) -> None:
        """Settle what the message's own process left. The supervisor's thread calls this."""
        [message] = run.messages
        outcome = {True: OutcomeKind.ISOLATED, False: OutcomeKind.LAPSED, None: OutcomeKind.RELEASED}[well]
        why, delay = ("no process of its own was started", NOT_STARTED_FOR) if well is None else ("", 0.0)
        message.decide(Outcome(outcome, why, delay))
        self._run_ended(run)

    def _report_unrouted(self) -> None:
        """Channels that hold messages and have no route anywhere: said once each."""
        for channel, stats in self.layer.stats().items():
            waiting = stats.ready + stats.scheduled
            if waiting and not self._is_served_somewhere(channel) and channel not in self._unrouted:
                self._unrouted.add(channel)
                logger.warning(
                    "channel %s has %s and no route; they are kept; %s",
                    *(channel, counted(waiting, "message"), self._routing.looked_for),
                )

    def _is_served_somewhere(self, channel: str) -> bool:
        return channel in self._routing or serves(channel)

    # -- the end ------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Wait for what runs until the deadline, then give the rest back."""
        if self._isolated_runs is not None:
            self._isolated_runs.cancel_pending()
        for claim in self._adopted:
            self._settler.decide(
                claim, Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer began")
            )
        self._adopted = []
        while (self._running or self._ended or self._settler.has_work) and time.monotonic() < self._stop_at:
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
            self.should_recycle = True

    def _describe(self) -> Content:
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "channels": sorted(self.plans),
            "threads": self._threads.size,
            "running": len(self._running),
            "stopping": self._stopping.is_set(),
            "project": self._project,
        }


def _parts(messages: list[IncomingMessage], size: int) -> Iterator[list[IncomingMessage]]:
    return (messages[begin : begin + size] for begin in range(0, len(messages), size))
