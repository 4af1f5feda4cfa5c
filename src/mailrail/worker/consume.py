"""Running a consumer, and reading what it did as an outcome. Nothing a consumer does gets past this module."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections, transaction

from ..conf import settings
from ..errors import Discard, LostClaim, Retry
from ..layers import DurableLayer
from ..routes import Route
from ..signals import message_started
from .events import send_started
from .execution_context import execution_context
from .incoming import IncomingMessage
from .leases import OUTAGES
from .log import logger
from .outcomes import Outcome, OutcomeKind

LONGEST_TRACEBACK = 20_000
CANCELLATION_GRACE = 1.0
"""Seconds an async consumer gets to end once its limit is over and it was cancelled."""
RELEASED_FOR = 1.0
"""Seconds until a message is due again whose transaction could not be begun."""


class ConsumerRun:
    """Messages on their way through one run of a consumer: one of them, or a batch."""

    __slots__ = (
        "_abandoned",
        "_lock",
        "_undo",
        "arguments",
        "holds_thread",
        "in_pool",
        "messages",
        "overdue_at",
        "route",
        "started_at",
    )

    def __init__(self, route: Route, messages: Sequence[IncomingMessage], arguments: dict[str, str]) -> None:
        self.route = route
        self.messages = messages
        self.arguments = arguments
        self.started_at: float | None = None  # time.monotonic()
        self.overdue_at = float("inf")  # when nobody waits for it any longer
        self.holds_thread = False
        self.in_pool = True  # False: it runs in a process of its own
        self._lock = threading.Lock()
        self._undo: Callable[[], None] | None = None  # while its transaction is open
        self._abandoned = False

    @property
    def channel(self) -> str:
        return self.messages[0].channel

    @property
    def limit(self) -> float | None:
        """Seconds this run may take."""
        return self.route.policy.timeout or settings.timeout

    @property
    def is_committed(self) -> bool:
        """Did the end of an atomic consumer's message commit with its writes?"""
        return all(m.outcome is not None and m.outcome.settled for m in self.messages)

    def announce(self) -> None:
        for message in self.messages:
            send_started(message)

    def begin(self) -> None:
        self.started_at = time.monotonic()
        if (limit := self.limit) is not None:
            # Async ones end by themselves at the limit, unless they hold the loop.
            self.overdue_at = self.started_at + limit + (CANCELLATION_GRACE if self.route.is_async else 0.0)
        for message in self.messages:
            message.started_at = self.started_at

    def call(self) -> Any:
        subject = self.messages[0] if self.route.policy.batch is None else list(self.messages)
        return self.route.consume(subject, **self.arguments)

    def succeed(self) -> None:
        """Returning finishes what the consumer has not settled itself."""
        for message in self.messages:
            message.decide(Outcome(OutcomeKind.FINISHED))

    def fail(self, error: BaseException) -> None:
        """Raising settles the rest: retried, buried after the last attempt, or discarded."""
        several = len(self.messages) > 1
        for message in self.messages:
            if message.outcome is None:
                message.decide(self._verdict(message, error, alone=several))

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
        self.fail(TimeoutError(f"{self.route.name} ran longer than its limit of {self.limit:g} seconds."))

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

    def _verdict(self, message: IncomingMessage, error: BaseException, alone: bool) -> Outcome:
        if isinstance(error, Discard):
            return Outcome(OutcomeKind.DISCARDED, describe(error, whole=False))
        # A kind of Retry may have an __init__ of its own that leaves out ours.
        after = getattr(error, "after", None) if isinstance(error, Retry) else None
        return message.failed(describe(error), after, alone)


def describe(error: BaseException, whole: bool = True) -> str:
    """The traceback as text, its end if it is long; or what the exception says. Never raises, whatever that does."""
    try:
        text = "".join(traceback.format_exception(error)) if whole else str(error)
    except Exception:
        text = f"{type(error).__qualname__} (and it cannot be shown)"
    return text if len(text) <= LONGEST_TRACEBACK else "…" + text[-LONGEST_TRACEBACK:]


def run_in_thread(run: ConsumerRun, layer: DurableLayer) -> None:
    """Run a sync consumer to its outcome, on this thread. Raises nothing."""
    try:
        run.announce()
        with execution_context(run.route, run.messages):
            if run.route.policy.atomic:
                _run_atomic(run, layer)
            else:
                run.begin()
                _await_stray(run, run.call())
        run.succeed()
    except BaseException as error:  # SystemExit and the like are failures of this message, not of the worker
        if run.is_committed:
            logger.exception("%s was finished, and then one of its on_commit hooks raised", run.messages[0])
        run.fail(error)


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
    scope = asyncio.timeout(None)
    try:
        await _announce(run)
        run.begin()
        with execution_context(run.route, run.messages):
            async with scope:
                if run.limit is not None:  # from here on: the receivers' time is no part of the run
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


async def _announce(run: ConsumerRun) -> None:
    """Receivers of signals are sync code, which Django keeps from the database on a thread with an event loop."""

    def announce() -> None:
        try:
            run.announce()
        finally:
            close_old_connections()

    if message_started.receivers:
        await sync_to_async(announce)()
