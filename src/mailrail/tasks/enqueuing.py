"""Enqueue tasks: a record and its message, both in the caller's transaction or neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import transaction
from django.utils import timezone

from .compat import Task, task_enqueued
from .definition import check_importable
from .inserting import insert
from .json_values import normalized
from .keys import insert_or_find_twins, join_twins
from .models import TaskRecord
from .options import RECORDED_OPTIONS, Effective, differing, to_json
from .results import ChannelResult, result_of
from .sending import send
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
    """Store a record and a message for each call, or a message alone, and return the results.

    For a call whose key is taken, that is the result of the task that has it, and nothing is enqueued.
    """
    backend.task_options.check()
    backend.validate_task(task)
    decorated = check_importable(task)
    effective = backend.task_options.effective(task, task.module_path)
    if not calls:
        return []
    if effective.atomic:
        backend.check_atomic()
    if not effective.results:
        return _tell(backend, enqueue_unrecorded(task, decorated, effective, calls, backend.database))
    template = _template(task, decorated, effective)
    records = [_record(template, effective, args, kwargs) for args, kwargs in calls]
    twins = store(records, backend.database)
    new = _tell(backend, [result_of(record, task) for record in records if record.id not in twins])
    if not twins:
        return new
    by_id = {result.id: result for result in new}
    return [by_id.get(str(record.id)) or result_of(twins[record.id]) for record in records]


def _tell(backend: Any, results: list[ChannelResult]) -> list[ChannelResult]:
    for result in results:
        task_enqueued.send(backend.sender, task_result=result)
    return results


def _template(task: Any, decorated: Any, effective: Effective) -> dict[str, Any]:
    """Return the columns that are the same for all calls."""
    return {
        "task": task.module_path,
        "queue": task.queue_name,
        "backend": task.backend,
        "priority": int(task.priority),
        "run_after": task.run_after,
        "expires_at": effective.expires_at(),
        "rate": effective.rate or "",
        "timeout": effective.limit(),
        "is_async": iscoroutinefunction(task.func),
        "is_isolated": effective.isolate,
        "options": to_json(differing(task, decorated, RECORDED_OPTIONS)),
        "enqueued_at": timezone.now(),
    }


def _record(
    template: Mapping[str, Any], effective: Effective, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TaskRecord:
    values: dict[str, Any] = {"args": normalized(args, "args"), "kwargs": normalized(kwargs, "kwargs")}
    if effective.has_lane:
        lane = effective.lane_of(template["task"], args, kwargs)
        values["lane"], values["places"] = lane if isinstance(lane, tuple) else (lane or "", None)
    if effective.key is not None:
        values["key"] = effective.key_of(args, kwargs) or ""
        values["while_running"] = int(effective.while_running)
    return TaskRecord(**template, **values)


def store(records: Sequence[TaskRecord], using: str) -> Mapping[UUID, TaskRecord]:
    """Store records and their messages. Return the twins of those that were not stored, by the ids of these."""
    keyed = [record for record in records if record.key]
    with transaction.atomic(using, savepoint=False):
        insert([record for record in records if not record.key] if keyed else records, using)
        twins = insert_or_find_twins(keyed, using) if keyed else {}
        send([record for record in records if record.id not in twins] if twins else records, using)
        join_twins(keyed, twins, using)
    return twins


def find_record(result_id: Any, using: str) -> TaskRecord | None:
    """Return the record with this id, if the text is an id as ``enqueue`` returns them, and there is a record."""
    try:
        id = UUID(result_id)
    except (TypeError, ValueError, AttributeError):
        return None
    if str(id) != result_id:
        return None
    return TaskRecord.objects.using(using).filter(pk=id).first()
