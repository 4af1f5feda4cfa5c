"""History in the memory of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .history import (
    HOUR,
    MINUTE,
    MINUTES_KEPT_S,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    NO_TIMES,
    HistoryRow,
    HistoryStore,
    Series,
    TroubleRow,
    sum_of,
)


class MemoryHistory(HistoryStore):
    """Hold history in dictionaries, behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[Series, int, float], HistoryRow] = {}  # by series, span and start
        self._troubles: dict[tuple[str, str, str], TroubleRow] = {}

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        now = time.time()
        with self._lock:
            for row in rows:
                start = now if row.start is None else row.start
                self._add(replace(row, start=start // MINUTE * MINUTE, span=MINUTE))
            for trouble in troubles:
                self._add_trouble(trouble, now)
            self._keep_last_troubles()

    def _add(self, row: HistoryRow) -> None:
        key = row.series, row.span, row.start or 0.0
        kept = self._rows.get(key)
        self._rows[key] = sum_of([kept, row], row) if kept else row

    def _add_trouble(self, trouble: TroubleRow, now: float) -> None:
        key = trouble.kind, trouble.where, trouble.what
        kept = self._troubles.get(key, replace(trouble, count=0, buried=0, first_at=now))
        count, buried = kept.count + trouble.count, kept.buried + trouble.buried
        self._troubles[key] = replace(kept, count=count, buried=buried, last_at=now)

    def _keep_last_troubles(self) -> None:
        of_one: dict[tuple[str, str], int] = {}
        last = sorted(self._troubles.items(), key=lambda item: item[1].last_at, reverse=True)
        self._troubles = {}
        for key, trouble in last:
            name = trouble.kind, trouble.where
            of_one[name] = of_one.get(name, 0) + 1
            if of_one[name] <= MOST_TROUBLES_OF_ONE and len(self._troubles) < MOST_TROUBLES:
                self._troubles[key] = trouble

    def history(self, series: Series, since: float, until: float, step: int) -> Iterable[HistoryRow]:
        steps: dict[float, list[HistoryRow]] = {}
        with self._lock:
            for (of, _, start), row in self._rows.items():
                if of == series and since <= start < until:
                    steps.setdefault(start // step * step, []).append(row)
        return [sum_of(rows, HistoryRow(series, start)) for start, rows in steps.items()]

    def recent(self, since: float) -> Iterable[HistoryRow]:
        found: dict[Series, list[HistoryRow]] = {}
        now = time.time()
        with self._lock:
            for (series, span, start), row in self._rows.items():
                if span == MINUTE and since <= start <= now:
                    found.setdefault(series, []).append(row)
        sums = [sum_of(rows, HistoryRow(series, since)) for series, rows in found.items()]
        return [replace(row, waits=NO_TIMES, runs=NO_TIMES) for row in sums]

    def troubles(self, since: float) -> Iterable[TroubleRow]:
        with self._lock:
            return [trouble for trouble in self._troubles.values() if trouble.last_at >= since]

    def prune(self, keep: float) -> None:
        now = time.time()
        until = (now - MINUTES_KEPT_S) // HOUR * HOUR
        with self._lock:
            old = [key for key in self._rows if key[1] == MINUTE and key[2] < until]
            for row in [self._rows.pop(key) for key in old]:
                self._add(replace(row, span=HOUR, start=(row.start or 0.0) // HOUR * HOUR))
            self._rows = {key: row for key, row in self._rows.items() if key[1] + key[2] >= now - keep}
            self._troubles = {k: t for k, t in self._troubles.items() if t.last_at >= now - keep}

    def advance_time(self, seconds: float) -> None:
        """Move every stored time back by whole spans, for tests."""
        with self._lock:
            rows = [
                replace(row, start=(row.start or 0.0) - seconds // row.span * row.span)
                for row in self._rows.values()
            ]
            self._rows = {(row.series, row.span, row.start or 0.0): row for row in rows}
            self._troubles = {
                key: replace(t, first_at=t.first_at - seconds, last_at=t.last_at - seconds)
                for key, t in self._troubles.items()
            }
