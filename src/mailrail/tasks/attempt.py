"""Run one attempt of a task: begin, call the function, and say what came of it.

``TaskAttempt`` holds what both ways of running share; ``running`` calls the functions, on a thread or an event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from asgiref.sync import async_to_sync
from django.utils import timezone

from mailrail import Later
from mailrail.moments import from_now
from mailrail.worker import IncomingMessage
from mailrail.worker.isolated import is_isolated_process

from .attempts import End, Start, save_progress
from .backend import ChannelBackend
from .compat import Task, task_finished, task_started
from .context import ChannelContext
from .definition import import_by_path, is_stand_in
from .ending import error_of, error_row, send
from .errors import TaskCancelled, TaskDiscarded, TaskNotFound
from .json_values import dumps, normalized
from .listeners import is_heard
from .models import FAILED, READY, SUCCESSFUL, TaskRecord
from .named import named_by
from .options import Effective
from .results import STATUSES, result_of, update
from .retrying import is_discarded, logger, wait_after
from .steps import Steps
from .transactions import write_beside
from .watching import RunState, watcher

MAX_ERRORS = 20
"""Failed attempts that a record keeps, the newest ones."""
MAX_TRACEBACK_LENGTH = 32 * 1024
"""Characters of a traceback that a record keeps: its beginning and its end."""

CANCELLED_RUNNING = "Somebody cancelled it while it ran, and it has stopped."


def start_of(message: IncomingMessage) -> Start | None:
    """Return what is to be written before a message's task runs; ``None`` if the message names no record."""
    claim, named = message.claim, named_by(message.content)
    if named is None:
        return None
    return Start(
        *named,
        token=claim.token or 0,
        fence=claim.claimed_until,
        worker=claim.worker or "",
        is_killable=is_isolated_process(),
        failures=claim.attempt - 1,
    )


def found_task(path: str) -> Any:
    """Return the task at a dotted path. Raises ``TaskNotFound``, or what importing its module raises."""
    try:
        found = import_by_path(path)
    except ImportError as error:
        raise TaskNotFound(f"There is no task at {path!r}: {error}.") from error
    if not isinstance(found, Task):
        raise TaskNotFound(f"{path!r} is no task, but {found!r}.")
    return found


