"""Running a consumer, and reading what it did as an outcome. Nothing a consumer does gets past this module.

Before that, a claim is checked: can it be read, was it lost too often, which route takes it?
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from .. import options as checked
from ..conf import settings
from ..errors import Discard, Later, Retry
from ..layers import DurableLayer
from ..messages import Message
from ..policy import LimitInContent
from ..routes import Plan, Route
from ..signals import message_started
from ..tracebacks import describe
from .atomic import RELEASED_FOR_S, RollBack, await_stray, current_run, run_atomic
from .incoming import IncomingMessage, current_message, decide_all
from .lock_watch import lock_watch
from .log import logger
from .outcomes import FINISHED, Outcome, OutcomeKind, send_signal

CANCELLATION_GRACE = 1.0
"""Seconds an async consumer gets to end once its limit is over and it was cancelled."""
LOST_TOO_OFTEN = (
    "It was lost {} times: each time its worker process died, or stopped renewing the lease, while it ran. Its "
    "consumer may crash the process (a segmentation fault, os._exit, memory running out)."
)


def precheck(claim: Message, plan: Plan, lease: float) -> Outcome | tuple[Route, dict[str, str]]:
    """Return the route that takes a claim and its consumer's keyword arguments, or the outcome of a claim without one.

    ``lease``: the seconds for which it was claimed.
    """
    if claim.defect:
        return Outcome(OutcomeKind.BURIED, f"The message cannot be read: {claim.defect}.")
    if claim.losses and claim.losses >= plan.max_losses:
        return Outcome(OutcomeKind.BURIED, LOST_TOO_OFTEN.format(claim.losses))
    try:
        if plan.limit_per_value is not None and (place := plan.place_of(claim)):
            return Outcome(OutcomeKind.PLACED, "it waits for one of the places of its value", place=place)
        return plan.match(claim) or _keep(claim, lease)
    except Exception as error:  # a project's filter may raise anything for a content it does not expect
        return _reject(claim, error)


def _keep(claim: Message, lease: float) -> Outcome:
    """Release a claim that no route matches, to be checked again in 1 s to 1 h: as long as it has waited so far."""
    claimed_at = claim.claimed_until - lease  # on the storage's clock, both
    age = claimed_at - (claim.sent_at or 0)
    error_text = f"no route of channel {claim.channel!r} matches its content; it is kept"
    return Outcome(OutcomeKind.RELEASED, error_text, min(3600.0, max(1.0, age)))


def _reject(claim: Message, error: Exception) -> Outcome:
    """Retry a claim whose filters raised, and bury it after the default number of attempts."""
    if claim.attempt >= settings.attempts:
        return Outcome(OutcomeKind.BURIED, describe(error))
    delay = min(settings.backoff_max, settings.backoff * 2.0 ** min(claim.attempt, 60))
    return Outcome(OutcomeKind.RETRIED, describe(error), delay)


def _limit(route: Route, message: IncomingMessage) -> float | None:
    """Return the seconds that a run may take: of the route's function, or of the settings if it names none."""
    limit = route.policy.timeout
    if callable(limit):
        try:
            limit = limit(message)
            limit = None if limit is None else checked.seconds("timeout", limit, above_zero=True)
        except Exception:
            logger.exception("timeout of %s raised; the limit of the settings applies", route.name)
            limit = None
    return limit or settings.timeout


