"""Enqueue tasks: a record and its message, both in the caller's transaction or neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from mailrail import Channel
from mailrail.moments import aware

from .compat import Task, task_enqueued
from .definition import check_importable
from .inserting import insert
from .json_values import normalized
from .models import TaskRecord
from .options import RECORDED_OPTIONS, Effective, differing, to_json
from .queues import channel_of
from .results import ChannelResult, result_of
from .unrecorded import Call, enqueue_unrecorded


def enqueue_many(task: Any, calls: Iterable[Call]) -> list[ChannelResult]:
    """Enqueue a task once for each ``(args, kwargs)``, all or none of them, and return their results.

    Raises what ``enqueue`` raises, and ``TypeError`` for a task of another backend.
    """
    backend = task.get_backend() if isinstance(task, Task) else None
    if not hasattr(backend, "task_options"):
        raise TypeError(
            f"enqueue_many() needs a task whose backend is mailrail.tasks.ChannelBackend, not {task!r}."
        )
    return enqueue_calls(backend, task, [_call(call) for call in calls])


async def aenqueue_many(task: Any, calls: Iterable[Call]) -> list[ChannelResult]:
    """Enqueue from async code, as ``enqueue_many`` does."""
    return await sync_to_async(enqueue_many)(task, list(calls))


def _call(call: Any) -> Call:
    match call:
        case (list() | tuple() as args, dict() as kwargs):
            return args, kwargs
    raise TypeError(f"enqueue_many() needs (args, kwargs) for each call, such as ((7,), {{}}), not {call!r}.")


def enqueue_calls(backend: Any, task: Any, calls: Sequence[Call]) -> list[ChannelResult]:
    """Store a record and a message for each call, or a message alone, and return the results."""
    backend.task_options.check()
    backend.validate_task(task)
    decorated = check_importable(task)
    effective = backend.task_options.effective(task, task.module_path)
    enqueue = _enqueue_recorded if effective.results else enqueue_unrecorded
    results = enqueue(task, decorated, effective, calls, backend.database) if calls else []
    for result in results:
        task_enqueued.send(backend.sender, task_result=result)
    return results


def _enqueue_recorded(
    task: Any, decorated: Any, effective: Effective, calls: Sequence[Call], using: str
) -> list[ChannelResult]:
    template = _template(task, decorated, effective)
    records = [_record(template, effective, args, kwargs) for args, kwargs in calls]
    store(records, using)
    return [result_of(record, task) for record in records]


def _template(task: Any, decorated: Any, effective: Effective) -> dict[str, Any]:
    """Return the columns that are the same for all calls."""
    return {
        "task": task.module_path,
        "queue": task.queue_name,
        "backend": task.backend,
        "priority": int(task.priority),
        "run_after": task.run_after,
        "expires_at": effective.expires_at(),
        "timeout": effective.limit(),
        "is_async": iscoroutinefunction(task.func),
        "options": to_json(differing(task, decorated, RECORDED_OPTIONS)),
        "enqueued_at": timezone.now(),
    }


def _record(
    template: Mapping[str, Any], effective: Effective, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TaskRecord:
    lane = effective.lane_of(args, kwargs) if effective.lane else None
    arguments: dict[str, Any] = {"args": normalized(args, "args"), "kwargs": normalized(kwargs, "kwargs")}
    return TaskRecord(**template, lane=lane or "", **arguments)


def store(records: Sequence[TaskRecord], using: str) -> None:
    with transaction.atomic(using, savepoint=False):
        insert(records, using)
        send(records, using)


def send(records: Iterable[TaskRecord], using: str) -> None:
    """Send the messages of new records on their channels, with the transaction of the database ``using``."""
    alike: dict[tuple[Any, ...], list[TaskRecord]] = defaultdict(list)
    for record in records:
        alike[record.queue, record.priority, record.run_after, record.lane].append(record)
    for (queue, priority, run_after, lane), together in alike.items():
        Channel(channel_of(queue)).send_many(
            [content_of(record) for record in together],
            at=run_after and aware(run_after),
            priority=priority,
            lane=lane or None,
            unique=True,
            using=using,
        )


def content_of(record: TaskRecord) -> dict[str, Any]:
    """Return the content of the message of a record. Reconciliation knows the message by it."""
    content: dict[str, Any] = {"id": str(record.pk)}
    if record.dispatch:
        content["dispatch"] = record.dispatch
    if record.backend != "default":
        content["backend"] = record.backend
    if record.timeout is not None:
        content["timeout"] = record.timeout
    if record.is_async:
        content["run"] = "async"
    return content


def find_record(result_id: Any, using: str) -> TaskRecord | None:
    """Return the record with this id, if the text is an id as ``enqueue`` returns them, and there is a record."""
    try:
        id = UUID(result_id)
    except (TypeError, ValueError, AttributeError):
        return None
    if str(id) != result_id:
        return None
    return TaskRecord.objects.using(using).filter(pk=id).first()
