"""New records into the database, many at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import NOT_PROVIDED
from django.db.models.expressions import DatabaseDefault

from mailrail.moments import aware

from ..models import Email

ROWS_PER_INSERT = 1000
"""Emails that one INSERT stores."""


def insert(emails: Sequence[Email], using: str) -> None:
    """Store them, in the transaction that is open.

    Columns that the database would fill in the same way are left out: its part of the work grows with each.
    """
    if connections[using].vendor != "postgresql":
        Email.objects.using(using).bulk_create(emails, batch_size=ROWS_PER_INSERT)
        return
    rows = [_row(email) for email in emails]
    with connections[using].cursor() as cursor:
        for names, together in _alike(rows):
            cursor.execute(_statement(names, using), [json.dumps(together)])
    for email in emails:
        email._state.adding, email._state.db = False, using


def insert_with_message(email: Email) -> tuple[str, dict[str, Any]]:
    """Return the INSERT of one record, for ``Channel._send_with``; only for PostgreSQL.

    As plain values: for one row, that is less work for the server than reading JSON.
    """
    row = _row(email)
    plain = {
        f"email_{name}": json.dumps(value) if isinstance(value, list | dict) else value
        for name, value in row.items()
    }
    columns, holes = ", ".join(row), ", ".join(f"%({name})s" for name in plain)
    return f"INSERT INTO mailrail_mail_email ({columns}) VALUES ({holes})", plain


def _row(email: Email) -> dict[str, Any]:
    """Return the columns that differ from the database's defaults."""
    values = vars(email)
    row = {}
    for name, default in _columns():
        value = values[name]
        kind = type(value)
        if kind is datetime:
            row[name] = value.isoformat() if value.tzinfo else aware(value).isoformat()
        elif kind is UUID:
            row[name] = value.hex
        elif kind is not DatabaseDefault and value != default:
            row[name] = value
    return row


@lru_cache(maxsize=1)
def _columns() -> tuple[tuple[str, Any], ...]:
    """Their names, and the database's defaults; a column without one is always named."""
    fields = Email._meta.concrete_fields
    nothing = object()
    return tuple(
        (field.attname, nothing if field.db_default is NOT_PROVIDED else field.db_default) for field in fields
    )


def _alike(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    """Yield rows of the same columns, so many at a time."""
    by_names: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_names.setdefault(tuple(row), []).append(row)
    for names, alike in by_names.items():
        for begin in range(0, len(alike), ROWS_PER_INSERT):
            yield names, alike[begin : begin + ROWS_PER_INSERT]


@lru_cache(maxsize=16)
def _statement(names: tuple[str, ...], using: str) -> str:
    """Return the INSERT of rows from one JSON text: Django prepares each value of each row, for half of all time."""
    connection = connections[using]
    quote = connection.ops.quote_name
    types = {field.attname: field.db_type(connection) for field in Email._meta.concrete_fields}
    columns = ", ".join(map(quote, names))
    typed = ", ".join(f"{quote(name)} {types[name]}" for name in names)
    return (
        f"INSERT INTO {quote(Email._meta.db_table)} ({columns}) "
        f"SELECT {columns} FROM jsonb_to_recordset(%s::jsonb) AS r ({typed})"
    )
