"""Count what happens on channels and mailers in this process, until a worker hands it to its layer's history.

Workers note the end of each claim, so that costs a fraction of a microsecond.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

from ..layers.history import (
    ALL,
    BUCKETS,
    LONGEST_TROUBLE,
    MINUTE,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    HistoryRow,
    Series,
    TroubleRow,
    sum_of,
)
from ..layers.store import LONGEST_WAIT_S
from ..terminal import without_addresses
from ..tracebacks import error_class, first_line

DONE, RETRIED, BURIED, EXPIRED = range(4)
"""What is counted of a message whose claim has ended, as places in a tally."""
MOST_NOTED = 500
"""Ends of claims that are kept until they are counted."""
MOST_ROWS = 10_000
"""Rows that are kept while they cannot be stored."""
OTHERS = ""
"""What troubles are called that are too many to be told apart."""
EndOfClaim: TypeAlias = tuple[str, int, float, float | None, float | None]
"""Channel, ``DONE`` or another one, seconds from due to claim, and seconds of the run, if its consumer has begun.

At last when the message was sent, if this was its first run."""
_BITS = 64
"""Buckets while counting: as many as the milliseconds of any time have bits."""
_DIGITS = re.compile(r"\d+")


class _Tally:
    """Hold the counts of a series since the last ``take``."""

    __slots__ = ("counts", "longest_wait", "runs", "sent", "waits")

    def __init__(self) -> None:
        self.counts = [0, 0, 0, 0]
        self.longest_wait = 0.0
        self.waits = [0] * _BITS
        self.runs = [0] * _BITS
        self.sent: dict[float, int] = {}  # by the number of the minute


class Counters:
    """Hold the tallies of all series, and the troubles. Several threads may note at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: deque[EndOfClaim] = deque()
        self._channels: dict[str, _Tally] = {}
        self._mailers: dict[str, _Tally] = {}
        self._troubles: dict[tuple[str, str, str], list[int]] = {}
        self._groups: dict[tuple[str, str], int] = {}
        self._given_back: tuple[list[HistoryRow], list[TroubleRow]] = ([], [])

    def note(self, ends: Iterable[EndOfClaim]) -> None:
        """Count ends of claims. They are only kept here, and counted together with others."""
        self._noted.extend(ends)
        if len(self._noted) >= MOST_NOTED:
            with self._lock:
                self._count()

    def _count(self) -> None:
        """Count what was noted. Call it with the lock; others may go on to note."""
        noted, tally, known = self._noted, _Tally(), ""
        for _ in range(len(noted)):
            channel, what, waited, run, sent_at = noted.popleft()
            if channel != known:
                tally, known = self._tally(channel), channel
                counts, waits, runs, sent = tally.counts, tally.waits, tally.runs, tally.sent
            counts[what] += 1
            waits[int(waited * 1000).bit_length()] += 1
            if run is not None:
                runs[int(run * 1000).bit_length()] += 1
            if waited > tally.longest_wait:
                tally.longest_wait = waited
            if sent_at is not None:
                minute = sent_at // MINUTE
                sent[minute] = sent.get(minute, 0) + 1

    def _tally(self, channel: str) -> _Tally:
        tally = self._channels.get(channel)
        if tally is None:
            tally = self._channels[channel] = _Tally()
        return tally

    def note_mailer(
        self,
        alias: str,
        sent: int,
        failed: int,
        deferred: int,
        seconds: Iterable[float],
        arrived: Iterable[float],
    ) -> None:
        """Count emails; see the function of this name."""
        with self._lock:
            tally = self._mailers.setdefault(alias, _Tally())
            for what, number in ((DONE, sent), (BURIED, failed), (RETRIED, deferred)):
                tally.counts[what] += number
            for run in seconds:
                tally.runs[int(min(max(0.0, run), LONGEST_WAIT_S) * 1000).bit_length()] += 1
            for at in arrived:
                minute = at // MINUTE
                tally.sent[minute] = tally.sent.get(minute, 0) + 1

    def note_trouble(self, kind: str, where: str, what: str, count: int, buried: int) -> None:
        """Count what went wrong. So many groups are told apart; the rest is one."""
        series, what = (kind, where), what[:LONGEST_TROUBLE]
        with self._lock:
            group = self._troubles.get((kind, where, what))
            if group is None:
                if self._groups.get(series, 0) >= MOST_TROUBLES_OF_ONE:
                    what = OTHERS
                elif len(self._troubles) >= MOST_TROUBLES:
                    return
                self._groups[series] = self._groups.get(series, 0) + 1
                group = self._troubles.setdefault((kind, where, what), [0, 0])
            group[0] += count
            group[1] += buried

    def take(self) -> tuple[list[HistoryRow], list[TroubleRow]]:
        """Return what was noted since the last time, and begin anew."""
        with self._lock:
            self._count()
            channels, self._channels = self._channels, {}
            mailers, self._mailers = self._mailers, {}
            troubles, self._troubles = self._troubles, {}
            self._groups = {}
            (old_rows, old_troubles), self._given_back = self._given_back, ([], [])
        rows = [row for channel, tally in channels.items() for row in _rows(("channel", channel), tally)]
        rows += _of_all(rows)
        rows += [row for alias, tally in mailers.items() for row in _rows(("mailer", alias), tally)]
        groups = [TroubleRow(*key, count, buried) for key, (count, buried) in troubles.items()]
        return old_rows + rows, old_troubles + groups

    def give_back(self, rows: list[HistoryRow], troubles: list[TroubleRow]) -> None:
        """Take back what could not be stored for sure, for the next ``take``; the last ones, if there are too many."""
        with self._lock:
            old_rows, old_troubles = self._given_back
            self._given_back = (old_rows + rows)[-MOST_ROWS:], (old_troubles + troubles)[-MOST_TROUBLES:]


