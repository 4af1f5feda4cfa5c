"""The databases under measurement, prepared and looked at from outside."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from .models import Row


def create_tables() -> None:
    for alias in connections:
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)


@contextmanager
def bare(alias: str = "default") -> Iterator[sqlite3.Connection]:
    """A connection without Django, in autocommit, with the same pragmas as in ``settings``."""
    with closing(
        sqlite3.connect(str(connections[alias].settings_dict["NAME"]), isolation_level=None)
    ) as found:
        found.execute("PRAGMA synchronous=NORMAL")
        yield found


def empty(alias: str = "default") -> None:
    """Remove all messages and rows."""
    with bare(alias) as connection:
        connection.execute("DELETE FROM mailrail_message")
        connection.execute("DELETE FROM benchmarks_row")
    checkpoint(alias)


def checkpoint(alias: str = "default") -> None:
    """Move the log into the file, so that the next measurement does not pay for earlier writes."""
    with bare(alias) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def oldest(count: int, alias: str = "default") -> list[str]:
    """The ids of the oldest messages, in their order.

    Asked for anew each time: a worker stopped in a backlog has gone beyond what was watched.
    """
    with bare(alias) as connection:
        rows = connection.execute("SELECT id FROM mailrail_message ORDER BY id LIMIT ?", (count,)).fetchall()
    return [id for (id,) in rows]


def left(alias: str = "default") -> int:
    with bare(alias) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM mailrail_message").fetchone()
    return int(count)


def new_row(n: int) -> Row:
    """A row like the message ``Channel("noop").send({"n": n})`` makes."""
    now = timezone.now()
    return Row(id=uuid.uuid4().hex, channel="noop", content=json.dumps({"n": n}), due=now, sent_at=now)