class ConsumerRun:
    """Messages on their way through one run of a consumer: one of them, or a batch."""

    __slots__ = (
        "_abandoned",
        "_abort_transaction",
        "_lock",
        "arguments",
        "asks_limit",
        "channel",
        "holds_thread",
        "is_isolated",
        "is_suspect",
        "limit",
        "message",
        "messages",
        "on_limit",
        "overdue_at",
        "report_limit",
        "route",
        "started_at",
    )

    def __init__(self, route: Route, messages: Sequence[IncomingMessage], arguments: dict[str, str]) -> None:
        self.route = route
        self.messages = messages
        self.arguments = arguments
        self.channel = messages[0].claim.channel
        self.message = messages[0] if route.policy.batch is None else None  # None: it is a batch
        limit = route.policy.timeout
        is_in_content = isinstance(limit, LimitInContent)
        self.asks_limit = callable(limit) and not is_in_content  # a function of the project
        # Seconds this run may take; until ``ask_limit``, those of the settings where the route has a function.
        self.limit = limit if isinstance(limit, int | float) else settings.timeout
        if is_in_content:
            self.limit = _limit(route, messages[0])
        self.started_at: float | None = None  # time.monotonic()
        self.overdue_at = float("inf")  # when nobody waits for it any longer
        self.holds_thread = False
        self.is_suspect = False  # it was lost so often that it must run in a process of its own
        self.is_isolated = False  # it runs in a process of its own, which settles it
        self.on_limit: Callable[[float], object] | None = None  # told what ``ask_limit`` has found
        self.report_limit: Callable[[float | None], None] | None = None  # the supervisor ends this run
        self._lock = threading.Lock()
        self._abort_transaction: Callable[[], None] | None = None  # while its transaction is open
        self._abandoned = False

    @property
    def is_committed(self) -> bool:
        """Did the end of an atomic consumer's message commit with its writes?"""
        return all(m.outcome is not None and m.outcome.settled for m in self.messages)

    def announce(self) -> None:
        for message in self.messages:
            send_signal(message_started, self.channel, message=message)

    def ask_limit(self) -> None:
        """Ask the route's function for the limit, where the consumer runs: the claim loop must not wait for it.

        Meanwhile the limit of the settings holds. Raises ``TimeoutError`` if the function took longer.
        """
        self._bound()
        self.limit = _limit(self.route, self.messages[0])
        self.overdue_at = float("inf")
        if self._abandoned:
            raise TimeoutError
        if self.limit is not None and self.on_limit is not None:
            self.on_limit(self.limit)

    def _bound(self, grace: float = 0.0) -> None:
        """From now on, count the time that its limit allows."""
        if self.report_limit is not None:
            self.report_limit(self.limit)
        elif self.limit is not None:
            self.overdue_at = time.monotonic() + self.limit + grace

    def begin(self) -> Any:
        """Call the consumer, and return what it returns. The time of its limit begins."""
        now = time.monotonic()
        # Async ones end by themselves at the limit, unless they hold the loop.
        self._bound(CANCELLATION_GRACE if self.route.is_async else 0.0)
        self.started_at = now  # last: another thread asks when it may be overdue
        for message in self.messages:
            message.started_at = now
        subject = list(self.messages) if self.message is None else self.message
        return self.route.consume(subject, **self.arguments)

    def fail(self, error: BaseException, *, timed_out: bool = False) -> None:
        """Raising settles the rest: retried, buried after the last attempt, discarded, or due again later."""
        several = len(self.messages) > 1
        for message in self.messages:
            if message.outcome is not None:
                continue
            if isinstance(error, Discard):
                message.decide(Outcome(OutcomeKind.DISCARDED, describe(error, whole=False)))
                continue
            if isinstance(error, Later):
                message.decide(Outcome(OutcomeKind.RELEASED, describe(error, whole=False), error.after))
                continue
            # A kind of Retry may have an __init__ of its own that leaves out ours.
            after = getattr(error, "after", None) if isinstance(error, Retry) else None
            message.decide(message.failed(describe(error), after, alone=several, timed_out=timed_out))

    def cut_off(self, error: BaseException) -> None:
        """Something outside has ended it: a failure if its consumer had begun, no attempt if it had not."""
        if self.started_at is not None:
            self.fail(error)
        for message in self.messages:
            error_text = f"its consumer was kept from running: {error!r}"
            message.decide(Outcome(OutcomeKind.RELEASED, error_text, RELEASED_FOR_S))

    def give_up(self) -> None:
        """The time limit is over, and nothing can stop the code that still runs."""
        error = TimeoutError(f"{self.route.name} ran longer than its limit of {self.limit:g} seconds.")
        if self.route.policy.on_timeout is not None:
            for message in self.messages:
                if message.outcome is None:
                    self._ask_on_timeout(self.route.policy.on_timeout, message, error)
        self.fail(error, timed_out=True)

    def _ask_on_timeout(
        self, on_timeout: Callable[..., Any], message: IncomingMessage, error: TimeoutError
    ) -> None:
        """Let the route's function decide what becomes of a message. If it raises, the options of the route decide."""
        try:
            after = on_timeout(message, error)
            if after is None:
                outcome = Outcome(OutcomeKind.BURIED, describe(error))
            else:
                after = checked.seconds("on_timeout", after)
                outcome = message.failed(describe(error), after, alone=len(self.messages) > 1)
        except Discard as reason:
            outcome = Outcome(OutcomeKind.DISCARDED, describe(reason, whole=False))
        except Exception:
            logger.exception("on_timeout of %s raised; the options of the route decide", self.route.name)
            return
        message.decide(replace(outcome, timed_out=True))

    @contextmanager
    def abortable(self, layer: DurableLayer) -> Iterator[None]:
        """Inside its transaction: ``abandon`` aborts that, from any thread, until the end of the block."""
        with self._lock:
            if self._abandoned:
                raise RollBack
            self._abort_transaction = layer.transaction_aborter()
        try:
            with lock_watch.watching(self) if layer.has_one_writer else nullcontext():
                yield
        except Exception as error:
            if self._abandoned:  # so it may be of a connection that was closed meanwhile
                raise RollBack from error
            raise
        finally:
            with self._lock:
                self._abort_transaction = None
        if self._abandoned:
            raise RollBack

    def abandon(self) -> None:
        """Nobody waits for it any more: let go of what its transaction has locked."""
        with self._lock:
            self._abandoned = True
            if self._abort_transaction is not None:
                self._abort_transaction()


