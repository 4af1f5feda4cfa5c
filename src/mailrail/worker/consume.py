"""Running a consumer, and reading what it did as an outcome. Nothing a consumer does gets past this module.

Before that, a claim is checked: can it be read, was it lost too often, which route takes it?
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from .. import options as checked
from ..conf import settings
from ..errors import Discard, Later, LostClaim, Retry
from ..layers import DurableLayer
from ..messages import Message
from ..policy import LimitInContent
from ..routes import Plan, Route
from ..signals import message_started
from ..transient import OUTAGES
from .incoming import IncomingMessage, current_message
from .log import logger
from .outcomes import Outcome, OutcomeKind, send_signal

FINISHED = Outcome(OutcomeKind.FINISHED)
LONGEST_TRACEBACK = 20_000
CANCELLATION_GRACE = 1.0
"""Seconds an async consumer gets to end once its limit is over and it was cancelled."""
RELEASED_FOR = 1.0
"""Seconds until a message is due again whose transaction could not be begun."""
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
        if place := plan.place_of(claim):
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


def _fixed_limit(route: Route) -> float | None:
    """Return the seconds that a run may take: of its route, or of the settings where the route has none, or asks."""
    limit = route.policy.timeout
    return settings.timeout if limit is None or callable(limit) else limit


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
        "_lock",
        "_undo",
        "arguments",
        "channel",
        "holds_thread",
        "is_isolated",
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
        # Seconds this run may take; until ``ask_limit``, those of the settings where the route has a function.
        self.limit = _fixed_limit(route) if self.asks_limit else _limit(route, messages[0])
        self.started_at: float | None = None  # time.monotonic()
        self.overdue_at = float("inf")  # when nobody waits for it any longer
        self.holds_thread = False
        self.is_isolated = False  # it runs in a process of its own, which settles it
        self.on_limit: Callable[[float], object] | None = None  # told what ``ask_limit`` has found
        self.report_limit: Callable[[float | None], None] | None = None  # the supervisor ends this run
        self._lock = threading.Lock()
        self._undo: Callable[[], None] | None = None  # while its transaction is open
        self._abandoned = False

    @property
    def is_committed(self) -> bool:
        """Did the end of an atomic consumer's message commit with its writes?"""
        return all(m.outcome is not None and m.outcome.settled for m in self.messages)

    def announce(self) -> None:
        for message in self.messages:
            send_signal(message_started, self.channel, message=message)

    @property
    def asks_limit(self) -> bool:
        """Has the route a function for the time limit?"""
        limit = self.route.policy.timeout
        return callable(limit) and not isinstance(limit, LimitInContent)

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

    def begin(self) -> None:
        now = time.monotonic()
        # Async ones end by themselves at the limit, unless they hold the loop.
        self._bound(CANCELLATION_GRACE if self.route.is_async else 0.0)
        self.started_at = now  # last: another thread asks for ``look_at``
        for message in self.messages:
            message.started_at = now

    @property
    def look_at(self) -> float:
        """Return when (time.monotonic()) it may be overdue at the earliest. Nobody tells when it begins."""
        if self.started_at is None and self.limit is not None:
            return time.monotonic() + self.limit
        return self.overdue_at

    def call(self) -> Any:
        subject = list(self.messages) if self.message is None else self.message
        return self.route.consume(subject, **self.arguments)

    def succeed(self) -> None:
        """Returning finishes what the consumer has not settled itself."""
        for message in self.messages:
            if message.outcome is None:
                message.decide(FINISHED)

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
            message.decide(
                Outcome(OutcomeKind.RELEASED, f"its consumer was kept from running: {error!r}", RELEASED_FOR)
            )

    def give_up(self) -> None:
        """The time limit is over, and nothing can stop the code that still runs."""
        error = TimeoutError(f"{self.route.name} ran longer than its limit of {self.limit:g} seconds.")
        self.fail(error, timed_out=True)

    @contextmanager
    def undoable(self, layer: DurableLayer) -> Iterator[None]:
        """Inside its transaction: ``abandon`` undoes that, from any thread, until the end of the block."""
        with self._lock:
            if self._abandoned:
                raise _RollBack
            self._undo = layer.breaker()
        try:
            yield
        finally:
            with self._lock:
                self._undo = None
        if self._abandoned:
            raise _RollBack

    def abandon(self) -> None:
        """Nobody waits for it any more: let go of what its transaction has locked."""
        with self._lock:
            self._abandoned = True
            if self._undo is not None:
                self._undo()


def runs_of_batch(route: Route, messages: Sequence[IncomingMessage]) -> Iterator[ConsumerRun]:
    """Yield runs of as many messages as the route takes at once."""
    size = route.policy.batch or 1
    for begin in range(0, len(messages), size):
        yield ConsumerRun(route, messages[begin : begin + size], {})


