"""Decide ticks: what each worker process does beside its work.

No worker leads. Each one reads all entries in one query when the next tick is due, and every ``LOOK_EVERY_S`` seconds.
For an entry that is due, one transaction moves ``decided_until``, inserts a row for each tick that runs, and enqueues.
Of several workers, one moves ``decided_until`` from the value that all have read; the others change nothing. A tick
that was decided before the clock stepped back has its row, which nobody can insert again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from django.db import connections, transaction
from django.db.models import F, FloatField, Func

from mailrail import InvalidSettings
from mailrail.backoff import chance
from mailrail.layers import get_layer
from mailrail.log import logger_of
from mailrail.moments import as_django, aware, for_people
from mailrail.terminal import counted
from mailrail.transient import is_transient

from . import registry, retention
from .choices import ALL, ENQUEUED, ONCE, OVERLAPPED, PAUSED, SKIP
from .definition import Definition, Times
from .enqueuing import RUNS, WAITS, channel_of, database, enqueue, state_of
from .entries import create_rows, definition_of, server_time
from .models import ScheduleEntry, ScheduleTick

LOOK_EVERY_S = 10.0
"""Seconds between two looks at entries, at most: the admin may have changed some, or the clock may have stepped."""
SPREAD_S = 0.05
"""Seconds by which workers come to a tick one after the other, at most: the first decides, the others read."""
ON_TIME = timedelta(seconds=60)
"""The last tick is missed when nobody has decided it for so long; those before it are missed at once."""
MOST_CAUGHT_UP = 100
"""Ticks that ``missed="all"`` runs at once; those before them are counted as missed."""
MAX_COUNTED = 10_000
"""Missed ticks that one look counts. After a longer outage, the first of them are not looked for."""
FIRST_SPAN = timedelta(hours=1)
"""The time before now in which the ticks of an outage are looked for first."""
CLOCK_STEP = timedelta(hours=1)
"""A moment that lies so far in the future was decided by a clock that was wrong, and has been set right."""

logger = logger_of("mailrail.schedule")
_told: dict[str, str] = {}
"""Why an entry could not run, by its name, so that the log tells it once."""


@dataclass(frozen=True)
class TickPlan:
    """What to do with the ticks of an entry that are due: run these, and count so many as missed."""

    until: datetime
    run: Sequence[datetime]
    missed: int


class _Clock(Func):
    """The clock of PostgreSQL's server, in Unix seconds."""

    template = "EXTRACT(EPOCH FROM clock_timestamp())"
    output_field = FloatField()


def look() -> float | None:
    """Decide what is due, and return the seconds until the next look; ``None`` for a project without entries."""
    if not registry.has_any():
        return None
    rows, begun = _read(), time.monotonic()
    now = _now(rows)
    next_due = _decide_all(rows, now)
    retention.prune_for_a_while(database())
    pause = LOOK_EVERY_S
    if next_due is not None:
        seconds = (next_due - now).total_seconds() - (time.monotonic() - begun)
        pause = min(pause, max(0.0, seconds))
    return pause + chance.uniform(0, SPREAD_S)


def look_at(now: datetime) -> datetime | None:
    """Decide what is due at that moment, and return when the next tick is; ``None``: at no time in sight."""
    return _decide_all(_read(), now)


def _read() -> dict[str, ScheduleEntry]:
    """Return the rows of all entries by name, in one query, which reads the server's clock, too."""
    using = database()
    rows = ScheduleEntry.objects.using(using).select_related("last")
    if connections[using].vendor == "postgresql":
        rows = rows.annotate(clock=_Clock())
    return {row.name: row for row in rows}


def _now(rows: Mapping[str, ScheduleEntry]) -> datetime:
    """Return the time as ``server_time`` does, from rows that have brought it."""
    clock: float | None = getattr(next(iter(rows.values()), None), "clock", None)
    return server_time() if clock is None else datetime.fromtimestamp(clock, UTC)


