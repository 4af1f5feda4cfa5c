"""History on SQLite: what is recorded together is one short write transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..history import (
    HOUR,
    MINUTE,
    MINUTES_KEPT_S,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    HistoryRow,
    HistoryStore,
    Series,
    TroubleRow,
)
from ..history_rows import read_row, read_trouble
from .session import SqliteSession
from .statements import STATEMENTS


class SqliteHistory(HistoryStore):
    """Keep history in the SQLite database of a session."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        now = time.time()
        with self._session.write() as cursor:
            if rows:
                cursor.executemany(STATEMENTS["record"], [_values(row, now) for row in rows])
            if troubles:
                groups = [_group(trouble, now) for trouble in troubles]
                cursor.executemany(STATEMENTS["record_troubles"], groups)
                cursor.execute(STATEMENTS["forget_troubles"], {**_MOST, "forgotten": 0.0})

    def history(self, series: Series, since: float, until: float, step: int) -> Iterable[HistoryRow]:
        kind, name = series
        bound = {"kind": kind, "name": name, "since": since, "until": until, "step": step}
        rows = self._session.read(STATEMENTS["history"], **bound)
        return [read_row(series, at, values) for at, *values in rows]

    def recent(self, since: float) -> Iterable[HistoryRow]:
        rows = self._session.read(STATEMENTS["recent"], since=since, now=time.time())
        return [read_row((kind, name), since, values) for kind, name, *values in rows]

    def troubles(self, since: float) -> Iterable[TroubleRow]:
        return map(read_trouble, self._session.read(STATEMENTS["troubles"], since=since))

    def prune(self, keep: float) -> None:
        now = time.time()
        bound = {"until": (now - MINUTES_KEPT_S) // HOUR * HOUR, "forgotten": now - keep}
        # HISTORY may be below two days: then minutes are forgotten before they would be merged.
        old = {**bound, "until": max(bound["until"], bound["forgotten"] - MINUTE)}
        [(is_old,)] = self._session.read(STATEMENTS["old_history"], **old)
        if not is_old:
            return
        with self._session.write() as cursor:
            for statement in ("merge_minutes", "forget_minutes"):
                cursor.execute(STATEMENTS[statement], {"until": bound["until"]})
            cursor.execute(STATEMENTS["forget_history"], {"forgotten": bound["forgotten"]})
            cursor.execute(STATEMENTS["forget_troubles"], {**_MOST, "forgotten": bound["forgotten"]})


_MOST = {"most": MOST_TROUBLES, "most_of_one": MOST_TROUBLES_OF_ONE}


def _values(row: HistoryRow, now: float) -> Mapping[str, Any]:
    kind, name = row.series
    sent, done, retried, buried, expired = row.counts
    return {
        "kind": kind,
        "name": name,
        "start": int((now if row.start is None else row.start) // MINUTE * MINUTE),
        "sent": sent,
        "done": done,
        "retried": retried,
        "buried": buried,
        "expired": expired,
        "longest_wait": row.longest_wait,
        **{f"wait{n}": count for n, count in enumerate(row.waits)},
        **{f"run{n}": count for n, count in enumerate(row.runs)},
    }


def _group(trouble: TroubleRow, now: float) -> Mapping[str, Any]:
    return {
        "kind": trouble.kind,
        "name": trouble.where,
        "what": trouble.what,
        "count": trouble.count,
        "buried": trouble.buried,
        "now": now,
    }
