"""Run tasks with ``results=False``: the worker's own outcomes say what becomes of their messages.

Nothing is written, and nothing is made that nobody looks at: there is no result without receivers of signals.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from django.utils import timezone

from mailrail import Channel, Discard, Later, LostClaim
from mailrail.worker import IncomingMessage
from mailrail.worker.atomic import finishing

from .aside import tell_aside
from .attempt import call, describe, found_task
from .backend import ChannelBackend
from .compat import TaskError, TaskResultStatus, task_finished, task_started
from .context import ChannelContext
from .definition import changed
from .ending import error_of, send
from .errors import TaskDiscarded, TaskLost
from .listeners import is_heard
from .named import backend_of
from .options import Effective, from_json
from .results import ChannelResult, update
from .retrying import is_discarded, logger, wait_after
from .transactions import closing_transactions
from .unrecorded import result_of_message

RETRY_SOON_S = 5.0
"""Seconds until a task is due again that was interrupted."""


class UnrecordedAttempt:
    """One attempt of a task that has no record."""

    __slots__ = ("_result", "backend", "message", "options", "path", "task")

    def __init__(self, message: IncomingMessage) -> None:
        self.message = message
        self.path = str(message.content["task"])
        self.backend: ChannelBackend = backend_of(message.content)
        self.options: Effective | None = None
        self.task: Any = None
        self._result: ChannelResult | None = None

    def find(self) -> None:
        """Find the task, with its options. Raises ``TaskNotFound``, or what importing its module raises."""
        self.task = found_task(self.path)
        if options := self.message.content.get("options"):
            self.task = changed(self.task, from_json(options))
        self.options = self.backend.task_options.effective(self.task, self.path)

    @property
    def result(self) -> ChannelResult:
        """Return the result that receivers of signals get, and the task's context."""
        if self._result is None:
            self._result = result_of_message(self.message)
        return self._result

    @property
    def has_listeners(self) -> bool:
        """Tell whether somebody may hear that the attempt has failed."""
        return bool(task_finished.receivers)

    @property
    def is_heard(self) -> bool:
        """Tell whether somebody may hear that the attempt begins."""
        return is_heard(task_started)

    def announce(self) -> None:
        """Send ``task_started``."""
        send(task_started, self.backend, self.result)

    @property
    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the call, the context first if the task takes it."""
        content = self.message.content
        args, kwargs = content.get("args", ()), content.get("kwargs", {})
        if self.task.takes_context:
            args = [
                ChannelContext(
                    task_result=self.result, _message=self.message, _state=None, _save=None, _steps=None
                ),
                *args,
            ]
        return args, kwargs

    def transaction(self) -> AbstractContextManager[None]:
        """Return the block in which the function runs: for an atomic task, one that finishes its message."""
        if self.options is None or not self.options.atomic:
            return nullcontext()
        self.backend.check_atomic()
        return finishing(self.message, Channel(self.message.channel).layer)

    # -- what came of it ----------------------------------------------------------------------------------------

    def succeed(self, value: Any) -> None:
        """Send ``task_finished``. Returning finishes the message."""
        outcome = self.message.outcome
        if outcome is None or outcome.settled:
            update(self.result, _return_value=value)
            self._finish(TaskResultStatus.SUCCESSFUL)

    def fail(self, error: BaseException) -> None:
        """Settle the message: it is tried again, dropped, or dead. Called while the error is handled.

        Raises what the worker settles: ``Discard``, ``Later`` and ``LostClaim``.
        """
        if isinstance(error, Later | LostClaim):
            raise error
        if self.message.outcome is not None and self.message.outcome.settled:
            logger.exception("%s was finished, and then one of its on_commit hooks raised", self.message)
            return
        if self._is_discarded(error):
            self._discard(error)
        wait = self._wait_after(error)
        if wait is None:
            self._bury(error)
        elif self.message.outcome is None:
            self.message.retry(wait, describe(error))
            text = "task %s of %s failed, attempt %s of %s; again in %.1f s"
            values = (self.message.id, self.path, self.message.attempt, self.message.claim.max_attempts, wait)
            logger.warning(text, *values, exc_info=error)

    def wait_after_timeout(self, error: TimeoutError) -> float | None:
        """Return the seconds until the next attempt after the worker's time limit, or ``None`` if there is to be none.

        Raises ``Discard`` if ``discard_on`` names the error, and what ``find`` raises.
        """
        self.find()
        if self._is_discarded(error):
            raise _as_discard(error)
        return self._wait_after(error)

    def _is_discarded(self, error: BaseException) -> bool:
        return is_discarded(error, self._options, self.path)

    def _wait_after(self, error: BaseException) -> float | None:
        is_last = self.message.attempt >= (self.message.claim.max_attempts or 1)
        return None if is_last else wait_after(error, self.message.attempt, self._options, self.path)

    @property
    def _options(self) -> Effective:
        return self.options or self.backend.task_options.effective(None, self.path)

    def _discard(self, error: BaseException) -> NoReturn:
        """Tell that the task is over by its own will, and let the worker drop the message."""
        if self.has_listeners and self.message.outcome is None:
            self._finish(TaskResultStatus.FAILED, error_of(TaskDiscarded, describe(error)))
        raise _as_discard(error)

    def _bury(self, error: BaseException) -> None:
        """Keep the message among the dead, and tell it; unless the worker was quicker, as the time limit was over."""
        if self.message.outcome is not None:
            return
        text, is_heard = describe(error), self.has_listeners
        self.message.bury(text, is_logged=is_heard)
        if is_heard:
            self._finish(TaskResultStatus.FAILED, error_of(type(error), text))

    def _finish(self, status: TaskResultStatus, *errors: TaskError) -> None:
        self.result.errors.extend(errors)
        update(self.result, status=status, finished_at=timezone.now())
        send(task_finished, self.backend, self.result)


def _as_discard(error: BaseException) -> Discard:
    return error if isinstance(error, Discard) else Discard(f"{type(error).__qualname__}: {error}")


def run_unrecorded(message: IncomingMessage) -> None:
    """Run the task of a message, on a thread."""
    attempt = UnrecordedAttempt(message)
    if attempt.is_heard:
        attempt.announce()
    try:
        attempt.find()
        args, kwargs = attempt.arguments
        with attempt.transaction(), closing_transactions(attempt.path):
            value = call(attempt.task, args, kwargs)
    except KeyboardInterrupt:
        message.release(RETRY_SOON_S, "it was interrupted")
        raise
    except BaseException as error:
        attempt.fail(error)
    else:
        if is_heard(task_finished):
            attempt.succeed(value)


async def run_unrecorded_async(message: IncomingMessage) -> None:
    """Run the task of a message, on an event loop."""
    attempt = UnrecordedAttempt(message)
    if attempt.is_heard:
        await tell_aside(attempt.announce)
    try:
        attempt.find()
        args, kwargs = attempt.arguments
        value = await attempt.task.acall(*args, **kwargs)
    except KeyboardInterrupt:
        message.release(RETRY_SOON_S, "it was interrupted")
        raise
    except asyncio.CancelledError as error:
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise
        await tell_aside(_fail_handling, attempt, error)  # the task's own matter
    except BaseException as error:
        await tell_aside(_fail_handling, attempt, error)
    else:
        if is_heard(task_finished):
            await tell_aside(attempt.succeed, value)


def _fail_handling(attempt: UnrecordedAttempt, error: BaseException) -> None:
    """Fail an attempt on a thread where receivers may use the database, and see the error as being handled."""
    trace = error.__traceback__
    try:
        raise error
    except BaseException:
        error.__traceback__ = trace
        attempt.fail(error)


def tell_buried(message: IncomingMessage, error: str) -> None:
    """Send ``task_finished`` for a message that the worker has buried itself: it was lost, or its time was up."""
    outcome = message.outcome
    attempt = UnrecordedAttempt(message)
    if (outcome is not None and outcome.is_logged) or not attempt.has_listeners:
        return
    kind = TimeoutError if outcome is not None and outcome.timed_out else TaskLost
    attempt._finish(TaskResultStatus.FAILED, error_of(kind, error))


def tell_discarded(message: IncomingMessage, error: str) -> None:
    """Send ``task_finished`` for a message that was dropped at its time limit, as ``discard_on`` says."""
    outcome = message.outcome
    attempt = UnrecordedAttempt(message)
    if outcome is not None and outcome.timed_out and attempt.has_listeners:
        attempt._finish(TaskResultStatus.FAILED, error_of(TaskDiscarded, error))
