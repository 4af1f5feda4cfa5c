"""Keep what workers did, by minutes and hours, and what went wrong: beside the messages, in the same storage.

Workers add to it with their heartbeats; nobody leads. A series has a row for each minute in which something happened.
Counts are added to those that are stored, so rows of several workers are one. After ``MINUTES_KEPT_S`` minutes become
hours, and after ``MAILRAIL["HISTORY"]`` they are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

Series: TypeAlias = tuple[str, str]
"""``("channel", name)``, ``("mailer", alias)``, or ``ALL``."""

ALL: Series = ("all", "")
"""The series of all channels together."""
MINUTE, HOUR = 60, 3600
MINUTES_KEPT_S = 2 * 86400.0
"""Seconds until minutes are merged into hours."""
BUCKETS = 24
"""Buckets of a histogram. Number n counts times below 2**n milliseconds; the last one also counts longer times."""
MOST_TROUBLES, MOST_TROUBLES_OF_ONE = 1000, 20
"""Groups of troubles that a storage keeps of a project, and of one channel or mailer: the last ones."""
LONGEST_TROUBLE = 300
"""Characters of what names a trouble."""

NO_TIMES = (0,) * BUCKETS


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """Count what happened in a series, in ``span`` seconds from ``start`` on.

    ``sent`` counts messages whose first run has ended, in the minute in which they were sent. ``waits`` and ``runs``
    are histograms: of the seconds from due to claim, and of the consumer's run.
    """

    series: Series
    start: float | None = None  # Unix seconds; None: the present minute of the storage's clock, in ``record``
    span: int = MINUTE
    sent: int = 0
    done: int = 0  # finished or discarded
    retried: int = 0
    buried: int = 0
    expired: int = 0
    longest_wait: float = 0.0  # seconds
    waits: Sequence[int] = NO_TIMES
    runs: Sequence[int] = NO_TIMES

    @property
    def counts(self) -> tuple[int, ...]:
        """Return the counts in the order of the columns."""
        return self.sent, self.done, self.retried, self.buried, self.expired


@dataclass(frozen=True, slots=True)
class TroubleRow:
    """Count what went wrong in the same way. ``kind`` and ``where`` are a series; ``what`` an exception or a reply.

    ``buried`` of ``count`` have ended for good. Moments are Unix seconds by the storage's clock, which sets them.
    """

    kind: str
    where: str
    what: str
    count: int = 1
    buried: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


class HistoryStore(Protocol):
    """Keep history in one technology. Names that arrive here are qualified, as in ``Store``."""

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        """Add counts to what is stored. Where the reply is lost, nobody knows whether that has happened."""

    def history(self, series: Series, since: float, until: float, step: int) -> Iterable[HistoryRow]:
        """Return the sums of a series by steps, in any order."""

    def recent(self, since: float) -> Iterable[HistoryRow]:
        """Return the sums of each series over the minutes from ``since`` on, without histograms."""

    def troubles(self, since: float) -> Iterable[TroubleRow]:
        """Return the groups of troubles that have grown since then."""

    def prune(self, keep: float) -> None:
        """Merge minutes into hours, and forget what is older than ``keep`` seconds; several may do so at once."""


def percentile(histogram: Sequence[int], share: float) -> float | None:
    """Return the seconds below which this share of the counted times lies, such as 0.95; ``None`` without any.

    It is interpolated between the bounds of a bucket, so at most off by the factor two.
    """
    total = sum(histogram)
    if not total:
        return None
    left = share * total
    for n, count in enumerate(histogram):
        if count and left <= count:
            below = 0.0 if n == 0 else 2.0 ** (n - 1)
            return (below + (2.0**n - below) * left / count) / 1000
        left -= count
    return 2.0 ** (len(histogram) - 1) / 1000


def added(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of histograms."""
    return tuple(map(sum, zip(NO_TIMES, *histograms, strict=True)))


def sum_of(rows: Sequence[HistoryRow], row: HistoryRow) -> HistoryRow:
    """Return ``row`` with the sums of these rows."""
    sent, done, retried, buried, expired = map(sum, zip(*(each.counts for each in rows), strict=True))
    return replace(
        row,
        sent=sent,
        done=done,
        retried=retried,
        buried=buried,
        expired=expired,
        longest_wait=max(each.longest_wait for each in rows),
        waits=added(each.waits for each in rows),
        runs=added(each.runs for each in rows),
    )
