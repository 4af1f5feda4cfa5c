"""What the soak has to know for certain is in the same database, written in the same transactions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

TABLES = """
CREATE TABLE soak_sent (id uuid PRIMARY KEY, channel text NOT NULL, dies boolean NOT NULL);
CREATE TABLE soak_done (id uuid NOT NULL)
"""


def make_tables() -> None:
    with connection.cursor() as cursor:
        cursor.execute(TABLES)


def record(ids: Sequence[UUID], channel: str, dies: bool = False) -> None:
    """Sent, if this transaction commits. The id of a duplicate was recorded before."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO soak_sent SELECT id, %s, %s FROM unnest(%s::uuid[]) AS id ON CONFLICT DO NOTHING",
            [channel, dies, list(ids)],
        )


def record_done(id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO soak_done VALUES (%s)", [id])


def unknown(ids: Iterable[str]) -> list[str]:
    """Those that no committed transaction has sent."""
    return _ids(
        "SELECT ran.id FROM unnest(%s::uuid[]) AS ran (id) "
        "WHERE NOT EXISTS (SELECT FROM soak_sent s WHERE s.id = ran.id)",
        [list(ids)],
    )


def done_twice() -> list[str]:
    return _ids("SELECT id FROM soak_done GROUP BY id HAVING count(*) > 1", [])


def sent_on(channel: str) -> set[str]:
    return set(_ids("SELECT id FROM soak_sent WHERE channel = %s", [channel]))


def sent_to_die() -> set[str]:
    return set(_ids("SELECT id FROM soak_sent WHERE dies", []))


def all_sent() -> set[str]:
    return set(_ids("SELECT id FROM soak_sent", []))


def all_done() -> set[str]:
    return set(_ids("SELECT id FROM soak_done", []))


def claimed_by(workers: Iterable[str]) -> set[str]:
    """What is leased to worker processes whose names begin so."""
    return set(
        _ids(
            "SELECT id FROM mailrail_message WHERE token IS NOT NULL AND worker LIKE ANY (%s)",
            [[f"{name}%" for name in workers]],
        )
    )


def claimed_on(channel: str) -> set[str]:
    return set(_ids("SELECT id FROM mailrail_message WHERE token IS NOT NULL AND channel = %s", [channel]))


def left_of(ids: Iterable[str]) -> set[str]:
    """Those that have not ended."""
    return set(_ids("SELECT id FROM mailrail_message WHERE id = ANY (%s::uuid[])", [list(ids)]))


def rows_left() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mailrail_message")
        [count] = cursor.fetchone()
    return int(count)


def dead() -> dict[str, int]:
    """The losses of each dead message."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, losses FROM mailrail_dead")
        return {str(id): losses for id, losses in cursor.fetchall()}


def _ids(query: str, values: Sequence[Any]) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return [str(id) for (id,) in cursor.fetchall()]
