"""History on PostgreSQL: one statement adds all rows, which travel as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from ..history import (
    MINUTES_KEPT_S,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    HistoryRow,
    HistoryStore,
    Series,
    TroubleRow,
)
from ..history_rows import read_row, read_trouble
from .session import PostgresqlSession
from .statements import STATEMENTS

NEVER = 1e10
"""Seconds of which no group of troubles is older."""


class PostgresqlHistory(HistoryStore):
    """Keep history in the PostgreSQL database of a session."""

    def __init__(self, session: PostgresqlSession) -> None:
        self._session = session

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        if rows:
            self._session.execute(STATEMENTS["record"], {"rows": json.dumps([_values(row) for row in rows])})
        if troubles:
            groups = json.dumps([_group(trouble) for trouble in troubles])
            self._session.execute(STATEMENTS["record_troubles"], {"troubles": groups})
            self._forget_troubles(NEVER)

    def history(self, series: Series, since: float, until: float, step: int) -> Iterable[HistoryRow]:
        kind, name = series
        bound = {"kind": kind, "name": name, "since": int(since), "until": ceil(until), "step": step}
        rows = self._session.execute(STATEMENTS["history"], bound)
        return [read_row(series, at, values) for at, *values in rows]

    def recent(self, since: float) -> Iterable[HistoryRow]:
        rows = self._session.execute(STATEMENTS["recent"], {"since": int(since)})
        return [read_row((kind, name), since, values) for kind, name, *values in rows]

    def troubles(self, since: float) -> Iterable[TroubleRow]:
        return map(read_trouble, self._session.execute(STATEMENTS["troubles"], {"since": since}))

    def prune(self, keep: float) -> None:
        while self._session.execute(STATEMENTS["merge_minutes"], {"seconds": MINUTES_KEPT_S}):
            pass
        self._session.execute(STATEMENTS["forget_history"], {"seconds": keep})
        self._forget_troubles(keep)

    def _forget_troubles(self, seconds: float) -> None:
        most = {"most": MOST_TROUBLES, "most_of_one": MOST_TROUBLES_OF_ONE}
        self._session.execute(STATEMENTS["forget_troubles"], {"seconds": seconds, **most})


def _values(row: HistoryRow) -> dict[str, Any]:
    kind, name = row.series
    return {
        "kind": kind,
        "name": name,
        "start": row.start,
        "counts": row.counts,
        "longest_wait": row.longest_wait,
        "waits": row.waits,
        "runs": row.runs,
    }


def _group(trouble: TroubleRow) -> dict[str, Any]:
    return {
        "kind": trouble.kind,
        "name": trouble.where,
        "what": trouble.what,
        "count": trouble.count,
        "buried": trouble.buried,
    }
