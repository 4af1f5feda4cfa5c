"""The databases under measurement, prepared and looked at from outside."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import redis
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from .models import Row
from .settings import ON, valkey_url

HOLE = "?" if ON == "sqlite" else "%s"
"""What stands for a value in a statement of the driver."""


TAG = "{mailrail:asgi:noop}"
"""What the keys of the channel ``noop`` begin with on Redis."""


def create_tables() -> None:
    for alias in connections:
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)


@contextmanager
def bare(alias: str = "default") -> Iterator[Any]:
    """A connection of the driver's own, without Django, in autocommit; SQLite's with the pragmas of ``settings``."""
    if ON == "redis":
        with redis.Redis.from_url(valkey_url(alias)) as client:
            yield client
        return
    given = connections[alias].settings_dict
    if ON == "sqlite":
        with closing(sqlite3.connect(str(given["NAME"]), isolation_level=None)) as found:
            found.execute("PRAGMA synchronous=NORMAL")
            yield found
        return
    import psycopg

    with psycopg.connect(
        host=given["HOST"], port=given["PORT"], user=given["USER"], dbname=given["NAME"], autocommit=True
    ) as connection:
        yield connection


def empty(alias: str = "default") -> None:
    """Remove all messages and rows."""
    if ON == "redis":
        with bare(alias) as client:
            client.execute_command("FLUSHDB", "SYNC")
        return
    how = "DELETE FROM" if ON == "sqlite" else "TRUNCATE"
    with bare(alias) as connection:
        connection.execute(f"{how} mailrail_message")
        connection.execute(f"{how} benchmarks_row")
    checkpoint(alias)


def checkpoint(alias: str = "default") -> None:
    """Move the log into the files, so that the next measurement does not pay for earlier writes."""
    if ON == "redis":
        return
    with bare(alias) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)" if ON == "sqlite" else "CHECKPOINT")


def oldest(count: int, alias: str = "default") -> list[Any]:
    """The ids of the oldest messages on the channel that workers under measurement drain, in their order.

    Asked for anew each time: a worker stopped in a backlog has gone beyond what was watched.
    """
    with bare(alias) as connection:
        if ON == "redis":
            return list(connection.zrange(f"{TAG}:due:0", 0, count - 1))
        rows = connection.execute(
            f"SELECT id FROM mailrail_message WHERE channel = 'noop' AND priority = 0 ORDER BY id LIMIT {count:d}"
        ).fetchall()
    return [id for (id,) in rows]


def left(connection: Any, ids: list[Any]) -> int:
    """How many of these messages are still there."""
    if ON == "redis":
        return sum(state is not None for state in connection.hmget(f"{TAG}:state", ids))
    holes = ", ".join([HOLE] * len(ids))
    counted = connection.execute(f"SELECT COUNT(*) FROM mailrail_message WHERE id IN ({holes})", ids)
    return int(counted.fetchone()[0])


def stored(alias: str = "default") -> int:
    with bare(alias) as connection:
        if ON == "redis":
            return int(connection.zcard(f"{TAG}:due:0"))
        (count,) = connection.execute(
            "SELECT COUNT(*) FROM mailrail_message WHERE channel = 'noop' AND priority = 0"
        ).fetchone()
    return int(count)


def version() -> str:
    if ON == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    with bare() as connection:
        if ON == "redis":
            return f"Valkey {connection.info('server')['valkey_version']}, no append-only file, no snapshots"
        return f"PostgreSQL {connection.execute('SHOW server_version').fetchone()[0]}, default settings"


def new_row(n: int) -> Row:
    """A row like the message ``Channel("noop").send({"n": n})`` makes."""
    now = timezone.now()
    return Row(id=uuid.uuid4().hex, channel="noop", content=json.dumps({"n": n}), due=now, sent_at=now)