def prepared(runs: Sequence[ConsumerRun]) -> Sequence[ConsumerRun]:
    """Call the ``prepare`` of the routes of these runs, once for all of their messages, and return the runs.

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
    return runs


def describe(error: BaseException, whole: bool = True) -> str:
    """The traceback as text, its end if it is long; or what the exception says. Never raises, whatever that does."""
    try:
        text = "".join(traceback.format_exception(error)) if whole else str(error)
    except Exception:
        text = f"{type(error).__qualname__} (and it cannot be shown)"
    return text if len(text) <= LONGEST_TRACEBACK else "…" + text[-LONGEST_TRACEBACK:]


def run_in_thread(run: ConsumerRun, layer: DurableLayer) -> None:
    """Run a sync consumer to its outcome, on this thread. Raises nothing."""
    before, run_before = current_message.set(None), _current_run.set(run)
    try:
        _prepare(run)
        current_message.set(run.message)
        if run.route.policy.atomic:
            _run_atomic(run, layer)
        else:
            run.begin()
            if (result := run.call()) is not None:
                _await_stray(run, result)
        run.succeed()
    except BaseException as error:  # SystemExit and the like are failures of this message, not of the worker
        if run.route.policy.atomic and run.is_committed:
            logger.exception("%s was finished, and then one of its on_commit hooks raised", run.messages[0])
        run.fail(error)
    finally:
        current_message.reset(before)
        _current_run.reset(run_before)


_current_run: ContextVar[ConsumerRun | None] = ContextVar("mailrail.consumer_run", default=None)
"""The run of the consumer on this thread."""


class _RollBack(Exception):
    """The message was not finished, so what its consumer wrote is undone."""


def _run_atomic(run: ConsumerRun, layer: DurableLayer) -> None:
    """The consumer's writes, its sends and the end of its message: all of them, or none."""
    [message] = run.messages
    done = False

    def committed() -> None:
        message.outcome = Outcome(OutcomeKind.FINISHED, settled=True)

    with suppress(_RollBack), _transaction(run, layer):
        transaction.on_commit(
            committed, using=layer.using
        )  # before the consumer's own hooks: those may raise
        _await_stray(run, run.call())
        if message.outcome is not None and message.outcome.kind != OutcomeKind.FINISHED:
            raise _RollBack
        if layer.finish([message.claim]):
            raise LostClaim(
                f"{message!r} was claimed by another worker meanwhile; what the consumer wrote is undone."
            )
        done = True
    if done:  # also where a TestCase's transaction around this one never commits
        committed()


@contextmanager
def finishing(message: IncomingMessage, layer: DurableLayer) -> Iterator[None]:
    """Commit the block together with the end of its consumer's message: both, or none.

    For a sync consumer whose route does not say ``atomic``, as only some of its messages need it. At the time limit the
    transaction is undone. Raises ``LostClaim`` if another worker has claimed the message, and ``Later`` if there can be
    no transaction just now.
    """
    run = _current_run.get()
    assert run is not None and run.message is message

    def committed() -> None:
        message.outcome = Outcome(OutcomeKind.FINISHED, settled=True)

    with undoable_transaction(layer):
        transaction.on_commit(committed, using=layer.using)  # before the block's own hooks: those may raise
        yield
        if layer.finish([message.claim]):
            raise LostClaim(f"{message!r} was claimed by another worker meanwhile; what it wrote is undone.")
    committed()  # also where a TestCase's transaction around this one never commits


@contextmanager
def undoable_transaction(layer: DurableLayer) -> Iterator[None]:
    """Run the block in a transaction of the layer's database, which the time limit of a sync consumer undoes.

    Raises ``Later`` if there can be no transaction just now.
    """
    run = _current_run.get()
    with ExitStack() as stack:
        try:
            stack.enter_context(layer.atomic())
        except OUTAGES as error:
            raise Later(f"its transaction cannot be begun: {error}", after=RELEASED_FOR) from error
        if run is not None:
            stack.enter_context(run.undoable(layer))
        yield


@contextmanager
def _transaction(run: ConsumerRun, layer: DurableLayer) -> Iterator[None]:
    """The layer's. Waiting for it is no part of the run: no time of its limit, and no attempt if it cannot be had."""
    with ExitStack() as stack:
        try:
            stack.enter_context(layer.atomic())
        except OUTAGES as error:
            for message in run.messages:
                message.decide(
                    Outcome(OutcomeKind.RELEASED, f"its transaction cannot be begun: {error}", RELEASED_FOR)
                )
            raise _RollBack from error
        run.begin()
        with run.undoable(layer):
            yield


def _await_stray(run: ConsumerRun, result: Any) -> None:
    """A plain function may return a coroutine (a wrapper around an async one does): it has not run yet."""
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{run.route.name} returned a generator: its body has not run.")


async def run_on_loop(run: ConsumerRun) -> None:
    """Run an async consumer to its outcome, on this event loop. Raises nothing."""
    scope, before = asyncio.timeout(None), current_message.set(None)
    try:
        if message_started.receivers or run.asks_limit:
            await sync_to_async(_prepare_aside)(run)
        current_message.set(run.message)
        run.begin()
        async with scope:
            if (
                run.limit is not None and run.report_limit is None
            ):  # from here on: the receivers' time is no part of the run
                scope.reschedule(asyncio.get_running_loop().time() + run.limit)
            result = run.call()
            if inspect.isawaitable(result):
                await result
        run.succeed()
    except TimeoutError as error:
        if scope.expired():
            run.give_up()
        else:
            run.fail(error)
    except BaseException as error:
        run.cut_off(error)
    finally:
        with suppress(ValueError):  # destroyed unfinished, in another context
            current_message.reset(before)


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