def call(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the function of a task, and return its value. Raises ``TypeError`` for a generator: its body has not run.

    A plain function that wraps an async one returns a coroutine, which has not run yet either. It is run here.
    """
    value = task.func(*args, **kwargs) if type(task).call is Task.call else task.call(*args, **kwargs)
    if value is not None:
        if inspect.iscoroutine(value):
            # As Django's Task.call does, but without a look at each plain function.
            is_async = inspect.iscoroutinefunction(task.func)
            return async_to_sync(_value_of)(value) if is_async else asyncio.run(value)
        if inspect.isgenerator(value) or inspect.isasyncgen(value):
            raise TypeError(f"{task.module_path} returned a generator: its body has not run.")
    return value


async def _value_of(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


@dataclass
class TaskAttempt:
    """An attempt that has begun. ``again_in``: seconds until the next one, if there is to be one.

    ``is_counted``: whether it is an attempt of the record and of its message. One that raised ``Later`` is none.
    """

    message: IncomingMessage
    record: TaskRecord
    backend: ChannelBackend
    again_in: float | None = None
    is_counted: bool = True
    is_cancelled: bool = False
    error: BaseException | None = None
    why: str = ""
    _state: RunState | None = None

    def __post_init__(self) -> None:
        self.result = result_of(self.record)
        self.options: Effective = self.backend.task_options.effective(self.result.task, self.record.task)

    @property
    def state(self) -> RunState:
        """Return what the context may want to know, from the first time on that somebody asks."""
        if self._state is None:
            batch_id = self.record.follows_id or self.record.batch_id
            self._state = RunState(self.record.id, self._token, self.backend.database, self.message, batch_id)
        return self._state

    @property
    def _was_told(self) -> bool:
        """Tell whether the task's code has asked whether it is cancelled, and is."""
        return self._state is not None and self._state.was_told

    # -- running it ---------------------------------------------------------------------------------------------

    def check_found(self) -> None:
        """Raise ``TaskNotFound`` if the worker's code has no such task; or what importing its module raises."""
        if is_stand_in(self.result.task):
            found_task(self.record.task)

    @property
    def arguments(self) -> list[Any]:
        """Return the positional arguments, the context first if the task takes it."""
        if not self.result.task.takes_context:
            return self.result.args
        context = ChannelContext(
            task_result=self.result,
            _message=self.message,
            _state=self.state,
            _save=self._save,
            _steps=Steps(self.record, self.state, self.backend, is_atomic=self.options.atomic),
        )
        return [context, *self.result.args]

    def watched(self) -> AbstractContextManager[None]:
        """Keep the context up to date while the block runs, if the task takes one, or can be killed."""
        is_watched = self.result.task.takes_context or is_isolated_process()
        return watcher.watching(self.state) if is_watched else nullcontext()

    def _save(self, progress: dict[str, Any] | None, metadata: dict[str, Any]) -> None:
        using = self.backend.database
        write = partial(save_progress, self.record.id, self._token, progress, metadata, using)
        if self.record.began_in_transaction:  # nobody else sees the record yet, as in a test
            write()
        else:
            write_beside(write, using)

    @property
    def _token(self) -> int:
        return self.message.claim.token or 0

    # -- what came of it ----------------------------------------------------------------------------------------

    def succeed(self, value: Any) -> End:
        """Return the end of an attempt whose function returned. Raises for a value that JSON does not have."""
        if self._was_told:
            return self.cancel()
        value = normalized(value, "the return value")
        update(self.result, _return_value=value)
        return self._end(SUCCESSFUL, self.record.failures, dumps(value))

    def fail(self, error: BaseException, *, has_run: bool = False) -> End:
        """Return the end of an attempt that raised. ``has_run``: the function did its work, so it is final."""
        if self._was_told:
            return self.cancel(error)
        if isinstance(error, Later) and not has_run:
            return self._postpone(error)
        failures = self.record.failures + 1
        kind = type(error)
        if is_discarded(error, self.options, self.record.task):
            kind = TaskDiscarded
        elif not has_run and failures < self.options.attempts:
            self.again_in = wait_after(error, failures, self.options, self.record.task)
        self.error, self.why = error, describe(error)
        self._add_error(kind, self.why)
        return self._end(FAILED if self.again_in is None else READY, failures)

    def cancel(self, error: BaseException | None = None) -> End:
        """Return the end of an attempt of a cancelled task. ``error``: what it has raised, if it has.

        Called after ``fail``, it takes the place of what that has returned.
        """
        if self.error is not None or self.is_cancelled:
            error = self.error
            self.result.errors.pop()
        self.again_in, self.is_counted, self.is_cancelled, self.error = None, True, True, error
        has_raised = error is not None and not isinstance(error, Later)
        self.why = describe(error) if error and has_raised else f"TaskCancelled: {CANCELLED_RUNNING}\n"
        self._add_error(TaskCancelled, self.why)
        return self._end(FAILED, self.record.failures)

    def _add_error(self, kind: type[BaseException], text: str) -> None:
        self.result.errors.append(error_of(kind, text))
        del self.result.errors[:-MAX_ERRORS]

    def stop(self) -> End:
        """Return the end of an attempt that was interrupted, which is no failure of the task."""
        self.again_in = 0.0
        return self._end(READY, self.record.failures)

    def _postpone(self, later: Later) -> End:
        """Return the end of an attempt that counts as none: the task waits for its next time."""
        self.again_in, self.is_counted, self.why = later.after, False, str(later)
        return replace(self._end(READY, self.record.failures), run_after=from_now(later.after))

    def _end(self, status: str, failures: int, return_value: str | None = None) -> End:
        is_final = status != READY
        finished_at = timezone.now() if is_final else None
        update(self.result, status=STATUSES[status], finished_at=finished_at)
        return End(
            id=self.record.id,
            token=self._token,
            status=status,
            errors=[error_row(error) for error in self.result.errors] if self.result.errors else [],
            failures=failures,
            return_value=return_value,
            progress=self.result.progress,
            metadata=self._metadata(),
            finished_at=finished_at,
            kept_until=self.options.kept_until(status) if is_final else None,
        )

    def _metadata(self) -> dict[str, Any]:
        """Return the metadata as the task has left it, or as it found it if that is no JSON."""
        if type(self.result.metadata) is dict and not self.result.metadata:
            return {}
        try:
            metadata: dict[str, Any] = normalized(self.result.metadata, "metadata")
        except (TypeError, ValueError) as error:
            logger.error("the metadata of %s %s cannot be kept: %s", self.record.task, self.record.id, error)
            metadata = vars(self.record)["metadata"]
        return metadata

    # -- telling it ---------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Send ``task_started``."""
        if is_heard(task_started):
            send(task_started, self.backend, self.result)

    def conclude(self, was_written: bool) -> None:
        """Settle the message, and send ``task_finished`` if this was the end. Called while an error is handled."""
        if not was_written:
            logger.warning(
                "task %s of %s: another worker has it, or its record was changed; this attempt changes nothing",
                *(self.record.id, self.record.task),
            )
            return
        if self.is_cancelled:
            logger.info("task %s of %s was cancelled, and has stopped", self.record.id, self.record.task)
        if self.again_in is None:
            if self.result.status != SUCCESSFUL or is_heard(task_finished):
                send(task_finished, self.backend, self.result)
        elif self.error is not None:
            logger.warning(
                "task %s of %s failed, attempt %s of %s; again in %.1f s",
                *(
                    self.record.id,
                    self.record.task,
                    self.record.failures + 1,
                    self.options.attempts,
                    self.again_in,
                ),
                exc_info=self.error,
            )


def describe(error: BaseException) -> str:
    """Return the traceback of an exception, cut in its middle. Never raises, whatever the exception does."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = f"{type(error).__qualname__} (and it cannot be shown)\n"
    if len(text) <= MAX_TRACEBACK_LENGTH:
        return text
    half = MAX_TRACEBACK_LENGTH // 2 - 3
    return f"{text[:half]}\n…\n{text[-half:]}"
