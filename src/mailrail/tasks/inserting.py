"""Store new records, many in one statement, past the ORM: it would take most of the time of enqueueing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeAlias
from uuid import UUID

from django.db import connections, models

from .json_values import dumps
from .models import JsonTextField, TaskRecord

Insertion: TypeAlias = tuple[str, dict[str, Any]]
"""An INSERT and its values, as ``Channel.send_with_record`` takes them."""
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
            _execute(cursor, records[begin : begin + ROWS_PER_INSERT], columns, using)
    note_stored(records, using)


def insert_unless_held(records: Sequence[TaskRecord], using: str) -> list[TaskRecord]:
    """Store new records whose keys no others hold, and return those that were not stored.

    On PostgreSQL, the statement waits for a transaction that has stored one with the same key, and is open still.
    """
    columns = _columns(records) + KEYED_COLUMNS
    ending = " ON CONFLICT DO NOTHING RETURNING id"
    stored: set[str] = set()
    with connections[using].cursor() as cursor:
        for begin in range(0, len(records), ROWS_PER_INSERT):
            _execute(cursor, records[begin : begin + ROWS_PER_INSERT], columns, using, ending)
            stored.update(str(id).replace("-", "") for (id,) in cursor.fetchall())
    note_stored([record for record in records if record.id.hex in stored], using)
    return [record for record in records if record.id.hex not in stored]


def _columns(records: Sequence[TaskRecord]) -> tuple[str, ...]:
    return COLUMNS + MEMBERS_COLUMNS if records and records[0].batch_id is not None else COLUMNS


def note_stored(records: Sequence[TaskRecord], using: str) -> None:
    """Let new records know that the database has them."""
    for record in records:
        record._state.adding, record._state.db = False, using


def _execute(
    cursor: Any, records: Sequence[TaskRecord], columns: tuple[str, ...], using: str, ending: str = ""
) -> None:
    statement, values = _insertion(records, columns, using)
    cursor.execute(statement + ending, values)


def insertion_of(record: TaskRecord, using: str) -> Insertion:
    """Return the INSERT of one new record without a key, for ``Channel.send_with_record``."""
    return _insertion([record], _columns([record]), using)


def _insertion(records: Sequence[TaskRecord], columns: tuple[str, ...], using: str) -> Insertion:
    """Return an INSERT of records. A value that all of them share is sent once, and the others in one JSON."""
    values: dict[str, Any] = {}
    own: dict[str, list[Any]] = {}
    of_records = zip(*map(itemgetter(*columns), map(vars, records)), strict=True)
    for name, column in zip(columns, of_records, strict=True):
        texts = tuple(map(dumps, column)) if name in _json_columns() else column
        if _is_shared(texts):
            values[f"record_{name}"] = _stored(texts[0], using)
        else:
            own[name] = [_stored(value, using) for value in texts]
    if own:
        values["records"] = json.dumps(list(zip(*own.values(), strict=True)))
    return _statement(tuple(name for name in columns if name not in own), tuple(own), using), values


def _is_shared(column: tuple[Any, ...]) -> bool:
    """Tell whether all records have the same value. Of an hour that occurs twice, two moments may be equal."""
    first = column[0]
    if isinstance(first, datetime):
        return all(value is first for value in column)
    return column.count(first) == len(column)


def _stored(value: Any, using: str) -> Any:
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return stored_moment(value, using)
    return value


@lru_cache(maxsize=1)
def _json_columns() -> frozenset[str]:
    fields = TaskRecord._meta.concrete_fields
    return frozenset(field.attname for field in fields if isinstance(field, JsonTextField))


@lru_cache
def _statement(shared: tuple[str, ...], own: tuple[str, ...], using: str) -> str:
    """Return an INSERT whose values are those of the ``shared`` columns, and JSON of the rows if they have ``own``."""
    connection = connections[using]
    is_postgresql = connection.vendor == "postgresql"
    types = [TaskRecord._meta.get_field(name).db_type(connection) for name in (*shared, *own)]
    values = [
        f"%(record_{name})s::{kind}" if is_postgresql else f"%(record_{name})s"
        for name, kind in zip(shared, types, strict=False)
    ]
    for n, kind in enumerate(types[len(shared) :]):
        values.append(f"(value ->> {n})::{kind}" if is_postgresql else f"json_extract(value, '$[{n}]')")
    elements = (
        "jsonb_array_elements(%(records)s::jsonb) AS r (value)" if is_postgresql else "json_each(%(records)s)"
    )
    # Without WHERE, SQLite would read the ON of a conflict as that of a join.
    rows = f" FROM {elements} WHERE true" if own else " WHERE true"
    columns = ", ".join((*shared, *own))
    return f"INSERT INTO {TaskRecord._meta.db_table} ({columns}) SELECT {', '.join(values)}{rows}"


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
