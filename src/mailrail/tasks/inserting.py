"""Store new records, many in one statement, past the ORM: it would take most of the time of enqueueing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db import connections, models

from .json_values import dumps
from .models import JsonTextField, TaskRecord

ROWS_PER_INSERT = 1000
"""Records that one INSERT stores."""
COLUMNS = (
    *("id", "task", "queue", "backend", "priority", "run_after", "expires_at", "lane", "places", "rate"),
    *("timeout", "is_async", "is_isolated", "options", "args", "kwargs", "enqueued_at", "namespace"),
)
"""Of a new record. The database fills in the others."""
KEYED_COLUMNS = ("key", "while_running")
"""Besides, of a new record with a key."""
MEMBERS_COLUMNS = ("batch_id",)
"""Besides, of a new record in a batch."""


def insert(records: Sequence[TaskRecord], using: str) -> None:
    """Store new records without keys, either members of batches or not."""
    columns = _columns(records)
    with connections[using].cursor() as cursor:
        for begin in range(0, len(records), ROWS_PER_INSERT):
            rows = [_row(record, columns, using) for record in records[begin : begin + ROWS_PER_INSERT]]
            cursor.execute(_statement(columns, using), [json.dumps(rows)])
    _note_stored(records, using)


def insert_unless_held(records: Sequence[TaskRecord], using: str) -> list[TaskRecord]:
    """Store new records whose keys no others hold, and return those that were not stored.

    On PostgreSQL, the statement waits for a transaction that has stored one with the same key, and is open still.
    """
    columns = _columns(records) + KEYED_COLUMNS
    statement = f"{_statement(columns, using)} ON CONFLICT DO NOTHING RETURNING id"
    stored: set[str] = set()
    with connections[using].cursor() as cursor:
        for begin in range(0, len(records), ROWS_PER_INSERT):
            rows = [_row(record, columns, using) for record in records[begin : begin + ROWS_PER_INSERT]]
            cursor.execute(statement, [json.dumps(rows)])
            stored.update(str(id).replace("-", "") for (id,) in cursor.fetchall())
    _note_stored([record for record in records if record.id.hex in stored], using)
    return [record for record in records if record.id.hex not in stored]


def _columns(records: Sequence[TaskRecord]) -> tuple[str, ...]:
    return COLUMNS + MEMBERS_COLUMNS if records and records[0].batch_id is not None else COLUMNS


def _note_stored(records: Sequence[TaskRecord], using: str) -> None:
    for record in records:
        record._state.adding, record._state.db = False, using


def _row(record: TaskRecord, columns: tuple[str, ...], using: str) -> list[Any]:
    values = vars(record)
    return [
        dumps(values[name]) if is_json else _plain(values[name], using)
        for name, is_json in zip(columns, _are_json(columns), strict=True)
    ]


def _plain(value: Any, using: str) -> Any:
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return stored_moment(value, using)
    return value


@lru_cache
def _are_json(columns: tuple[str, ...]) -> tuple[bool, ...]:
    return tuple(isinstance(TaskRecord._meta.get_field(name), JsonTextField) for name in columns)


@lru_cache
def _statement(columns: tuple[str, ...], using: str) -> str:
    connection, into = connections[using], f"INSERT INTO {TaskRecord._meta.db_table} ({', '.join(columns)})"
    if connection.vendor == "postgresql":
        types = [TaskRecord._meta.get_field(name).db_type(connection) for name in columns]
        values = ", ".join(f"(r ->> {n})::{kind}" for n, kind in enumerate(types))
        return f"{into} SELECT {values} FROM jsonb_array_elements(%s::jsonb) AS r"
    values = ", ".join(f"json_extract(value, '$[{n}]')" for n in range(len(columns)))
    # Without WHERE, SQLite would read the ON of a conflict as that of a join.
    return f"{into} SELECT {values} FROM json_each(%s) WHERE true"


def prepared_moment(moment: datetime, using: str) -> Any:
    """Return a moment as the driver of the database takes it."""
    return _moment_field().get_db_prep_value(moment, connections[using])


def stored_moment(moment: datetime | None, using: str) -> str | None:
    """Return a moment as text that the database reads."""
    if moment is None:
        return None
    prepared = prepared_moment(moment, using)
    return prepared.isoformat() if isinstance(prepared, datetime) else str(prepared)


@lru_cache(maxsize=1)
def _moment_field() -> models.Field[Any, Any]:
    return TaskRecord._meta.get_field("enqueued_at")