def _decide_all(rows: dict[str, ScheduleEntry], now: datetime) -> datetime | None:
    due_at = [_decide_safely(definition, row, now) for definition, row in _active(rows, now)]
    return min((moment for moment in due_at if moment is not None), default=None)


def _active(rows: dict[str, ScheduleEntry], now: datetime) -> Iterator[tuple[Definition, ScheduleEntry]]:
    """Yield the entries that are not paused and can be followed, with their rows."""
    declared = registry.definitions()
    if missing := [definition for name, definition in declared.items() if name not in rows]:
        rows |= create_rows(missing, now)
    for row in rows.values():
        if row.paused_at is None and (definition := _readable(row, declared)) is not None:
            yield definition, row


def _readable(row: ScheduleEntry, declared: dict[str, Definition]) -> Definition | None:
    """Return what to run for a row, or ``None`` for one whose code is gone, or that cannot be followed."""
    try:
        return definition_of(row, declared)
    except (TypeError, ValueError, ImportError) as error:
        _tell(row.name, error, with_trace=False)
        return None


def _decide_safely(definition: Definition, row: ScheduleEntry, now: datetime) -> datetime | None:
    """Decide an entry. One that cannot run is told once, stays undecided, and keeps no other from running."""
    try:
        due_at = _decide(definition, row, now)
        _told.pop(definition.name, None)
        return due_at
    except Exception as error:
        if is_transient(error):  # a file that a function of the task cannot find is none
            raise
        _tell(definition.name, error, with_trace=not isinstance(error, InvalidSettings))
        return None


def _tell(name: str, error: Exception, with_trace: bool) -> None:
    if _told.get(name) != str(error):
        _told[name] = str(error)
        trace = error if with_trace else None
        logger.error("%s cannot run, trying again every %g s: %s", name, LOOK_EVERY_S, error, exc_info=trace)


def _decide(definition: Definition, row: ScheduleEntry, now: datetime) -> datetime | None:
    """Decide the ticks of an entry that are due by now, if any, and return when the next one is."""
    after = _counted_from(definition, row, now)
    next_due = _next_after(definition.times, after, now)
    if next_due is None or next_due > now:
        return next_due
    ticks = ticks_between(definition.times, after, now)
    if not ticks:  # since the next tick was computed, the zone data has changed
        return definition.times.next(after)
    plan = plan_of(definition, ticks, now)
    _carry_out(definition, row, plan)
    return _next_after(definition.times, plan.until, now)


def _counted_from(definition: Definition, row: ScheduleEntry, now: datetime) -> datetime:
    """Return the moment up to which an entry's ticks are decided, and correct the row where it says another one.

    Ticks of changed times count from now: what they would have had due before was never missed. Those that are on
    time count, as workers with the former code may still move the row.
    """
    until = after = aware(row.decided_until).astimezone(UTC)
    if row.times != definition.identity:
        after = max(until, now - ON_TIME) if row.times else until
    if after > now + CLOCK_STEP:
        after = now
    if after != until or row.times != definition.identity:
        if not _move(row, decided_until=as_django(after), times=definition.identity):
            return now  # another worker has been here: the next look reads what it says
        row.decided_until, row.times = as_django(after), definition.identity
    return after


def _move(row: ScheduleEntry, **values: object) -> bool:
    """Change a row, unless another worker moves it or has moved it, or people have paused or run it, since it was read.

    On PostgreSQL, nobody waits for a row that is locked. The machine of its worker may be lost, which the server may
    learn after hours. On SQLite, the statement locks the file.
    """
    using = database()
    rows = ScheduleEntry._base_manager.using(using)
    unchanged = rows.filter(
        pk=row.pk, decided_until=row.decided_until, paused_at=None, last=row.last and row.last.pk
    )
    with transaction.atomic(using, savepoint=False):
        if connections[using].vendor == "postgresql":
            free = unchanged.select_for_update(skip_locked=True)
            # Twice by its key alone: without statistics, PostgreSQL would run the subquery for each row of the table.
            unchanged = rows.filter(pk=row.pk, pk__in=free.values("pk"))
        return bool(unchanged.update(**values))


