"""History on a Redis or Valkey server: a hash for each series and minute, and one for its hour, which expire.

All lie in one slot of a cluster, beside the heartbeats of workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any

from ...conf import settings
from ..history import (
    BUCKETS,
    MINUTES_KEPT_S,
    MOST_TROUBLES,
    MOST_TROUBLES_OF_ONE,
    HistoryRow,
    HistoryStore,
    Series,
    TroubleRow,
)
from .channel_list import name_of
from .keys import Keys
from .records import Cipher, read_error
from .scripts import run, run_all
from .servers import Server, glob_of

_START = re.compile(rb":(\d+)(?::|$)")


class RedisHistory(HistoryStore):
    """Keep history on one server, or one Cluster."""

    def __init__(self, server: Server, keys: Keys, cipher: Cipher) -> None:
        self._server, self._cipher = server, cipher
        self._base = keys.of_layer("history")

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow]) -> None:
        if rows:
            values = chain.from_iterable(map(_values, rows))
            run(self._server, "record", [self._base], MINUTES_KEPT_S, settings.history, *values)
        if troubles:
            groups = chain.from_iterable(map(self._group, troubles))
            most = MOST_TROUBLES, MOST_TROUBLES_OF_ONE
            run(self._server, "record_troubles", [self._base], settings.history, *most, *groups)

    def _group(self, trouble: TroubleRow) -> Sequence[Any]:
        named = f"{trouble.kind}\0{trouble.where}\0{trouble.what}".encode()
        id, what = blake2b(named, digest_size=16).hexdigest(), self._cipher.seal(trouble.what.encode())
        return id, trouble.kind, trouble.where, what, trouble.count, trouble.buried

    def history(self, series: Series, since: float, until: float, step: int) -> Iterable[HistoryRow]:
        values = (":".join(series), since, until, step, MINUTES_KEPT_S, settings.history)
        rows = run(self._server, "history", [self._base], *values, again=True)
        return [_read(series, float(start), counts) for start, counts in rows]

    def recent(self, since: float) -> Iterable[HistoryRow]:
        for name, counts in run(self._server, "recent", [self._base], since, again=True):
            kind, _, of = name_of(name).partition(":")
            yield _read((kind, of), since, counts)

    def troubles(self, since: float) -> Iterable[TroubleRow]:
        for row in run(self._server, "troubles", [self._base], since, again=True):
            kind, name, what, count, buried, first_at, last_at = row
            yield TroubleRow(
                name_of(kind),
                name_of(name),
                read_error(what, self._cipher),
                int(count),
                int(buried),
                float(first_at),
                float(last_at),
            )

    def prune(self, keep: float) -> None:
        """Forget old troubles; all else expires by itself."""
        most = MOST_TROUBLES, MOST_TROUBLES_OF_ONE
        run(self._server, "record_troubles", [self._base], keep, *most, again=True)

    def advance_time(self, seconds: float) -> None:
        """Move every stored time back, for tests: the earliest first, so that none meets another on its way."""
        pattern = glob_of(self._base) + b":*"
        found = {key for node in self._server.nodes() for key in node.ask("KEYS", pattern)}
        keys = sorted(found, key=lambda key: int(match[1]) if (match := _START.search(key)) else 0)
        run_all(self._server, "age_history", [([key], [self._base, seconds]) for key in keys])


def _values(row: HistoryRow) -> Sequence[Any]:
    counted: Mapping[str, float] = {
        "sent": row.sent,
        "done": row.done,
        "retried": row.retried,
        "buried": row.buried,
        "expired": row.expired,
        "longest_wait": row.longest_wait,
        **{f"wait{n}": count for n, count in enumerate(row.waits)},
        **{f"run{n}": count for n, count in enumerate(row.runs)},
    }
    parts = [part for name, number in counted.items() if number for part in (name, number)]
    return [":".join(row.series), "" if row.start is None else row.start, len(parts) // 2, *parts]


def _read(series: Series, start: float, counts: Sequence[bytes]) -> HistoryRow:
    numbers = {name.decode(): number for name, number in zip(counts[::2], counts[1::2], strict=True)}
    longest_wait = float(numbers.get("longest_wait", 0))
    sums = {name: int(float(number)) for name, number in numbers.items()}
    return HistoryRow(
        series,
        start,
        sent=sums.get("sent", 0),
        done=sums.get("done", 0),
        retried=sums.get("retried", 0),
        buried=sums.get("buried", 0),
        expired=sums.get("expired", 0),
        longest_wait=longest_wait,
        waits=tuple(sums.get(f"wait{n}", 0) for n in range(BUCKETS)),
        runs=tuple(sums.get(f"run{n}", 0) for n in range(BUCKETS)),
    )
