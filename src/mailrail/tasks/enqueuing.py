"""Enqueue tasks: a record and its message, both in the caller's transaction or neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import OperationalError, ProgrammingError, transaction

from mailrail.missing_tables import migration_for

from .batch_membership import Block, current_block
from .compat import InvalidTask, Task, task_enqueued
from .followers import check_recorded, new_chains, store_rows
from .inserting import insert, insertion_of, note_stored
from .keys import insert_or_find_twins, join_twins
from .listeners import is_heard
from .models import TaskRecord
from .new_records import checked, new_records
from .options import Effective
from .results import ChannelResult, result_of
from .sending import send, send_with_record
from .unrecorded import Call, enqueue_unrecorded


def enqueue_many(task: Any, calls: Iterable[Call]) -> list[ChannelResult]:
    """Enqueue a task once for each ``(args, kwargs)``, all or none of them, and return their results.

    Raises what ``enqueue`` raises, and ``TypeError`` for a task of another backend.
    """
    backend: Any = task.get_backend() if isinstance(task, Task) else None
    if not hasattr(backend, "task_options"):
        raise TypeError(
            f"enqueue_many() needs a task whose backend is mailrail.tasks.ChannelBackend, not {task!r}."
        )
    results: list[ChannelResult] = backend.enqueue_many(task, [_call(call) for call in calls])
    return results


async def aenqueue_many(task: Any, calls: Iterable[Call]) -> list[ChannelResult]:
    """Enqueue from async code, as ``enqueue_many`` does."""
    return await sync_to_async(enqueue_many)(task, list(calls))


def _call(call: Any) -> Call:
    match call:
        case (list() | tuple() as args, dict() as kwargs):
            return args, kwargs
    raise TypeError(f"enqueue_many() needs (args, kwargs) for each call, such as ((7,), {{}}), not {call!r}.")


def enqueue_calls(
    backend: Any, task: Any, calls: Sequence[Call], *, immediately: bool = False
) -> list[ChannelResult]:
    """Store a record and a message for each call, or a message alone, and return the results.

    ``immediately``: send a message alone before the caller's transaction commits, and whatever becomes of it.
    For a call whose key is taken, that is the result of the task that has it, and nothing is enqueued.
    """
    decorated, effective = checked(backend, task)
    if not calls:
        return []
    block, then = current_block(), getattr(task, "then", None)
    if block is not None or then is not None:
        _check_member(backend, task, effective, block)
    if not effective.results:
        alone = enqueue_unrecorded(task, decorated, effective, calls, backend.database, immediately)
        return _tell(backend, alone)
    records = new_records(task, decorated, effective, calls)
    if block is not None:
        for record in records:
            record.batch_id = block.id
    try:
        twins = (
            store(records, backend.database)
            if then is None
            else _store_chains(records, task, backend.database)
        )
    except (OperationalError, ProgrammingError) as error:
        if migration := migration_for(error):
            error.add_note(f"Run: {migration}")
        raise
    new = _tell(backend, [result_of(record, task) for record in records if record.id not in twins])
    if not twins:
        return new
    by_id = {result.id: result for result in new}
    return [by_id.get(str(record.id)) or result_of(twins[record.id]) for record in records]


def _check_member(backend: Any, task: Any, effective: Effective, block: Block | None) -> None:
    """Raise ``InvalidTask`` for a task that can be no member of this batch, or begin no chain."""
    path = task.module_path
    check_recorded(path, effective)
    if block is None:
        return
    if getattr(task, "then", None) is not None:
        raise InvalidTask(
            f"{path} has then, and is enqueued inside a batch, which would not wait for what follows. Leave then out, "
            "and let the task add the next one to its batch, or enqueue the chain outside."
        )
    if block.using != backend.database:
        raise InvalidTask(
            f"{path} keeps its record in database {backend.database!r}, and its batch is in {block.using!r}. They "
            "commit together, and so have to be in the same one."
        )


def _store_chains(records: Sequence[TaskRecord], task: Any, using: str) -> Mapping[UUID, TaskRecord]:
    """Store records as ``store`` does, each as the only member of a batch that another task follows."""
    rows = new_chains(records, task, using)
    with transaction.atomic(using, savepoint=False):
        twins = store(records, using)
        store_rows([row for id, chain in rows.items() if id not in twins for row in chain], using)
    return twins


def _tell(backend: Any, results: list[ChannelResult]) -> list[ChannelResult]:
    if is_heard(task_enqueued):
        for result in results:
            task_enqueued.send(backend.sender, task_result=result)
    return results


def store(records: Sequence[TaskRecord], using: str) -> Mapping[UUID, TaskRecord]:
    """Store records and their messages. Return the twins of those that were not stored, by the ids of these."""
    if len(records) == 1 and not (records[0].key or records[0].lane):
        send_with_record(records[0], insertion_of(records[0], using), using)
        note_stored(records, using)
        return {}
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
