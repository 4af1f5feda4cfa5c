"""Enqueue a task with a key once while it waits, or until it is finished.

A unique index over the records that hold a key decides (``models.HOLDS_KEY``). Its condition reads the status, so that
every end frees the key: success, failure, cancelling, expiry, and the death of a worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from uuid import UUID

from django.db import connections, transaction

from mailrail import Channel, LayerUnavailable

from .inserting import insert_unless_held
from .models import READY, TaskRecord
from .queues import channel_of
from .sending import cancel_message, send

MAX_TRIES = 20
"""How often a record is stored anew whose twin begins, or ends, at the same time."""

HOLDER = """
SELECT * FROM mailrail_tasks_taskrecord
WHERE namespace = %(namespace)s AND queue = %(queue)s AND "key" = %(key)s AND task = %(task)s AND "key" > '' AND (
    (started_at IS NULL AND status = 'READY') OR (status IN ('READY', 'RUNNING') AND while_running = 1))
"""
"""Finds the record that holds a key. SQLite takes the index only if its condition, ``HOLDS_KEY``, is repeated."""
_WAITING = """
SELECT * FROM mailrail_tasks_taskrecord WHERE id = %(id)s AND status = 'READY' AND started_at IS NULL"""
"""Finds the holder of a key once more, if it waits still."""


def insert_or_find_twins(records: Sequence[TaskRecord], using: str) -> dict[UUID, TaskRecord]:
    """Store records whose keys are free. Return the records that hold the keys of the others, by the ids of these.

    Raises ``LayerUnavailable`` for a key that is taken and freed as often as it is asked for.
    """
    twins: dict[UUID, TaskRecord] = {}
    left = list(records)
    for _ in range(MAX_TRIES):
        found = {record.id: _holder(record, using) for record in insert_unless_held(left, using)}
        twins.update({id: twin for id, twin in found.items() if twin is not None})
        left = [record for record in left if record.id in found and found[record.id] is None]
        if not left:
            return twins
    raise LayerUnavailable(
        f"The key {left[0].key!r} is taken and freed as often as it is asked for. Try again."
    )


def _holder(record: TaskRecord, using: str) -> TaskRecord | None:
    """Return the record that holds the key of another one; ``None`` if it has just been freed.

    On PostgreSQL, one that waits is locked until the end of the transaction. So it begins when the caller's changes can
    be seen. The lock is the weakest that will do: callers wait for each other only where both change the record.
    """
    values = {name: getattr(record, name) for name in ("namespace", "queue", "key", "task")}
    holder = next(iter(TaskRecord._base_manager.using(using).raw(HOLDER, values)), None)
    if holder is None or not _waits(holder) or connections[using].vendor != "postgresql":
        return holder  # on SQLite, the caller has locked the database since it tried to store its own
    lock = "FOR NO KEY UPDATE" if any(_is_changed(holder, record)) else "FOR SHARE"
    values = {"id": holder.pk}
    return next(iter(TaskRecord._base_manager.using(using).raw(f"{_WAITING} {lock}", values)), None)


def _waits(holder: TaskRecord) -> bool:
    return holder.status == READY and holder.started_at is None


def join_twins(records: Iterable[TaskRecord], twins: Mapping[UUID, TaskRecord], using: str) -> None:
    """Let each waiting twin have the earlier time and the later expiry of the two, as messages with a key have."""
    for record in records:
        twin = twins.get(record.id)
        if twin is not None and _waits(twin):
            _join(twin, record, using)


def _is_changed(twin: TaskRecord, record: TaskRecord) -> tuple[bool, bool]:
    """Tell whether a twin gets an earlier time, and whether a later expiry."""
    is_earlier = twin.run_after is not None and (
        record.run_after is None or record.run_after < twin.run_after
    )
    is_kept_longer = twin.expires_at is not None and (
        record.expires_at is None or record.expires_at > twin.expires_at
    )
    return is_earlier, is_kept_longer


def _join(twin: TaskRecord, record: TaskRecord, using: str) -> None:
    is_earlier, is_kept_longer = _is_changed(twin, record)
    if not (is_earlier or is_kept_longer):
        return
    twin.run_after = record.run_after if is_earlier else twin.run_after
    twin.expires_at = record.expires_at if is_kept_longer else twin.expires_at
    waiting = TaskRecord._base_manager.using(using).filter(pk=twin.pk, status=READY, started_at=None)
    if waiting.update(run_after=twin.run_after, expires_at=twin.expires_at) and is_earlier:
        _bring_forward(twin, using)


def _bring_forward(record: TaskRecord, using: str) -> None:
    """Put a message with the record's time in the place of the one that waits for a later time."""
    layer = Channel(channel_of(record.queue)).layer
    send_anew = partial(_send_anew, record, using)
    if layer.joins_transactions and layer.using == using:
        send_anew()
    else:  # behind those of this transaction that are sent after its commit
        transaction.on_commit(send_anew, using=using)


def _send_anew(record: TaskRecord, using: str) -> None:
    cancel_message(record)
    send([record], using)
