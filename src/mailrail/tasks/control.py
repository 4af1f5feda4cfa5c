"""What people decide about tasks: cancel them, or run them again. Of a person and a worker, one wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from . import attempts, enqueuing
from .batch_ends import is_held_still
from .compat import InvalidTask, TaskResult, TaskResultDoesNotExist, task_enqueued, task_finished
from .ending import end_waiting, send
from .errors import TaskCancelled
from .models import FAILED, READY, RUNNING, SUCCESSFUL, UNFINISHED, TaskRecord, new_id
from .named import backend_of, named_by
from .queues import PREFIX, used_databases
from .results import result_of
from .retrying import logger
from .sending import cancel_message
from .sending import send as send_messages

# Plain here, for programs; the admin translates them.
_NO_SUCH = gettext_noop("there is no such task")
_IS_CANCELLED = gettext_noop("it is cancelled already, and runs until it stops")
_WAITS = gettext_noop("it waits to run already")
_RUNS = gettext_noop("it runs just now")
_HAS_FAILED = gettext_noop("it has failed already")
_HAS_SUCCEEDED = gettext_noop("it was successful")
_HAS_TWIN = gettext_noop("another task with its key waits, or runs")
_CANNOT_BE_KILLED = gettext_noop(
    "it runs in no process of its own, so it cannot be killed: cancel it without hard; with isolate=True, its next "
    "run can be killed"
)
_QUICKER = gettext_noop("it was changed in this very moment")
MAX_TRIES = 5
"""Times that a record is read which workers change in the meantime."""

Subject: TypeAlias = TaskResult | UUID | str  # type: ignore[type-arg,unused-ignore]
Change: TypeAlias = Callable[[TaskRecord, str], str]
"""Changes a record of a database, and returns why it must not be changed, or an empty text."""


@dataclass(frozen=True)
class TaskChanges:
    """``done``: ids of the tasks that were changed. ``refused``: of the others, with the reason."""

    done: list[UUID] = field(default_factory=list)
    refused: dict[UUID, str] = field(default_factory=dict)
    copies: dict[UUID, UUID] = field(default_factory=dict)
    """By ``run_again``: a task's id -> the id of its copy."""


def cancel(task: Subject, *, hard: bool = False) -> bool:
    """Cancel a task, and tell whether it was not finished. ``task``: its result, or the id of that.

    A task that waits fails at once as ``mailrail.tasks.errors.TaskCancelled``. A running one is told by
    ``context.cancelled`` within two seconds; it ends as cancelled if it stops then. If it does not look, it may go on
    to its end, but there is no other attempt. ``hard``: the process that runs it is killed within two seconds, whatever
    its code does. It happens in the caller's transaction. Raises ``TaskResultDoesNotExist`` for an id without a record,
    as for tasks with ``results=False``, and ``InvalidTask`` for ``hard`` and a task that runs without ``isolate``.
    """
    id = _id_of(task)
    reason = cancel_all([id], hard=hard).refused.get(id)
    if reason == _NO_SUCH:
        raise TaskResultDoesNotExist(str(id))
    if reason == _CANNOT_BE_KILLED:
        raise InvalidTask(f"Task {id} is not cancelled: {reason}.")
    return reason in (None, _IS_CANCELLED)


async def acancel(task: Subject, *, hard: bool = False) -> bool:
    """Cancel a task from async code, as ``cancel`` does."""
    return await sync_to_async(cancel)(task, hard=hard)


def _id_of(task: Any) -> UUID:
    if isinstance(task, UUID):
        return task
    text = task if isinstance(task, str) else getattr(task, "id", None)
    if not isinstance(text, str):
        raise TypeError(f"cancel() needs the result of a task, or its id, not {task!r}.")
    try:
        return UUID(text)
    except ValueError:
        raise TaskResultDoesNotExist(text) from None


# -- several, for the admin and the command ----------------------------------------------------------------------------


def cancel_all(ids: Iterable[UUID], *, hard: bool = False) -> TaskChanges:
    """Cancel tasks, as ``cancel`` does one."""
    return _change(ids, partial(_cancel, hard=hard))


def retry_all(ids: Iterable[UUID]) -> TaskChanges:
    """Run tasks that have failed again, with all their attempts. Their records go on."""
    return _change(ids, _retry)


def run_again_all(ids: Iterable[UUID]) -> TaskChanges:
    """Enqueue tasks that have ended once more, as new ones with the same arguments."""
    copies: dict[UUID, UUID] = {}
    changed = _change(ids, partial(_copy, copies))
    return TaskChanges(changed.done, changed.refused, copies)