def _rows(series: Series, tally: _Tally) -> Iterator[HistoryRow]:
    """Yield a row of what has ended, and one for each other minute in which something of it was sent."""
    done, retried, buried, expired = tally.counts
    yield HistoryRow(
        series,
        done=done,
        retried=retried,
        buried=buried,
        expired=expired,
        longest_wait=tally.longest_wait,
        waits=_histogram(tally.waits),
        runs=_histogram(tally.runs),
    )
    for minute, sent in tally.sent.items():
        yield HistoryRow(series, minute * MINUTE, sent=sent)


def _histogram(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the counts with all long times in the last bucket."""
    return (*counts[: BUCKETS - 1], sum(counts[BUCKETS - 1 :]))


def _of_all(rows: Sequence[HistoryRow]) -> Iterator[HistoryRow]:
    """Yield the sums of the rows of channels, by their starts."""
    by_start: dict[float | None, list[HistoryRow]] = {}
    for row in rows:
        by_start.setdefault(row.start, []).append(row)
    for start, together in by_start.items():
        yield sum_of(together, replace(together[0], series=ALL, start=start))


def trouble_of(error: str) -> str:
    """Return what a failed run is grouped by: the exception's class, or the first line of the reason, ``masked``."""
    return error_class(error) or masked(first_line(error))


def masked(text: str) -> str:
    """Return a text without email addresses, with each number as ``#``: so replies that say the same are one group."""
    return _DIGITS.sub("#", without_addresses(text))


_open: list[Counters] = []
"""Those of the workers that run in this process: one, but in tests."""


@contextmanager
def counting(counters: Counters) -> Iterator[None]:
    """Let ``note_mailer`` and ``note_trouble`` count there while the block runs."""
    _open.append(counters)
    try:
        yield
    finally:
        _open.remove(counters)


def note_mailer(
    alias: str,
    *,
    sent: int = 0,
    failed: int = 0,
    deferred: int = 0,
    seconds: Iterable[float] = (),
    arrived: Iterable[float] = (),
) -> None:
    """Count emails of a mailer in the history of the worker that runs this; outside a worker, do nothing.

    ``deferred``: those that are tried again. ``seconds``: how long deliveries took. ``arrived``: when emails were
    queued (Unix seconds), said once for each.
    """
    for counters in _open[-1:]:
        counters.note_mailer(alias, sent, failed, deferred, seconds, arrived)


def note_trouble(kind: str, where: str, what: str, *, count: int = 1, buried: int = 0) -> None:
    """Count what went wrong, such as ``note_trouble("mailer", alias, masked(reply))``; outside a worker, do nothing.

    ``buried`` of ``count`` have failed for good.
    """
    for counters in _open[-1:]:
        counters.note_trouble(kind, where, what, count, buried)
