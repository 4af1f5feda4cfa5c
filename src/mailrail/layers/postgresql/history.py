"""History on PostgreSQL: one statement adds all rows, which travel as JSON, and waits for nobody's lock for long."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from ...second_connection import is_in_transaction
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
LOCK_TIMEOUT_MS = 200
"""Milliseconds that ``record`` waits for a lock of somebody else: the thread that calls it also renews leases."""

_MOST = {"most": MOST_TROUBLES, "most_of_one": MOST_TROUBLES_OF_ONE}


class PostgresqlHistory(HistoryStore):
    """Keep history in the PostgreSQL database of a session."""

    def __init__(self, session: PostgresqlSession) -> None:
        self._session = session

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        given = json.dumps([_values(row) for row in rows])
        groups = json.dumps([_group(trouble) for trouble in troubles])
        # In a transaction of the caller, the bound would be the caller's, too.
        is_bound = not is_in_transaction(self._session.using)

        def record(cursor: Any) -> None:
            if is_bound:
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
            if rows:
                cursor.execute(STATEMENTS["record"], {"rows": given})
            if troubles:
                cursor.execute(STATEMENTS["record_troubles"], {"troubles": groups})
                cursor.execute(STATEMENTS["forget_troubles"], {"seconds": NEVER, **_MOST})

        self._session.write(record)

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
        self._session.execute(STATEMENTS["forget_troubles"], {"seconds": keep, **_MOST})


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
