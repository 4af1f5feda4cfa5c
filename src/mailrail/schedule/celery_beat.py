"""Say for each row of django-celery-beat's tables what entry of the schedule it becomes, or why it becomes none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connections, transaction
from django.utils import timezone

from mailrail.moments import as_django, aware, for_people

from . import registry
from .celery_beat_tables import BeatClocked, BeatCrontab, BeatInterval, BeatSolar, BeatTask, missing_from
from .celery_crontab import FIELDS, expression_of
from .choices import ADMIN
from .definition import Definition
from .enqueuing import database
from .entries import definition_of, server_time
from .models import ScheduleEntry
from .zones import load_zone

_KINDS = {
    "interval_id": BeatInterval,
    "crontab_id": BeatCrontab,
    "solar_id": BeatSolar,
    "clocked_id": BeatClocked,
}
_NOT_TAKEN = ("queue", "exchange", "routing_key", "priority", "expire_seconds")
"""Options of a run that belong to the task here: its queue, its priority and its ``expires``."""
_REPEATS = "and entries repeat: enqueue it with run_after, or send it with at"


@dataclass(frozen=True)
class PlannedEntry:
    """Say what becomes of a row: ``entry``, not yet stored, or a ``refusal``. ``notes`` say what is not taken over."""

    name: str
    entry: ScheduleEntry | None = None
    definition: Definition | None = None
    refusal: str = ""
    notes: Sequence[str] = ()


def plan_import(using: str, renamed: Mapping[str, str] | None = None) -> list[PlannedEntry]:
    """Return what becomes of each row of the tables in a database, by name. Nothing is written.

    ``renamed``: for tasks of Celery, the paths of tasks that take their place. Raises ``ValueError`` if tables or
    columns are missing.
    """
    if using not in connections:
        raise ValueError(f"There is no database {using!r}. Name one of DATABASES: {', '.join(connections)}.")
    if missing := missing_from(using):
        raise ValueError(
            f"The database {using!r} does not have the tables of django-celery-beat 2.9: there is no "
            f"{', '.join(missing)}. Name another database, or migrate them with that version first."
        )
    schedules = {name: kind._default_manager.using(using).in_bulk() for name, kind in _KINDS.items()}
    taken = {*registry.definitions(), *ScheduleEntry.objects.using(database()).values_list("name", flat=True)}
    rows = BeatTask._default_manager.using(using).order_by("name")
    return [_planned(row, schedules, taken, renamed or {}) for row in rows]


def apply_import(planned: Sequence[PlannedEntry]) -> int:
    """Store the planned entries, all of them or none, and return their number.

    Nothing before now was missed: so far, beat has run them, or nobody wanted them to run.
    """
    entries, now = [each.entry for each in planned if each.entry is not None], as_django(server_time())
    for entry in entries:
        entry.decided_until = now
    with transaction.atomic(database()):
        ScheduleEntry.objects.using(database()).bulk_create(entries)
    return len(entries)


def _planned(
    row: BeatTask, schedules: Mapping[str, Mapping[int, Any]], taken: set[str], renamed: Mapping[str, str]
) -> PlannedEntry:
    try:
        if row.name in taken:
            raise ValueError("the schedule has an entry of this name already")
        _check_due(row)
        times = _times(row, schedules)
        _check_lasting(row)
        entry = ScheduleEntry(name=row.name, source=ADMIN, **times, **_call(row, renamed))
        definition = definition_of(entry, {})
    except (ValueError, TypeError) as error:
        return PlannedEntry(row.name, refusal=str(error))
    if not row.enabled:
        entry.paused_at, entry.paused_reason = timezone.now(), "off in django-celery-beat"
    return PlannedEntry(row.name, entry, definition, notes=[*_notes(row)])


def _check_due(row: BeatTask) -> None:
    """Raise ``ValueError`` for a row that beat itself would never run again."""
    if row.task.startswith("celery."):
        raise ValueError("it is a task of Celery itself, which beat adds")
    if row.one_off and (row.total_run_count or not row.enabled):
        raise ValueError("it is one_off and has run, or was turned off: never due again")
    if row.expires is not None and aware(row.expires) <= datetime.now(UTC):
        raise ValueError(f"it has expired at {for_people(row.expires)}: never due again")


def _check_lasting(row: BeatTask) -> None:
    """Raise ``ValueError`` for a row with a beginning or an end to come, which entries do not have."""
    if row.one_off:
        raise ValueError(f"it is one_off, {_REPEATS}")
    if row.expires is not None:
        raise ValueError(f"it expires at {for_people(row.expires)}, and entries have no end")
    if row.start_time is not None and aware(row.start_time) > datetime.now(UTC):
        raise ValueError(f"it begins at {for_people(row.start_time)}: import it then")


def _times(row: BeatTask, schedules: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    """Return when an entry is due, as values of its columns. Raises ``ValueError``."""
    kinds = [name for name in _KINDS if getattr(row, name) is not None]
    if len(kinds) != 1:
        raise ValueError(
            "it has no times" if not kinds else f"it has {' and '.join(kinds)}, and may have one of them"
        )
    schedule = schedules[kinds[0]].get(getattr(row, kinds[0]))
    match schedule:
        case BeatInterval():
            return {"seconds": _whole_seconds(schedule)}
        case BeatCrontab():
            expression = expression_of({name: getattr(schedule, name) for name in FIELDS})
            return {"cron": expression, "zone": _zone(schedule)}
        case BeatSolar():
            raise ValueError(
                f"its times are solar: {schedule.event} at {schedule.latitude}, {schedule.longitude}. The schedule "
                "does not know the sun"
            )
        case BeatClocked():
            raise ValueError(f"its time is clocked, at {for_people(schedule.clocked_time)}, {_REPEATS}")
    raise ValueError(f"its {kinds[0]} names no row")


def _whole_seconds(schedule: BeatInterval) -> int:
    text = f"every {schedule.every} {schedule.period}"
    try:
        length = timedelta(**{schedule.period: schedule.every})
    except (OverflowError, TypeError):
        raise ValueError(f"{text} is no length of time") from None
    if length.microseconds:
        raise ValueError(f"{text} is no whole number of seconds")
    return int(length.total_seconds())


def _zone(crontab: BeatCrontab) -> str:
    """Return the zone by which beat runs a crontab: its own, unless the project has turned that off."""
    is_own = getattr(settings, "DJANGO_CELERY_BEAT_TZ_AWARE", True)
    zone = crontab.timezone if is_own else getattr(settings, "CELERY_TIMEZONE", None) or "UTC"
    load_zone(zone)  # an empty one would be that of the site
    return zone


def _call(row: BeatTask, renamed: Mapping[str, str]) -> dict[str, Any]:
    """Return what an entry runs, as values of its columns. Raises ``ValueError``."""
    return {
        "task": renamed.get(row.task, row.task),
        "args": _json("args", row.args or "[]", list),
        "kwargs": _json("kwargs", row.kwargs or "{}", dict),
    }


def _json(name: str, stored: str, kind: type[list[Any] | dict[str, Any]]) -> Any:
    try:
        value = json.loads(stored)
    except ValueError as error:
        raise ValueError(f"{name} is no JSON ({error}): {stored[:100]!r}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name} is no JSON {'array' if kind is list else 'object'}: {stored[:100]!r}")
    if any(
        "__type__" in each for each in _objects(value)
    ):  # kombu.utils.json makes a date of it, for instance
        raise ValueError(f"{name} has an object that only Celery's JSON knows: {stored[:100]!r}")
    return value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(part)


def _notes(row: BeatTask) -> Iterator[str]:
    """Yield what people should know of an entry that is taken over."""
    if row.interval_id is not None:
        yield "counted from 1970 in UTC, and no longer from its last run"
    left = [name for name in _NOT_TAKEN if getattr(row, name) not in (None, "")]
    if row.headers not in (None, "", "{}"):
        left.append("headers")
    if left:
        yield f"{', '.join(left)} not taken over: give such options to the task"
