"""When cron expressions are due, found by looking at a zone's clock minute by minute: what ``Cron`` is held to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


class Change(NamedTuple):
    """A change of clocks: the moment, and the offsets from UTC before and after it."""

    at: datetime
    old: timedelta
    new: timedelta

    @property
    def margin(self) -> timedelta:
        """What there is to look at on both sides."""
        return 2 * abs(self.new - self.old) + timedelta(hours=1)


def offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def changes(zone: ZoneInfo, step: timedelta = timedelta(days=7)) -> Iterator[Change]:
    """All changes from 2024 to 2030; no zone has two within a week."""
    weeks = [FIRST + number * step for number in range(round((LAST - FIRST) / step) + 1)]
    for (low, old), (high, new) in pairwise((day, offset(day, zone)) for day in weeks):
        if old != new:
            while high - low > MINUTE:
                middle = low + (high - low) // MINUTE // 2 * MINUTE
                low, high = (middle, high) if offset(middle, zone) == old else (low, middle)
            yield Change(high, old, new)


@cache
def allowed(field: str, lowest: int, highest: int) -> frozenset[int]:
    """The values of a field: ``*``, ``*/5``, ``7``, ``1-5``, ``1-9/2``, and lists of these."""
    values: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        start, _, end = span.partition("-")
        low, high = (lowest, highest) if span == "*" else (int(start), int(end or start))
        values.update(range(low, high + 1, int(step or 1)))
    return frozenset(values)


@lru_cache(maxsize=1)
def shown(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """What a clock of the zone shows at each minute after ``start`` and until ``end``."""
    moments = (start + number * MINUTE for number in range(1, (end - start) // MINUTE + 1))
    return [(moment, moment.astimezone(zone).replace(tzinfo=None, fold=0)) for moment in moments]


def due(expression: str, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The moments after ``start`` and until ``end``, between which clocks are changed once at most."""
    fields = expression.split()
    minutes, hours, days, months, weekdays = (
        allowed(field, *RANGES[number]) for number, field in enumerate(fields)
    )

    def matches(local: datetime) -> bool:
        return (
            local.minute in minutes
            and local.hour in hours
            and local.day in days
            and local.month in months
            and local.isoweekday() % 7 in weekdays
        )

    minute_by_minute = shown(zone, start, end)
    matching = [(moment, local) for moment, local in minute_by_minute if matches(local)]
    if fields[0].startswith("*") or fields[1].startswith("*"):
        return [moment for moment, _ in matching]
    first_shown: dict[datetime, datetime] = {}
    for moment, local in matching:
        first_shown.setdefault(local, moment)
    # What no clock shows, although it shows both an earlier and a later time, is due at the end of the gap.
    ends = {
        moment
        for (_, before), (moment, after) in pairwise(minute_by_minute)
        if after - before > MINUTE and any(map(matches, minutes_between(before, after)))
    }
    return sorted({*first_shown.values(), *ends})


def minutes_between(first: datetime, last: datetime) -> Iterator[datetime]:
    return (first + number * MINUTE for number in range(1, (last - first) // MINUTE))


def expressions(change: Change) -> list[str]:
    """Some that are due in the time that is skipped or comes twice, at its edges and around it."""
    low, high = sorted((change.at + change.old, change.at + change.new))
    middle = low + (high - low) // 2
    hours = sorted({(low.hour + n) % 24 for n in range(-1, 4)})
    return [
        f"{middle.minute} {middle.hour} * * *",
        f"{middle.minute} * * * *",
        f"{low.minute} {low.hour} * * *",
        f"{high.minute} {high.hour} * * {high.isoweekday() % 7}",
        f"1-59/13 {','.join(map(str, hours))} * * *",
        f"*/10 {middle.hour} * * *",
        f"*/14 * {middle.day} {middle.month} *",
    ]
