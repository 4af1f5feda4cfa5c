"""Say at which moments a schedule is due: by a cron expression, or every so many seconds.

The rule where clocks are changed is that of Debian's cron (its manual, "cron(8)"):

- A fixed local time that does not exist is due once, at the end of the gap.
- A fixed local time that exists twice is due once, at the first.
- Where the field of minutes or of hours begins with ``*``, the expression is no fixed time. It is due whenever clocks
  show such a time: twice in an hour that comes twice, and not at all in one that is skipped.

``cronsim`` computes local times without a zone, and the rule is applied here. With a zone, cronsim 2.8 departs from it
where clocks are changed by half an hour or at midnight.

Nothing is kept from one call to the next, so moments to come follow the time zone data that is installed.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count, takewhile

from .zones import load_zone

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_S = 10 * 366 * 24 * 3600
_MAX_LENGTH = 200
_FIELDS = 'five fields (minute, hour, day of month, month, day of week), such as "*/5 * * * *"'


@dataclass(frozen=True)
class Cron:
    """Hold a cron expression of five fields and its time zone; ``None`` means the setting ``TIME_ZONE``.

    Raises ``ValueError`` for an expression that cannot be read or is never due, and for a zone that does not exist.
    """

    expression: str
    zone: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise TypeError(f"The cron expression must be a text of {_FIELDS}, not {self.expression!r}.")
        if mistake := _mistake_of(self.expression):
            raise ValueError(
                f"The cron expression {self.expression!r} is wrong: {mistake}. It needs {_FIELDS}."
            )
        if self.zone is not None:
            if not isinstance(self.zone, str):
                raise TypeError(f'tz must be a name such as "Europe/Berlin", not {self.zone!r}.')
            load_zone(self.zone)

    def ticks(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Return the moments, in UTC and in order, that are later than ``after`` and not later than ``until``."""
        return _between(_due(self, _in_utc("after", after)), until)

    def next(self, after: datetime) -> datetime | None:
        """Return the first moment later than ``after``, in UTC."""
        return next(self.ticks(after), None)


@dataclass(frozen=True)
class Every:
    """Hold a number of seconds between two moments: they are its multiples since 1970, alike for all workers.

    Raises ``ValueError`` for a number that is not above zero, and for more than ten years.
    """

    seconds: float

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise TypeError(f"seconds must be a number, not {self.seconds!r}.")
        if not 0 < self.seconds <= LONGEST_S:
            raise ValueError(f"seconds must be more than zero and at most ten years, not {self.seconds!r}.")

    def ticks(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Return the moments, in UTC and in order, that are later than ``after`` and not later than ``until``."""
        step = timedelta(seconds=self.seconds)
        first = (_in_utc("after", after) - _EPOCH) // step + 1
        return _between((_EPOCH + number * step for number in count(first)), until)

    def next(self, after: datetime) -> datetime | None:
        """Return the first moment later than ``after``, in UTC."""
        return next(self.ticks(after), None)


def _in_utc(name: str, moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ValueError(
            f"{name} must be an aware datetime (django.utils.timezone.now() makes one), not {moment!r}."
        )
    return moment.astimezone(UTC)


def _between(moments: Iterator[datetime], until: datetime | None) -> Iterator[datetime]:
    if until is None:
        return moments
    last = _in_utc("until", until)
    return takewhile(lambda moment: moment <= last, moments)


# -- cron expressions -------------------------------------------------------------------------------------------------


def _mistake_of(expression: str) -> str:
    """Return what is wrong with an expression, or nothing."""
    if len(expression) > _MAX_LENGTH:
        return f"at most {_MAX_LENGTH} characters are stored"
    if len(expression.split()) == 6:  # cronsim would take them
        return "a field for seconds is not supported, every(seconds=…) is"
    try:
        is_due = next(_local_times(expression, datetime(2000, 1, 1)), None)  # noqa: DTZ001 - local, in no zone
    except ValueError as error:
        return str(error)
    return "" if is_due else "there is no such day"


def _local_times(expression: str, start: datetime) -> Iterator[datetime]:
    """Return the local times, naive and in order, that are later than ``start``. Raises ``ValueError``."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise ImportError('For cron expressions: pip install "mailrail[schedule]".') from error
    try:
        return CronSim(expression, start)
    except CronSimError as error:
        raise ValueError(str(error)) from error


def _due(cron: Cron, after: datetime) -> Iterator[datetime]:
    """Yield each moment later than ``after`` once; several fixed times of a gap are due at its end."""
    zone = load_zone(cron.zone)
    is_fixed = not any(field.startswith("*") for field in cron.expression.split()[:2])
    local_times = _local_times(cron.expression, _start(after, zone))
    last = after
    for moment in _in_order(_moments(local, zone, is_fixed) for local in local_times):
        if moment > last:
            yield moment
            last = moment


def _start(after: datetime, zone: tzinfo) -> datetime:
    """Return a local time, naive, which all local times that may be due later than ``after`` follow."""
    local = after.astimezone(zone)
    first, second = _both(local.replace(tzinfo=None), zone)
    # In the first of two hours that look alike, all of the second is still to come.
    to_come = second - first if first < second and not local.fold else timedelta()
    return local.replace(tzinfo=None, fold=0) - to_come


def _in_order(moments_of_times: Iterable[list[datetime]]) -> Iterator[datetime]:
    """Yield the moments of consecutive local times in their order: those of an hour that comes again are set aside."""
    again: deque[datetime] = deque()
    for moments in moments_of_times:
        while again and moments and again[0] < moments[0]:
            yield again.popleft()
        yield from moments[:1]
        again.extend(moments[1:])
    yield from again


def _moments(local: datetime, zone: tzinfo, is_fixed: bool) -> list[datetime]:
    """Return the moments, in UTC, at which a local time is due: none, one or two."""
    first, second = _both(local, zone)
    if first == second:
        return [first]
    if first < second:
        return [first] if is_fixed else [first, second]
    return [_end_of_gap(second, first, zone)] if is_fixed else []


def _both(local: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return what a local time means by the clocks before a change, and by those after it (PEP 495), in UTC.

    They are equal unless the time exists twice, or not at all. In a gap, the first is later than the second.
    """
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    return first, second


def _end_of_gap(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return the moment, to the second, at which clocks are changed: after ``before``, and not after ``after``."""
    old = before.astimezone(zone).utcoffset()

    def is_changed(seconds: int) -> bool:
        return (before + timedelta(seconds=seconds)).astimezone(zone).utcoffset() != old

    seconds = range(round((after - before).total_seconds()) + 1)
    return before + timedelta(seconds=bisect(seconds, False, key=is_changed))
