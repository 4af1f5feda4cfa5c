"""Looking at channels, and what a person or another worker asks of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from .. import database_sql
from ..base import COUNTED, WORKER_FORGOTTEN_AFTER
from ..buckets import refill
from ..database import read_dead, read_message
from . import operating_sql as sql
from .lanes import advance_lanes, lock_lanes
from .looking import PostgresqlLooking


class PostgresqlOperating(PostgresqlLooking):
    """The verbs that the worker's round can do without."""

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def cancel() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(sql.CANCEL, {"channel": channel, "ids": ids})
                gone = cursor.fetchall()
                advance_lanes(cursor, (place for _, *place in gone))
                return [id for id, *_ in gone]

        return self._patiently(cancel)

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        rows = self._execute(sql.WAITING, {"channel": channel, "limit": limit})
        return [read_message(row) for row in rows]

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        return {id for (id,) in self._execute(sql.KNOWN, {"channel": channel, "ids": list(ids)})}

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        at, id = (before.buried_at, before.message.id) if before else (float("inf"), UUID(int=0))
        values = {"channel": channel, "limit": limit, "before_at": at, "before_id": id}
        return [read_dead(row) for row in self._execute(sql.DEAD, values)]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def requeue() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(sql.LANES_OF_DEAD, {"channel": channel, "ids": ids})
                lock_lanes(cursor, {(channel, lane) for (lane,) in cursor.fetchall()})
                for id in ids:  # one by one, so that those of a lane take its places in the order given
                    cursor.execute(sql.REQUEUE, {"channel": channel, "id": id})
                return _discard(cursor, channel, ids)

        return self._patiently(requeue)

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            return _discard(cursor, channel, list(ids))

    def pause(self, channel: str) -> None:
        self._execute(sql.PAUSE, {"channel": check_channel_name(channel)})

    def resume(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(database_sql.RESUME, {"channel": channel})
            cursor.execute(sql.NOTIFY, {"channel": channel})

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._write() as cursor:
            cursor.execute(sql.NEW_BUCKET, {"name": bucket, "tokens": float(rate.count)})
            cursor.execute(sql.BUCKET, {"name": bucket})
            held, elapsed = cursor.fetchone()
            tokens, granted, retry_after = refill(held, elapsed, n, rate)
            cursor.execute(sql.FILL_BUCKET, {"name": bucket, "tokens": tokens})
            return Granted(granted, retry_after)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        gone = worker if info is None else ""
        self._execute(sql.GOODBYE, {"id": gone, "forgotten": WORKER_FORGOTTEN_AFTER})
        if info is not None:
            self._execute(sql.HEARTBEAT, {"id": worker, "details": encode(info, "info")})

    def workers(self) -> list[WorkerInfo]:
        rows = self._execute(sql.WORKERS, {"forgotten": WORKER_FORGOTTEN_AFTER})
        return [WorkerInfo(id, json.loads(details), age) for id, details, age in rows]

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        dead = dict(self._execute(sql.DEAD_COUNTS, {"most": most}))
        paused = {channel for (channel,) in self._execute(database_sql.PAUSED, {})}
        live = {channel: counts for channel, *counts in self._execute(sql.STATS, {"most": most})}
        return {
            channel: self._stats(channel, most, live.get(channel), dead.get(channel, 0), channel in paused)
            for channel in sorted(live.keys() | dead.keys() | paused)
        }

    def _stats(
        self, channel: str, most: int, counts: list[Any] | None, dead: int, paused: bool
    ) -> ChannelStats:
        ready, scheduled, claimed, oldest = counts or (0, 0, 0, None)
        if ready > most:
            ready = max(ready, self._estimate(sql.ESTIMATE.format(comparison="<="), channel))
        if scheduled > most:
            scheduled = max(scheduled, self._estimate(sql.ESTIMATE.format(comparison=">"), channel))
        if dead > most:
            dead = max(dead, self._estimate(sql.ESTIMATE_DEAD, channel))
        return ChannelStats(ready, scheduled, claimed, dead, oldest if ready else None, paused)

    def _estimate(self, statement: str, channel: str) -> int:
        [(plan,)] = self._execute(statement, {"channel": channel})
        plan = json.loads(plan) if isinstance(plan, str) else plan
        return int(plan[0]["Plan"]["Plan Rows"])


def _discard(cursor: Any, channel: str, ids: list[UUID]) -> list[UUID]:
    cursor.execute(sql.DISCARD, {"channel": channel, "ids": ids})
    return [id for (id,) in cursor.fetchall()]
