"""What a layer tells of those who work: their signs of life, what they did, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ..conf import settings
from ..messages import Content, WorkerInfo
from ..namespace import owns
from ..tracebacks import storable_error
from .history import LONGEST_TROUBLE, MINUTE, HistoryRow, Series, TroubleRow
from .names import Names
from .store import WORKER_LOST_AFTER, Store


class WorkHistory:
    """Carry out for a layer what ``base.Record`` declares, and what ``base.Inspect`` says of workers."""

    def __init__(self, store: Store, names: Names) -> None:
        self._store, self._names = store, names

    # -- workers --------------------------------------------------------------------------------------------------

    def heartbeat(self, worker: str, info: Content | None) -> None:
        self._store.beat(self._names.qualify(worker), info)

    def workers(self, lost: bool = False) -> list[WorkerInfo]:
        rows = sorted(row for row in self._store.workers() if self._owns(row[0]))
        workers = [WorkerInfo(self._names.bare(id), _info(details), age) for id, details, age in rows]
        return [w for w in workers if lost or (w.age < WORKER_LOST_AFTER and not w.is_gone)]

    # -- history --------------------------------------------------------------------------------------------------

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow] = ()) -> None:
        if rows or troubles:
            own = [replace(row, series=self._qualified(row.series)) for row in rows]
            self._store.history.record(own, [self._stored(trouble) for trouble in troubles])

    def history(self, series: Series, since: float, until: float, step: int = MINUTE) -> list[HistoryRow]:
        if step < MINUTE or step % MINUTE:
            raise ValueError(f"step must be whole minutes in seconds, such as 60 or 3600, not {step!r}.")
        rows = self._store.history.history(self._qualified(series), since // step * step, until, step)
        return sorted(
            (replace(row, series=series, span=step) for row in rows), key=lambda row: row.start or 0.0
        )

    def recent(self, since: float) -> dict[Series, HistoryRow]:
        found: dict[Series, HistoryRow] = {}
        for row in self._store.history.recent(since // MINUTE * MINUTE):
            kind, name = row.series
            if self._owns(name):
                series = kind, self._names.bare(name)
                found[series] = row if series == row.series else replace(row, series=series)
        return found

    def troubles(self, since: float = 0.0, limit: int = 100) -> list[TroubleRow]:
        found = [trouble for trouble in self._store.history.troubles(since) if self._owns(trouble.where)]
        found.sort(key=lambda trouble: trouble.last_at, reverse=True)
        return [replace(trouble, where=self._names.bare(trouble.where)) for trouble in found[:limit]]

    def prune_history(self) -> None:
        self._store.history.prune(settings.history)

    def _qualified(self, series: Series) -> Series:
        return series[0], self._names.qualify(series[1])

    def _stored(self, trouble: TroubleRow) -> TroubleRow:
        what = storable_error(trouble.what)[:LONGEST_TROUBLE]
        return replace(trouble, where=self._names.qualify(trouble.where), what=what)

    def _owns(self, name: str) -> bool:
        return owns(name, self._names.prefix)


def _info(details: str | bytes) -> Content:
    """Return what a worker has told; nothing, if that cannot be read."""
    try:
        info = json.loads(details)
    except ValueError:
        return {}
    return info if isinstance(info, dict) else {}