def end_task_of(message: Any) -> None:
    """Cancel the task whose message somebody has removed, as reconciliation would send that again."""
    named = named_by(message.content) if message.channel.startswith(PREFIX) else None
    if named is not None and "task" not in message.content:
        _change_one(named[0], lambda record, using: _cancel_waiting_for(named[1], record, using))


def _cancel_waiting_for(dispatch: int, record: TaskRecord, using: str) -> str:
    """Cancel a task without its message. A record that says it runs is of a worker that was stopped over it."""
    if record.dispatch != dispatch:
        return _WAITS
    if record.status not in UNFINISHED:
        return _ended(record)
    return _cancel_waiting(record, using)


def find(id: UUID) -> tuple[TaskRecord, str] | None:
    """Return a record, and the alias of the database that has it."""
    for using in used_databases():
        if (record := TaskRecord.objects.using(using).filter(pk=id).first()) is not None:
            return record, using
    return None


def _change(ids: Iterable[UUID], change: Change) -> TaskChanges:
    changed = TaskChanges()
    for id in sorted(set(ids)):  # sorted: no two callers wait for each other
        reason = _change_one(id, change)
        if reason:
            changed.refused[id] = reason
        else:
            changed.done.append(id)
    return changed


def _change_one(id: UUID, change: Change) -> str:
    for _ in range(MAX_TRIES):
        found = find(id)
        if found is None:
            return _NO_SUCH
        with transaction.atomic(found[1]):
            reason = change(*found)
        if reason != _QUICKER:
            break
    return reason


def _cancel(record: TaskRecord, using: str, hard: bool = False) -> str:
    if record.status == READY:
        return _cancel_waiting(record, using)
    if record.status != RUNNING:
        return _ended(record)
    if hard and not record.is_killable:
        return _CANNOT_BE_KILLED
    if record.is_cancelled_hard if hard else record.cancelled_at is not None:
        return _IS_CANCELLED
    if not attempts.ask_to_stop(record.pk, using, hard):
        return _QUICKER
    follows = "killed" if hard else "told"
    logger.info("task %s of %s is cancelled; it runs, and is %s", record.pk, record.task, follows)
    return ""


def _cancel_waiting(record: TaskRecord, using: str) -> str:
    backend = backend_of({"backend": record.backend})
    could = "run" if record.started_at is None else "run again"
    result = end_waiting(
        record, TaskCancelled(f"Somebody cancelled it before it could {could}."), using, backend
    )
    if result is None:
        return _QUICKER
    logger.info("task %s of %s was cancelled before it could %s", record.pk, record.task, could)
    # One that stays does no harm.
    transaction.on_commit(partial(cancel_message, record), using, robust=True)
    transaction.on_commit(partial(send, task_finished, backend, result), using, robust=True)
    return ""


def _ended(record: TaskRecord) -> str:
    return _HAS_SUCCEEDED if record.status == SUCCESSFUL else _HAS_FAILED


def _retry(record: TaskRecord, using: str) -> str:
    if record.status != FAILED:
        return {READY: _WAITS, RUNNING: _RUNS}.get(record.status, _HAS_SUCCEEDED)
    unchanged = TaskRecord.objects.using(using).filter(pk=record.pk, status=FAILED, dispatch=record.dispatch)
    fresh: dict[str, Any] = dict.fromkeys(
        ("token", "fence", "run_after", "expires_at", "finished_at", "kept_until", "cancelled_at", "progress")
    )
    fresh |= {
        "status": READY,
        "failures": 0,
        "is_cancelled_hard": False,
        "held": int(bool(record.held) and is_held_still(record, using)),
        "dispatch": record.dispatch + 1,
    }
    try:
        with transaction.atomic(using):
            is_changed = unchanged.update(**fresh)
    except IntegrityError:  # of the index of keys
        return _HAS_TWIN
    if not is_changed:
        return _QUICKER
    for name, value in fresh.items():
        setattr(record, name, value)
    if not record.held:
        send_messages([record], using)
    logger.info("task %s of %s is to run again, by hand", record.pk, record.task)
    return ""


_COPIED = (
    *("task", "queue", "backend", "priority", "lane", "places", "key", "while_running", "rate"),
    *("timeout", "is_async", "is_isolated", "options", "args", "kwargs"),
)


def _copy(copies: dict[UUID, UUID], record: TaskRecord, using: str) -> str:
    if record.status in UNFINISHED:
        return _WAITS if record.status == READY else _RUNS
    values: dict[str, Any] = {name: getattr(record, name) for name in _COPIED}
    copy = TaskRecord(id=new_id(), enqueued_at=timezone.now(), **values)
    if enqueuing.store([copy], using):
        return _HAS_TWIN
    copies[record.pk] = copy.pk
    send(task_enqueued, backend_of({"backend": copy.backend}), result_of(copy))
    return ""
