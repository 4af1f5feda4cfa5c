"""Hold back the tasks that are to follow a batch: they are records from the start, and have no message yet.

So nothing of the caller's code runs when a batch ends, and a follower that cannot run is refused when it is named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from .compat import InvalidTask, task_backends
from .definition import read_follow_up
from .models import BatchRecord, TaskRecord
from .new_records import checked, new_records
from .options import Effective
from .unrecorded import Call


def backend_with_records(alias: str, what: str) -> Any:
    """Return a backend of settings that keeps records. Raises ``InvalidTask`` for any other."""
    backend = task_backends[alias]
    if not hasattr(backend, "task_options"):
        raise InvalidTask(
            f"{what} needs a backend that is mailrail.tasks.ChannelBackend, and {alias!r} is {type(backend).__name__}."
        )
    return backend


def new_followers(
    batch: BatchRecord, using: str, follow_ups: Mapping[str, Any]
) -> list[BatchRecord | TaskRecord]:
    """Return the records of a batch's followers, and the chains that hang on them, to be stored with the batch.

    ``follow_ups``: by ``then``, ``on_failure`` and ``on_finish``. Raises ``InvalidTask``, and what ``enqueue`` raises.
    """
    rows: list[BatchRecord | TaskRecord] = []
    for name, follow_up in follow_ups.items():
        if follow_up is not None:
            rows += _new_follower(batch, using, name, follow_up)
    return rows


def _new_follower(
    batch: BatchRecord, using: str, name: str, follow_up: Any
) -> list[BatchRecord | TaskRecord]:
    task, args, kwargs = read_follow_up(name, follow_up)
    record = _held_record(name, task, (args, kwargs), using)
    record.follows_id = batch.pk
    setattr(batch, f"{name}_id", record.pk)
    then = getattr(task, "then", None)
    return [record] if then is None else [record, *_new_chain(record, then, using)]


def _new_chain(record: TaskRecord, then: Any, using: str) -> list[BatchRecord | TaskRecord]:
    """Make a record the only member of a batch, and return what is to be stored with it."""
    chain = BatchRecord()
    record.batch_id = chain.pk
    return [*new_followers(chain, using, {"then": then}), chain]


def _held_record(name: str, task: Any, call: Call, using: str) -> TaskRecord:
    what = f"{name}={task.module_path}"
    backend = backend_with_records(task.backend, what)
    decorated, effective = checked(backend, task)
    check_recorded(what, effective)
    if backend.database != using:
        raise InvalidTask(
            f"{what} keeps its record in database {backend.database!r}, and its batch is in {using!r}. They commit "
            "together, and so have to be in the same one."
        )
    [record] = new_records(task, decorated, effective, [call])
    if record.key:
        raise InvalidTask(
            f"{what} has a key, so it would not run while its twin waits. Name a task without a key that enqueues it."
        )
    if effective.expires is not None and not isinstance(effective.expires, datetime):
        record.options = {**record.options, "expires": effective.expires}
    record.held = 1
    return record


def check_recorded(what: str, effective: Effective) -> None:
    """Raise ``InvalidTask`` for a task without a record, as nobody could tell that it has ended."""
    if not effective.results:
        raise InvalidTask(
            f"{what} has results=False, and batches count records. Set results=True for this task."
        )


def new_chains(
    records: Sequence[TaskRecord], task: Any, using: str
) -> dict[UUID, list[BatchRecord | TaskRecord]]:
    """Make each record the only member of a batch, and return what is to be stored with it, by the record's id."""
    return {record.id: _new_chain(record, task.then, using) for record in records}


def store_rows(rows: Iterable[BatchRecord | TaskRecord], using: str) -> None:
    """Store new rows, all of a table in one statement."""
    by_model: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        by_model[type(row)].append(row)
    for model, alike in by_model.items():
        model._base_manager.using(using).bulk_create(alike)


def follower_ids(batch: BatchRecord) -> list[UUID | None]:
    """Return the ids of the records of a batch's followers, ``None`` for each that it has not."""
    return [batch.then_id, batch.on_failure_id, batch.on_finish_id]


def drop_held(ids: Iterable[UUID | None], using: str) -> None:
    """Remove followers that will never be enqueued, and the chains that hang on them."""
    held = TaskRecord._base_manager.using(using).filter(pk__in=[id for id in ids if id is not None], held=1)
    chains = [id for id in held.values_list("batch_id", flat=True) if id is not None]
    held.delete()
    if chains:
        rest = BatchRecord._base_manager.using(using).filter(pk__in=chains)
        followers = [id for batch in rest for id in follower_ids(batch)]
        rest.delete()
        drop_held(followers, using)
