"""Operations on channels: what a person or another worker asks of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from ...messages import (
    ChannelStats,
    Content,
    DeadMessage,
    Granted,
    Message,
    Rate,
    WorkerInfo,
    check_channel_name,
    encode,
)
from ..base import COUNTED, WORKER_FORGOTTEN_AFTER
from ..buckets import refill
from ..database import read_dead, read_message
from .execution import ids_of, rows_of
from .file import FileWatch
from .inspection import SqliteInspection
from .lanes import advance_lanes
from .statements import STATEMENTS


class SqliteOperations(SqliteInspection):
    """The verbs that the worker's round can do without."""

    _file: FileWatch

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            gone = rows_of(cursor, STATEMENTS["cancel"], {"channel": channel, "ids": ids_of(ids)})
            advance_lanes(cursor, [lane for _, *lane in gone])
            return [UUID(id) for id, *_ in gone]

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        return [read_message(row) for row in self._read(STATEMENTS["waiting"], channel=channel, limit=limit)]

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        return {UUID(id) for (id,) in self._read(STATEMENTS["known"], channel=channel, ids=ids_of(ids))}

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        before_at, before_id = (before.buried_at, before.message.id.hex) if before else (float("inf"), "")
        rows = self._read(
            STATEMENTS["dead"], channel=channel, limit=limit, before_at=before_at, before_id=before_id
        )
        return [read_dead(row) for row in rows]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)
        with self._write() as cursor:
            for id in ids:  # one by one, so that those of a lane take its places in the order given
                cursor.execute(STATEMENTS["requeue"], {"channel": channel, "id": id.hex, "now": time.time()})
            return _discard(cursor, channel, ids)

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            return _discard(cursor, channel, ids)

    def pause(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(STATEMENTS["pause"], {"channel": check_channel_name(channel), "now": time.time()})

    def resume(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(STATEMENTS["resume"], {"channel": channel})

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._write() as cursor:
            now = time.time()
            [(held, filled_at)] = rows_of(cursor, STATEMENTS["bucket"], {"name": bucket}) or [
                (rate.count, now)
            ]
            tokens, granted, retry_after = refill(held, now - filled_at, n, rate)
            cursor.execute(STATEMENTS["fill_bucket"], {"name": bucket, "tokens": tokens, "now": now})
            return Granted(granted, retry_after)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        now = time.time()
        self._connection.ensure_connection()
        self._file.check(self._connection)
        with self._write() as cursor:
            gone = worker if info is None else ""
            cursor.execute(STATEMENTS["goodbye"], {"id": gone, "forgotten": now - WORKER_FORGOTTEN_AFTER})
            if info is not None:
                cursor.execute(
                    STATEMENTS["heartbeat"], {"id": worker, "details": encode(info, "info"), "now": now}
                )

    def workers(self) -> list[WorkerInfo]:
        now = time.time()
        rows = self._read(STATEMENTS["workers"], now=now, forgotten=now - WORKER_FORGOTTEN_AFTER)
        return [WorkerInfo(id, json.loads(details), age) for id, details, age in rows if self._owns(id)]

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        dead = dict(self._read(STATEMENTS["dead_counts"]))
        paused = {channel for (channel,) in self._read(STATEMENTS["paused"])}
        live = {channel: counts for channel, *counts in self._read(STATEMENTS["stats"], now=time.time())}
        return {
            channel: _stats(live.get(channel, (0, 0, 0, None)), dead.get(channel, 0), channel in paused)
            for channel in sorted(live.keys() | dead.keys() | paused)
            if self._owns(channel)
        }


def _discard(cursor: Any, channel: str, ids: Iterable[UUID]) -> list[UUID]:
    gone = rows_of(cursor, STATEMENTS["discard"], {"channel": channel, "ids": ids_of(ids)})
    return [UUID(id) for (id,) in gone]


def _stats(counts: Sequence[Any], dead: int, paused: bool) -> ChannelStats:
    ready, scheduled, claimed, oldest = counts
    return ChannelStats(ready, scheduled, claimed, dead, oldest if ready else None, paused)
