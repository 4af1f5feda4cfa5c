"""New records into the database: one as an INSERT that goes with its message, many by COPY, or as INSERTs on SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from io import StringIO
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from django.db import connections
from django.db.models import NOT_PROVIDED

from mailrail.moments import aware

from ..models import Email, email_of
from .files import Files
from .validation import encode

LINES_PER_WRITE = 100
"""Emails that are handed to the driver together."""


Columns: TypeAlias = dict[str, Any]
"""Values by the names of their columns. What is left out is as the database would fill it in."""


class NewEmail(NamedTuple):
    """Hold an email to be stored. ``content``: its content as JSON text. ``large``: its files that are stored apart."""

    columns: Columns
    content: str
    large: Files

    def email(self, using: str) -> Email:
        """Return the record, as it is stored in this database."""
        return email_of({**_defaults(), "tags": [], "events": [], **self.columns}, using)


class NewEmails:
    """Hold many emails of one transaction, with what else is stored with them.

    An email is turned at once into what the driver takes: on PostgreSQL into a line of COPY. Nothing else of it stays
    in memory then, so that Python's garbage collector has little to look through.
    """

    def __init__(self, new: Iterable[NewEmail], using: str) -> None:
        self.ids: list[UUID] = []
        self.large: dict[UUID, Files] = {}
        self._using = using
        self._rows: dict[tuple[str, ...], list[Any]] = {}  # by the names of their columns
        connection = connections[using]
        self._copies = connection.vendor == "postgresql"
        for email in new:
            id = email.columns["id"]
            self.ids.append(id)
            if email.large:
                self.large[id] = email.large
            row = _line(email) if self._copies else _values(email, connection)
            self._rows.setdefault(tuple(email.columns), []).append(row)

    def insert(self) -> None:
        """Store the records, in the transaction that is open."""
        for names, rows in self._rows.items():
            if self._copies:
                _copy(names, rows, self._using)
                continue
            with connections[self._using].cursor() as cursor:
                cursor.executemany(_insertion(names, ["%s"] * len(names)), rows)


def insertion_of(new: NewEmail, using: str) -> tuple[str, Columns]:
    """Return the INSERT of one record, for ``Channel.send_with_record``. Django's takes SQLite four times as long."""
    connection = connections[using]
    values = _texts(new) if connection.vendor == "postgresql" else _values(new, connection)
    names = [f"email_{name}" for name in new.columns]
    holes = [f"%({name})s" for name in names]
    return _insertion(new.columns, holes), dict(zip(names, values, strict=True))


def _insertion(names: Iterable[str], holes: Iterable[str]) -> str:
    return f"INSERT INTO mailrail_mail_email ({', '.join(names)}) VALUES ({', '.join(holes)})"


def _values(new: NewEmail, connection: Any) -> list[Any]:
    """Return the values as Django hands them to the driver. Its JSON is ASCII, as those who look for a text expect."""
    field: Any = Email._meta.get_field
    return [field(name).get_db_prep_save(value, connection) for name, value in new.columns.items()]


def _texts(new: NewEmail) -> list[str]:
    """Return the values as PostgreSQL reads them."""
    now, now_text = None, ""
    texts = []
    for name, value in new.columns.items():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is datetime:
            if value is not now:  # most are the same
                now, now_text = value, (value if value.tzinfo else aware(value)).isoformat()
            texts.append(now_text)
        elif name == "content":
            texts.append(new.content)
        elif kind is UUID:
            texts.append(value.hex)
        else:
            texts.append(encode(value) if kind is list else str(value))
    return texts


def _line(new: NewEmail) -> str:
    """Return an email as a line (PostgreSQL manual, COPY, "Text Format"). Hardly one has a tab or a line end, as JSON
    has none."""
    texts = _texts(new)
    line = "\t".join(texts).replace("\\", "\\\\")
    if line.count("\t") != len(texts) - 1 or "\n" in line or "\r" in line:
        line = "\t".join(map(_escaped, texts))
    return line + "\n"


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("\t", "\\t")
    return text.replace("\n", "\\n").replace("\r", "\\r")


@lru_cache(maxsize=1)
def _defaults() -> Columns:
    """Return what the database fills in, by the names of the columns. A column without a default is always named."""
    fields = Email._meta.concrete_fields
    return {field.attname: field.db_default for field in fields if field.db_default is not NOT_PROVIDED}


def _copy(names: Sequence[str], lines: Sequence[str], using: str) -> None:
    connection = connections[using]
    connection.validate_no_broken_transaction()
    statement = f"COPY mailrail_mail_email ({', '.join(names)}) FROM STDIN"
    with connection.cursor() as cursor, connection.wrap_database_errors:
        copy_lines(cursor.cursor, statement, lines)


def copy_lines(cursor: Any, statement: str, lines: Sequence[str]) -> None:
    """Execute a COPY with a cursor of psycopg 3 or, which has no ``copy``, of psycopg 2."""
    if not hasattr(cursor, "copy"):
        cursor.copy_expert(statement, StringIO("".join(lines)))
        return
    with cursor.copy(statement) as copy:
        for text in _joined(lines):
            copy.write(text)


def _joined(lines: Sequence[str]) -> Iterator[str]:
    return (
        "".join(lines[begin : begin + LINES_PER_WRITE]) for begin in range(0, len(lines), LINES_PER_WRITE)
    )
