"""Write what the steps of a task have returned, and read it. A worker that has lost its claim writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connections

from mailrail.second_connection import is_in_transaction

from .inserting import prepared_moment
from .models import TaskRecord, TaskStep

# The row of the record is locked until the commit, so that no other attempt begins between this look at the token and
# the commit. The lock waits for an attempt that begins just now, and the token is compared again after that.
_KEEP = """
INSERT INTO mailrail_tasks_taskstep (task_id, name, is_loop, value, started_at, finished_at)
SELECT r.id, %(name)s, %(is_loop)s, %(value)s, %(started_at)s, %(finished_at)s
FROM mailrail_tasks_taskrecord AS r{bound}
WHERE r.id = %(id)s AND r.token = %(token)s{lock}
ON CONFLICT (task_id, name) DO {conflict}
"""
_LOCK = " FOR NO KEY UPDATE OF r"
_BOUND = ", set_config('lock_timeout', '200ms', true) AS bound"
"""Bounds the wait for a record that somebody's transaction has locked, without a further statement."""
_REPLACE = "UPDATE SET value = excluded.value, finished_at = excluded.finished_at"


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step that is done, or a loop that has come to the end of a chunk. ``value``: as JSON."""

    name: str
    is_loop: bool
    value: str
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What earlier attempts have left of a step."""

    is_loop: bool
    value: Any


def load(id: UUID, using: str) -> dict[str, Kept]:
    """Return what is kept of a task, by the names of the steps."""
    rows = TaskStep.objects.using(using).filter(task=id).values_list("name", "is_loop", "value")
    return {name: Kept(is_loop, value) for name, is_loop, value in rows}


def keep(
    step: DoneStep, id: UUID, token: int, using: str, *, replaces: bool = True, is_patient: bool = True
) -> bool:
    """Write a step of an attempt, and tell whether the task is still its own.

    ``replaces``: a row of the same name is written again: an earlier try may have stored it, and its reply was lost.
    ``is_patient``: wait for a locked record as long as that takes. Raises ``OperationalError`` otherwise.
    """
    connection = connections[using]
    is_bounded = not is_patient and not is_in_transaction(using)
    is_postgresql = connection.vendor == "postgresql"
    statement = _KEEP.format(
        bound=_BOUND if is_postgresql and is_bounded else "",
        lock=_LOCK if is_postgresql else "",
        conflict=_REPLACE if replaces else "NOTHING",
    )
    values = {
        "id": TaskRecord._meta.pk.get_db_prep_value(id, connection),
        "token": token,
        "name": step.name,
        "is_loop": step.is_loop,
        "value": step.value,
        "started_at": prepared_moment(step.started_at, using),
        "finished_at": prepared_moment(step.finished_at, using),
    }
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return bool(cursor.rowcount)