def runs_of(
    claims: Sequence[Message],
    plans: Mapping[str, Plan],
    stopping: threading.Event,
    on_outcome: Callable[[Sequence[IncomingMessage]], None],
    reject: Callable[[Message, Outcome], None],
) -> Iterator[ConsumerRun]:
    """Yield the runs of claims: those of single messages, then those that had to be prepared, then batches.

    ``on_outcome`` is told what becomes of messages of batches; ``reject``, what becomes of claims that are not to run.
    """
    batches, unprepared = defaultdict[Route, list[IncomingMessage]](list), list[ConsumerRun]()
    for claim in claims:
        plan = plans[claim.channel]
        if plan.sole_route is not None and not (claim.defect or claim.losses):
            route, arguments = plan.sole_route, dict[str, str]()
        elif isinstance(checked := precheck(claim, plan, plan.lease), Outcome):
            reject(claim, checked)
            continue
        else:
            route, arguments = checked
        message = IncomingMessage(claim, route, None if plan.batch is None else on_outcome, stopping)
        is_suspect = claim.losses > 0 and plan.is_suspect(claim)
        if plan.batch is not None and not (claim.alone or is_suspect):
            batches[route].append(message)
            continue
        run = ConsumerRun(route, [message], arguments)
        run.is_suspect = is_suspect
        # One with losses may run in a process of its own, where nothing of this one's is.
        if plan.batch or route.policy.prepare is None or route.policy.isolate or claim.losses:
            yield run
        else:
            unprepared.append(run)
    if unprepared:
        _prepare_messages(unprepared)
        yield from unprepared
    for route, messages in batches.items():
        size = route.policy.batch or 1
        for begin in range(0, len(messages), size):
            yield ConsumerRun(route, messages[begin : begin + size], {})


def _prepare_messages(runs: Sequence[ConsumerRun]) -> None:
    """Call the ``prepare`` of the routes of these runs, once for all of their messages.

    What it raises is logged: each consumer has to do without.
    """
    alike: dict[Callable[..., Any] | None, list[IncomingMessage]] = {}
    for run in runs:
        alike.setdefault(run.route.policy.prepare, []).extend(run.messages)
    for prepare, messages in alike.items():
        try:
            if prepare is not None:
                prepare(messages)
        except Exception:
            logger.exception("the preparation of %s messages raised", len(messages))


def run_in_thread(run: ConsumerRun, layer: DurableLayer) -> None:
    """Run a sync consumer to its outcome, on this thread. Raises nothing."""
    before, run_before = current_message.set(None), current_run.set(run)
    try:
        if message_started.receivers or run.asks_limit:
            _prepare(run)
        current_message.set(run.message)
        if run.route.policy.atomic:
            run_atomic(run, layer)
        else:
            if (result := run.begin()) is not None:
                await_stray(run, result)
        if run.message is None or run.message.ending is None:
            decide_all(run.messages, FINISHED)  # but for what the consumer has settled itself
    except BaseException as error:  # SystemExit and the like are failures of this message, not of the worker
        if run.route.policy.atomic and run.is_committed:
            logger.exception("%s was finished, and then one of its on_commit hooks raised", run.messages[0])
        run.fail(error)
    finally:
        current_message.reset(before)
        current_run.reset(run_before)


async def run_on_loop(run: ConsumerRun) -> None:
    """Run an async consumer to its outcome, on this event loop. Raises nothing."""
    scope, before, run_before = asyncio.timeout(None), current_message.set(None), current_run.set(run)
    try:
        if message_started.receivers or run.asks_limit:
            await sync_to_async(_prepare_aside)(run)
        current_message.set(run.message)
        async with scope:
            # The limit counts from here on: the time of receivers is no part of the run.
            if run.limit is not None and run.report_limit is None:
                scope.reschedule(asyncio.get_running_loop().time() + run.limit)
            result = run.begin()
            if inspect.isawaitable(result):
                await result
        decide_all(run.messages, FINISHED)
    except TimeoutError as error:
        if scope.expired():
            run.give_up()
            run.abandon()  # what it has left on a thread may hold a transaction open
        else:
            run.fail(error)
    except BaseException as error:
        run.cut_off(error)
    finally:
        with suppress(ValueError):  # destroyed unfinished, in another context
            current_message.reset(before)
            current_run.reset(run_before)


def _prepare(run: ConsumerRun) -> None:
    if message_started.receivers:
        run.announce()
    if run.asks_limit:
        run.ask_limit()


def _prepare_aside(run: ConsumerRun) -> None:
    """Call sync code of the project, which Django keeps from the database on a thread with an event loop."""
    try:
        _prepare(run)
    finally:
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:  # a test's own transaction goes on
                connection.close_if_unusable_or_obsolete()
