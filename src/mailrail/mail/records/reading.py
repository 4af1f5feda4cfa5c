"""Records and the suppression list out of the database, many rows at once, as far as a delivery needs them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
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


class Obstacles(NamedTuple):
    """Tell which lists may keep email from leaving: those that are empty need no query of their own."""

    suppressions: bool = True
    mailer_states: bool = True
    refused_senders: bool = True


def emails(ids: Collection[UUID], using: str) -> dict[UUID, Email]:
    """Return the emails that exist, by their ids."""
    return emails_and_obstacles(ids, using)[0]


def emails_and_obstacles(ids: Collection[UUID], using: str) -> tuple[dict[UUID, Email], Obstacles]:
    """Return the emails that exist, by their ids, and what is known of obstacles by the same round trip."""
    if connections[using].vendor != "postgresql":
        return Email.objects.using(using).defer(*DEFERRED_COLUMNS).in_bulk(list(ids)), Obstacles()
    with connections[using].cursor() as cursor:
        cursor.execute(_statement(), ["{" + ",".join([id.hex for id in ids]) + "}"])
        rows = cursor.fetchall()
    own = {id: id for id in ids}  # a dictionary compares no more where it finds the same object
    names = _names()
    found = {(email := _email(row, names, own, using)).id: email for row in rows}
    return found, Obstacles(*rows[0][len(names) :]) if rows else Obstacles()


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


def _email(row: tuple[Any, ...], names: Sequence[str], own: Mapping[UUID, UUID], using: str) -> Email:
    values = dict(zip(names, row, strict=False))  # behind its columns are the obstacles
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
    return f"""
SELECT {", ".join(_names())},
    EXISTS (SELECT FROM mailrail_mail_suppression),
    EXISTS (SELECT FROM mailrail_mail_mailerstate),
    EXISTS (SELECT FROM mailrail_mail_refusedsender)
FROM mailrail_mail_email WHERE id = ANY (%s::uuid[])
"""
