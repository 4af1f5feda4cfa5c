"""Read entries: from code, with the state that their rows have, and from rows of the admin."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from django.db import connections

from mailrail.moments import as_django

from . import registry
from .choices import CODE
from .definition import Definition, every
from .enqueuing import database
from .models import ScheduleEntry
from .times import Cron, Every


def definition_of(row: ScheduleEntry, declared: Mapping[str, Definition]) -> Definition | None:
    """Return what a row runs; ``None`` if code has declared it, and no longer does.

    Raises ``ValueError`` or ``TypeError`` for a row that cannot be followed, as when code no longer allows its task.
    """
    if row.name in declared or row.source == CODE:
        return declared.get(row.name)
    check_schedulable(row.task, row.channel)
    return Definition(
        name=row.name,
        times=_times(row.cron, row.zone, row.seconds),
        task=row.task,
        args=row.args,
        kwargs=row.kwargs,
        channel=row.channel,
        content=row.content,
        missed=row.missed,
        overlap=row.overlap,
        jitter=row.jitter,
    )


def check_schedulable(task: str, channel: str) -> None:
    """Raise ``ValueError`` unless a row names one thing, and code has marked that with ``schedulable``."""
    if bool(task) == bool(channel):
        raise ValueError("Name a task, or a channel: one of the two.")
    if task and task not in registry.schedulable_tasks():
        raise ValueError(f"task: {task!r} is not marked with @schedulable, so the admin may not run it.")
    if channel and channel not in registry.schedulable_channels():
        raise ValueError(
            f"channel: {channel!r} is not marked with @schedulable, so the admin may not send there."
        )


@lru_cache(maxsize=10_000)
def _times(cron: str, zone: str, seconds: int | None) -> Cron | Every:
    """Return the times of a row. Raises ``ValueError`` for mistakes, and unless it has one of the two."""
    if bool(cron) == (seconds is not None):
        raise ValueError("Give a cron expression, or seconds: one of the two.")
    return Cron(cron, zone or None) if seconds is None else every(seconds=seconds)


def server_time() -> datetime:
    """Return the time of PostgreSQL's server, so that one machine's wrong clock decides nothing; else that of here."""
    connection = connections[database()]
    if connection.vendor != "postgresql":
        return datetime.fromtimestamp(time.time(), UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8")
        return datetime.fromtimestamp(cursor.fetchone()[0], UTC)


def create_rows(definitions: Iterable[Definition], now: datetime) -> dict[str, ScheduleEntry]:
    """Store rows for entries that code declares and no worker has seen, and return them as they are stored."""
    rows = ScheduleEntry.objects.using(database())
    new = [
        ScheduleEntry(name=each.name, source=CODE, times=each.identity, decided_until=as_django(now))
        for each in definitions
    ]
    rows.bulk_create(new, ignore_conflicts=True)  # another worker may be at it, too
    return {row.name: row for row in rows.select_related("last").filter(name__in=[row.name for row in new])}
