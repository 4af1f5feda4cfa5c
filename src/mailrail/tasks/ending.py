"""End tasks that do not run, and tell receivers of signals."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from .backend import ChannelBackend
from .batch_ends import look_after
from .compat import TaskError, TaskResultStatus
from .models import FAILED, UNFINISHED, TaskRecord
from .results import ChannelResult, result_of, update
from .retrying import logger


def end_waiting(
    record: TaskRecord, why: Exception, using: str, backend: ChannelBackend
) -> ChannelResult | None:
    """Write that a task has failed for a reason outside its code. Returns its result, or ``None`` as in ``fail``."""
    error = error_of(type(why), f"{type(why).__qualname__}: {why}\n")
    result = result_of(record)
    options = backend.task_options.effective(result.task, record.task)
    if not fail_waiting(record, error_row(error), options.kept_until("FAILED"), using):
        return None
    result.errors.append(error)
    update(result, status=TaskResultStatus.FAILED, finished_at=timezone.now())
    return result


def fail_waiting(record: TaskRecord, error: dict[str, str], kept_until: datetime, using: str) -> bool:
    """Fail a record that is not finished and whose attempt, if there was one, has the same token still.

    Tells whether it was not changed meanwhile.
    """
    unchanged = TaskRecord._base_manager.using(using).filter(
        pk=record.pk,
        dispatch=record.dispatch,
        token=record.token,
        status__in=UNFINISHED,
        expires_at=record.expires_at,  # a twin that joins it may give it more time
    )
    has_failed = unchanged.update(
        status=FAILED,
        token=None,
        errors=[*record.errors, error],
        finished_at=timezone.now(),
        kept_until=kept_until,
    )
    if has_failed and record.batch_id is not None:
        look_after([record.batch_id], using)
    return bool(has_failed)


def error_of(kind: type[BaseException], text: str) -> TaskError:
    """Return an error as results have it."""
    return TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=text)


def error_row(error: TaskError) -> dict[str, str]:
    """Return an error as a record keeps it."""
    return {"class": error.exception_class_path, "traceback": error.traceback}


def send(signal: Any, backend: Any, result: Any) -> None:
    """Send a signal of ``django.tasks``. What a receiver raises is logged and changes nothing."""
    try:
        signal.send_robust(backend.sender, task_result=result)
    except BaseException:  # send_robust lets SystemExit through
        logger.exception("a receiver of a signal of tasks raised, and others may not have been told")