def _next_after(times: Times, moment: datetime, now: datetime) -> datetime | None:
    """Return the first tick after a moment, computed anew every hour: the zone data may have changed."""
    return _next_in_hour(times, moment, int(now.timestamp() // 3600))


@lru_cache(maxsize=10_000)
def _next_in_hour(times: Times, moment: datetime, hour: int) -> datetime | None:
    return times.next(moment)


# -- which ticks run ---------------------------------------------------------------------------------------------------


def ticks_between(times: Times, after: datetime, now: datetime) -> list[datetime]:
    """Return the ticks that are later than ``after`` and not later than ``now``; after a long outage, the last of them.

    They are looked for in longer and longer spans before now, so that an outage of a year costs no minutes.
    """
    span = FIRST_SPAN
    while True:
        begin = max(after, now - span)
        ticks = list(times.ticks(begin, now))
        if begin == after or len(ticks) >= MAX_COUNTED:
            return ticks[-MAX_COUNTED:]
        span *= 4


def plan_of(definition: Definition, ticks: Sequence[datetime], now: datetime) -> TickPlan:
    """Say which of the ticks that are due run, by the option ``missed``."""
    is_on_time = now - ticks[-1] <= ON_TIME
    number = {SKIP: int(is_on_time), ONCE: 1, ALL: MOST_CAUGHT_UP}[definition.missed]
    run = ticks[-number:] if number else ()
    return TickPlan(ticks[-1], run, len(ticks) - len(run))


def _carry_out(definition: Definition, row: ScheduleEntry, plan: TickPlan) -> None:
    """Move the row, and enqueue what runs: all of it, or nothing."""
    with transaction.atomic(database()):
        # First, as it decides which worker goes on, and on SQLite locks the file before anything is read.
        if not _move(row, decided_until=as_django(plan.until)):
            return
        is_paused = channel_of(definition) in get_layer().paused()
        decided = set(_decided(definition.name, plan.run))
        ticks = [_run(definition, row, tick, is_paused) for tick in plan.run if tick not in decided]
        _note(row, plan, ticks)
    for tick in ticks:
        logger.info("%s: tick of %s %s", definition.name, for_people(tick.tick), tick.decision)
    if plan.missed:
        logger.warning("%s has missed %s", definition.name, counted(plan.missed, "tick"))


def _decided(name: str, ticks: Sequence[datetime]) -> Iterator[datetime]:
    rows = ScheduleTick.objects.using(database()).filter(name=name, tick__in=[*map(as_django, ticks)])
    return (aware(tick).astimezone(UTC) for tick in rows.values_list("tick", flat=True))


def _run(definition: Definition, row: ScheduleEntry, tick: datetime, is_paused: bool) -> ScheduleTick:
    """Store the decision about a tick, and enqueue its run unless that is to be skipped."""
    if is_paused:
        decided = ScheduleTick(name=definition.name, tick=as_django(tick), decision=PAUSED)
    elif definition.overlap == SKIP and row.last is not None and state_of(row.last) in (WAITS, RUNS):
        decided = ScheduleTick(name=definition.name, tick=as_django(tick), decision=OVERLAPPED)
    else:
        decided = row.last = enqueue(definition, tick, chance.uniform(0, definition.jitter))
    decided.save(using=database(), force_insert=True)
    return decided


def _note(row: ScheduleEntry, plan: TickPlan, ticks: Sequence[ScheduleTick]) -> None:
    """Keep the last run and the counts in the row."""
    skipped = sum(tick.decision != ENQUEUED for tick in ticks)
    if not ticks and not plan.missed:
        return
    ScheduleEntry.objects.using(database()).filter(pk=row.pk).update(
        last=row.last,
        missed_count=F("missed_count") + plan.missed,
        skipped_count=F("skipped_count") + skipped,
    )
