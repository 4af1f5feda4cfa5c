"""Records and the suppression list out of the database, many rows at once, as far as a delivery needs them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db import connections, models

from ..models import Email, email_of

DEFERRED_COLUMNS = frozenset(
    {
        "subject",
        "sensitive",
        "key",
        "digest",
        "tags",
        "related_object",
        "emptied_at",
        "next_try_at",
        "namespace",
    }
)
"""Not asked for. Like any deferred field of Django's, they are fetched should somebody need them."""
_read = json.JSONDecoder().raw_decode


def emails(ids: Collection[UUID], using: str) -> dict[UUID, Email]:
    """Return the emails that exist, by their ids."""
    if connections[using].vendor != "postgresql":
        return Email.objects.using(using).defer(*DEFERRED_COLUMNS).in_bulk(list(ids))
    with connections[using].cursor() as cursor:
        cursor.execute(_statement(), ["{" + ",".join([id.hex for id in ids]) + "}"])
        rows = cursor.fetchall()
    own = {id: id for id in ids}  # a dictionary compares no more where it finds the same object
    return {(email := _email(row, own, using)).id: email for row in rows}


def suppressions(names: Collection[str], using: str) -> list[tuple[str, str, str]]:
    """Return address, reason and note of the rows of these names. ``names``: qualified ones, as the table has them."""
    # The names travel as one value. PostgreSQL's driver takes longer to write hundreds of parameters than the server
    # takes to look them up. SQLite takes at most 32,766 (SQLITE_MAX_VARIABLE_NUMBER), and a batch may have more names.
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(
            _AMONG_JSONB if connection.features.has_native_json_field else _AMONG_JSON, [json.dumps([*names])]
        )
        rows: list[tuple[str, str, str]] = cursor.fetchall()
        return rows


_AMONG_JSONB = """
SELECT address, reason, note FROM mailrail_mail_suppression
WHERE address IN (SELECT jsonb_array_elements_text(%s::jsonb))
"""
_AMONG_JSON = """
SELECT address, reason, note FROM mailrail_mail_suppression
WHERE address IN (SELECT value FROM json_each(%s))
"""


def _email(row: tuple[Any, ...], own: Mapping[UUID, UUID], using: str) -> Email:
    values = dict(zip(_names(), row, strict=True))
    for name in _json():
        text = values[name]
        values[name] = [] if text == "[]" else _read(text)[0]
    values["id"] = own[values["id"]]
    return email_of(values, using)


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(
        name for field in Email._meta.concrete_fields if (name := field.attname) not in DEFERRED_COLUMNS
    )


@lru_cache(maxsize=1)
def _json() -> tuple[str, ...]:
    """Decode JSON that Django has psycopg leave as text."""
    fields = Email._meta.concrete_fields
    return tuple(
        field.attname for field in fields if isinstance(field, models.JSONField) and field.attname in _names()
    )


@lru_cache(maxsize=1)
def _statement() -> str:
    return f"SELECT {', '.join(_names())} FROM mailrail_mail_email WHERE id = ANY (%s::uuid[])"
