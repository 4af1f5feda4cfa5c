"""The claim loop of one server: claim, consume, settle, until the worker is told to stop.

A worker has one for each shard of its layer. Its thread talks to that shard only; consumers run in the pools that all
loops share; another thread keeps its leases alive. What consumers did comes back through ``_ended``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..backoff import chance
from ..conf import settings
from ..layers import DurableLayer
from ..messages import Message
from ..monitoring.counters import Counters
from ..routes import Plan
from ..transient import is_outage
from . import leases
from .capacity import Capacity
from .connections import close_connections, own_connection
from .consume import ConsumerRun, runs_of
from .heartbeat import Heartbeat
from .incoming import IncomingMessage, decide_all
from .isolated import OUTCOMES, IsolatedRuns, RunEnd
from .leases import LeaseKeeper
from .lifecycle import ENDING, Event, Lifecycle, State, WorkerLifecycle
from .log import logger
from .outcomes import Outcome, OutcomeKind
from .pools import EventLoop
from .settle import Settler

LONGEST_WAIT_S = 5.0
"""Seconds an idle loop sleeps at most without a look. A layer without notifications looks more often by itself."""
POLL_INTERVAL_S = 1.0
"""The same where nobody tells: how much memory is in use, and which threads and slots other loops need no longer."""
DRAIN_WAIT_S = 0.05
"""The same for one that waits for the others, to end when nothing is due on any server."""
LONGEST_PAUSE_S = 0.005
"""Seconds a busy loop waits at most for more consumers to end before it talks to the layer again."""

NOT_BEGUN = Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer began")
NOT_STARTED = Outcome(OutcomeKind.RELEASED, "a fault of the worker kept its consumer from beginning", 1.0)
NOT_DONE = Outcome(OutcomeKind.RELEASED, "the worker stopped before its consumer was done")


@dataclass(frozen=True, eq=False)
class Shared:
    """Hold what the claim loops of one worker share."""

    layer: DurableLayer  # as a whole
    worker: str
    lifecycle: WorkerLifecycle
    capacity: Capacity
    isolated_runs: IsolatedRuns | None
    report_limit: Callable[[float | None], None] | None = None  # of isolated runs, to who kills them
    event_loop: EventLoop = field(default_factory=EventLoop)
    counters: Counters = field(default_factory=Counters)


class ClaimLoop:
    """Claim the channels that a shard has. ``preclaimed``: run these first. ``heartbeat``: see ``LeaseKeeper``."""

    def __init__(
        self,
        shared: Shared,
        layer: DurableLayer,
        preclaimed: Sequence[Message] = (),
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.layer = layer
        self.share = shared.capacity.share_of(layer)
        self.running: set[ConsumerRun] = set()
        self.empty_at = 0.0  # time.monotonic() when it began to look, and found nothing due
        self._shared = shared
        self._worker = shared.lifecycle
        self._lifecycle = Lifecycle(shared.lifecycle)
        self._preclaimed = list(preclaimed)
        self._keeper = LeaseKeeper(layer, lambda: shared.capacity.leases, heartbeat)
        self._settler = Settler(layer, self._keeper, shared.counters)
        self._held: deque[ConsumerRun] = deque()  # while their channel has no slot, so something of it runs
        self._ended: deque[ConsumerRun] = deque()
        self._early: deque[Sequence[IncomingMessage]] = deque()  # settled by consumers that go on
        self._all_ended = threading.Event()
        self._is_woken = False  # since it last looked at what has ended
        self._has_begun = False  # something, in the last round
        self._claimed: Sequence[Message] = ()  # by the last claim
        self._has_room = False  # it could have got more
        self._all_begun: tuple[int, int] | None = None  # wakes and runs, when all that was due had begun
        self._pace = 0.0  # seconds the last claim took

    def serve(self, plans: Mapping[str, Plan], *, has_all: bool) -> None:
        """Take further channels, which the capacity has by now. ``has_all``: the loop claims from all of them."""
        self._keeper.wake()
        if has_all:
            self.share.serve([*self.share.channels, *plans])

    def run(self) -> None:
        """Work until the worker stops (or is drained), then wait for what runs and release the rest."""
        with own_connection(self.layer):
            self._keeper.start()
            try:
                while self._should_continue():
                    self._try_round()
                self._shut_down()
            finally:
                self._keeper.stop()
                self.layer.stop_listening()
                self._shared.capacity.leave(self.share)
                close_connections()

    def _should_continue(self) -> bool:
        state = self._lifecycle.state
        if state is State.STOPPING:
            return False
        has_moved = self._shared.layer.is_sharded and not self.share.channels  # all to other shards
        return self._has_work or (state is not State.DRAINING and not has_moved)

    @property
    def _has_work(self) -> bool:
        is_settled = not (self._ended or self._early or self._settler.has_some)
        return bool(self.running or self._preclaimed or self._held) or not is_settled

    # -- claim, consume, settle ---------------------------------------------------------------------------------

    def _try_round(self) -> None:
        try:
            self._round()
        except Exception as error:
            # A fault of ours or of a layer must not end what runs: it is told, and tried again.
            self.share.stop_waiting()
            self._lifecycle.back_off(error, self._worker)
        else:
            if self._lifecycle.is_failing:
                self._lifecycle.succeeded()

    def _round(self) -> None:
        """Settle what has ended, claim for what is free, consume that, and sleep where there was nothing to do."""
        seen = self.layer.wakes
        self._collect()
        try:
            is_vain = self._all_begun == (seen, len(self.running)) and not self._settler.has_some
            claims = [] if is_vain else self._claim()  # it would only slow down what has just begun
            self._has_begun = bool(claims)
            self._consume(claims)
            self._all_begun = (seen, len(self.running)) if claims and self._has_room else None
        except Exception:
            self._release_unstarted()
            raise
        finally:
            if self._shared.capacity.is_shared:
                self.share.done()
        if not (claims or self._ended or self._early):
            if self._settler.error is not None:
                raise self._settler.error
            if is_vain:  # it may end as quickly: then what is due next need not be asked
                self.layer.wait((), LONGEST_PAUSE_S, seen)
            if self.layer.wakes == seen:
                self._wait(seen)

    def _collect(self) -> None:
        """Settle what consumers have ended since the last look, and what ran too long."""
        self._check_limits()
        self._all_ended.clear()
        if len(self._ended) < len(self.running) and (self._ended or self._has_begun):
            # One round trip settles all that have ended: wait for the others as long as the last one took.
            self._is_woken = True  # it looks by itself
            self._all_ended.wait(min(self._pace, LONGEST_PAUSE_S))
        self._is_woken = False  # before the look: what ends after that has to wake it anew
        if self._ended or self._early:
            self._worker.worked_at = time.monotonic()
        while self._early:
            self._settler.add(self._early.popleft())
        while self._ended:
            self._end(self._ended.popleft())
        if self._held:
            self._start_held()
        self._settler.error = None
        if self._settler.others:
            self._settler.settle()

    def _claim(self) -> Sequence[Message]:
        """Claim for the free slots; what is finished is settled on the way."""
        if self._preclaimed:
            self._claimed, self._preclaimed = self._preclaimed, []
            self._keeper.keep(self._claimed)
            return self._claimed
        self._claimed, self._has_room, limits, total = (), False, dict[str, int](), 0
        if self._lifecycle.state in ENDING:
            self.share.reconcile_unclaimed()
        else:
            limits, total = self.share.room()
        finished, self._settler.finished = self._settler.finished, []
        if not limits and not finished:
            return []
        try:
            since, begun = leases.clock(), time.monotonic()
            if limits and since >= self._keeper.late_at:
                limits, since = self._keeper.catch_up(limits), leases.clock()
            done, seconds = [message.claim for message in finished], self._shared.capacity.leases
            claimed = self.layer.claim(self._shared.worker, limits, seconds, done, total)
        except Exception:
            self._settler.settle_apart(finished)
            raise
        self._claimed = claimed.claims
        self._has_room = len(claimed.claims) < total
        self._pace = time.monotonic() - begun
        self._keeper.keep(claimed.claims, since)  # first: receivers of signals may take their time
        self._settler.close(finished, claimed.lost)
        if claimed.claims:
            self._worker.worked_at = time.monotonic()
        if claimed.expired:
            self._settler.expire(claimed.expired)
        if not (self.share.limiters or self._shared.capacity.is_shared):
            return claimed.claims
        return self.share.admit(claimed.claims, self._settler.decide)

    def _consume(self, claims: Sequence[Message]) -> None:
        """Hand each claim, or each batch of them, to its consumer."""
        plans, stopping = self._shared.capacity.plans, self._worker.stopping
        for run in runs_of(claims, plans, stopping, self._take_early, self._settler.decide):
            if run.message is None:  # a batch, which may have to wait for a slot
                self._held.append(run)
            else:
                self._start(run)
        if self._held:
            self._start_held()

    def _release_unstarted(self) -> None:
        """Give back what the last claim got and a fault has kept from being started: else its lease never ended."""
        runs = (*self.running, *self._held)
        begun = {message.id for run in runs for message in run.messages}
        begun.update(message.id for message in (*self._settler.finished, *self._settler.others))
        for claim in self._claimed:
            if claim.id not in begun:
                self._settler.decide(claim, NOT_STARTED)
        self._claimed = ()

    def _start_held(self) -> None:
        """Start what has a slot. Messages of one batch may have to run apart, and there are no slots for so many."""
        for _ in range(len(self._held)):
            run = self._held.popleft()
            if self._shared.capacity.slots[run.channel] <= 0:
                self._held.append(run)
            else:
                self._start(run)

    def _start(self, run: ConsumerRun) -> None:
        """Hand a run to the pool, or the process, that runs it."""
        self.running.add(run)
        shared, claim = self._shared, run.messages[0].claim
        isolated_runs = shared.isolated_runs if run.is_suspect or run.route.policy.isolate else None
        run.is_isolated = isolated_runs is not None
        run.on_limit, run.report_limit = self._wake_within, shared.report_limit
        self.share.occupy(run)
        try:
            if isolated_runs is not None:
                on_answer = partial(self._isolated_run_ended, run)
                isolated_runs.start(claim, on_answer, is_kept=not run.is_suspect)
            elif run.route.is_async:
                shared.event_loop.submit(run, self._hand_over)
            else:
                shared.capacity.threads.submit(run, self._hand_over)
        except Exception as error:  # the system has no thread, or no memory
            logger.error("%s cannot be started: %s", run.route.name, error, exc_info=error)
            run.cut_off(error)
            self._hand_over(run)

    def _wake_within(self, seconds: float) -> None:
        """Look after so many seconds at the latest: a run has just learnt its limit, and the loop may sleep longer."""
        if seconds < LONGEST_WAIT_S:
            self.layer.wake()

    def _end(self, run: ConsumerRun) -> None:
        """The consumer is done: free its slot, and settle what it left."""
        if run in self.running:
            self.running.discard(run)
            self.share.free(run)
        self._settler.add(run.messages)

    def _hand_over(self, run: ConsumerRun) -> None:
        """Tell the loop that a run has ended. The threads of the pools call this."""
        if self._shared.capacity.is_shared:
            self.share.free(run, slot=False)  # at once, as the loop may hang just now
        self._ended.append(run)
        if len(self._ended) >= len(self.running):
            self._all_ended.set()
        self._wake()

    def _take_early(self, messages: Sequence[IncomingMessage]) -> None:
        """Tell the loop that a consumer has settled messages of its batch, which goes on."""
        self._early.append(messages)
        self._wake()

    def _wake(self) -> None:
        if not self._is_woken:  # once for all that ends until it looks
            self._is_woken = True
            self.layer.wake()

    def _isolated_run_ended(self, run: ConsumerRun, answer: RunEnd, detail: Any) -> None:
        if answer is RunEnd.LATE:
            run.limit = detail
            run.give_up()
        else:
            is_killed = answer is RunEnd.KILLED
            run.messages[0].decide(Outcome(OutcomeKind.DISCARDED, detail) if is_killed else OUTCOMES[answer])
        self._hand_over(run)

    # -- waiting ------------------------------------------------------------------------------------------------

    def _wait(self, seen: int) -> None:
        """Sleep until something is due, a consumer ended, or a limit is over."""
        state = self._lifecycle.state
        if self._is_drained() or (state is State.STOPPING and not (self.running or self._held)):
            return
        channels, until = ([], float("inf")) if state in ENDING else self.share.awaited()
        is_told = self._shared.capacity.recycling is None and not self._shared.capacity.is_shared
        longest = DRAIN_WAIT_S if self.empty_at else LONGEST_WAIT_S if is_told else POLL_INTERVAL_S
        until = min(until, self._worker.deadline, self._shared.capacity.threads.next_look(self.running))
        if (timeout := min(longest * chance.uniform(0.75, 1), until - time.monotonic())) > 0:
            self.layer.wait(channels, timeout, seen)

    def _is_drained(self) -> bool:
        """With ``drain``: nothing due and nothing running means the end."""
        worker, began = self._worker, time.monotonic()
        if not worker.drain or self._has_work:
            return False
        if self._lifecycle.state in ENDING:
            return True
        outbox = self._shared.layer.outbox
        if self.layer.poll(self.share.drainable()) == 0:
            return False
        if outbox is not None and outbox.relay() > 0:
            worker.worked_at = time.monotonic()
            return False
        self.empty_at = began
        worker.end_if_nothing_due()
        return self._lifecycle.state in ENDING

    # -- what ends early ----------------------------------------------------------------------------------------

    def _check_limits(self) -> None:
        """Wait no longer for what runs past its time limit, and end once this process is to be replaced."""
        now, worker, recycling = time.monotonic(), self._worker, self._shared.capacity.recycling
        for run in [run for run in self.running if run.overdue_at <= now]:
            self._give_up(run)
        self._shared.capacity.threads.look()
        if recycling is None or worker.should_recycle or worker.stopping.is_set():
            return
        if reason := recycling.reason():
            logger.info("%s will be replaced when what it runs is done: %s", self._shared.worker, reason)
            worker.should_recycle = True
            worker.stop(float("inf"))

    def _give_up(self, run: ConsumerRun) -> None:
        run.give_up()
        run.abandon()
        name = run.route.name
        logger.error("%s still runs past its time limit; this worker process will be replaced", name)
        self._end(run)
        if not run.route.is_async:
            self._shared.capacity.threads.replace_one()
        self._worker.should_recycle = True
        if self._shared.isolated_runs is not None and not self._worker.stopping.is_set():
            self._worker.stop(settings.shutdown_timeout)  # the supervisor replaces this process

    # -- the end ------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Wait for what runs until the deadline, then give the rest back."""
        self._lifecycle.on(Event.TOLD_TO_STOP)  # whatever channels it is given from now on
        if self._shared.isolated_runs is not None and self._worker.stopping.is_set():
            self._shared.isolated_runs.cancel_pending()
        for claim in self._preclaimed:
            self._settler.decide(claim, NOT_BEGUN)
        self._preclaimed = []
        while self._has_work and time.monotonic() < self._worker.deadline:
            self._try_round()
        if self.running or self._held:
            self._release_running()
        try:
            self._collect()
            self._claim()  # claims nothing now; settles what is finished
            if self._settler.error is not None:
                raise self._settler.error
        except Exception as error:
            logger.error("the layer cannot be used; %s", error, exc_info=not is_outage(error))

    def _release_running(self) -> None:
        for run in self._held:
            decide_all(run.messages, NOT_BEGUN)
            self._settler.add(run.messages)
        self._held.clear()
        for run in [run for run in self.running if not run.is_isolated]:  # the others' processes settle them
            decide_all(run.messages, NOT_DONE)
            run.abandon()
            self._end(run)
            self._worker.should_recycle = True
