"""Operations on channels: what a person or another worker asks of them."""

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
from ..base import COUNTED, WORKER_FORGOTTEN_AFTER
from ..buckets import refill
from ..database import read_dead, read_message
from .inspection import PostgresqlInspection
from .lanes import advance_lanes, lock_lanes
from .statements import STATEMENTS


class PostgresqlOperations(PostgresqlInspection):
    """The verbs that the worker's round can do without."""

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def cancel() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(STATEMENTS["cancel"], {"channel": channel, "ids": ids})
                gone = cursor.fetchall()
                advance_lanes(cursor, (place for _, *place in gone))
                return [id for id, *_ in gone]

        return self._patiently(cancel)

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        rows = self._execute(STATEMENTS["waiting"], {"channel": channel, "limit": limit})
        return [read_message(row) for row in rows]

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        return {id for (id,) in self._execute(STATEMENTS["known"], {"channel": channel, "ids": list(ids)})}

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        at, id = (before.buried_at, before.message.id) if before else (float("inf"), UUID(int=0))
        values = {"channel": channel, "limit": limit, "before_at": at, "before_id": id}
        return [read_dead(row) for row in self._execute(STATEMENTS["dead"], values)]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def requeue() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(STATEMENTS["lanes_of_dead"], {"channel": channel, "ids": ids})
                lock_lanes(cursor, {(channel, lane) for (lane,) in cursor.fetchall()})
                for id in ids:  # one by one, so that those of a lane take its places in the order given
                    cursor.execute(STATEMENTS["requeue"], {"channel": channel, "id": id})
                return _discard(cursor, channel, ids)

        return self._patiently(requeue)

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            return _discard(cursor, channel, list(ids))

    def pause(self, channel: str) -> None:
        self._execute(STATEMENTS["pause"], {"channel": check_channel_name(channel)})

    def resume(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(STATEMENTS["resume"], {"channel": channel})
            cursor.execute(STATEMENTS["notify"], {"channel": channel})

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._write() as cursor:
            cursor.execute(STATEMENTS["new_bucket"], {"name": bucket, "tokens": float(rate.count)})
            cursor.execute(STATEMENTS["bucket"], {"name": bucket})
            held, elapsed = cursor.fetchone()
            tokens, granted, retry_after = refill(held, elapsed, n, rate)
            cursor.execute(STATEMENTS["fill_bucket"], {"name": bucket, "tokens": tokens})
            return Granted(granted, retry_after)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        gone = worker if info is None else ""
        self._execute(STATEMENTS["goodbye"], {"id": gone, "forgotten": WORKER_FORGOTTEN_AFTER})
        if info is not None:
            self._execute(STATEMENTS["heartbeat"], {"id": worker, "details": encode(info, "info")})

    def workers(self) -> list[WorkerInfo]:
        rows = self._execute(STATEMENTS["workers"], {"forgotten": WORKER_FORGOTTEN_AFTER})
        return [WorkerInfo(id, json.loads(details), age) for id, details, age in rows if self._owns(id)]

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        dead = dict(self._execute(STATEMENTS["dead_counts"], {"most": most}))
        paused = {channel for (channel,) in self._execute(STATEMENTS["paused"], {})}
        live = {channel: counts for channel, *counts in self._execute(STATEMENTS["stats"], {"most": most})}
        return {
            channel: self._stats(channel, most, live.get(channel), dead.get(channel, 0), channel in paused)
            for channel in sorted(live.keys() | dead.keys() | paused)
            if self._owns(channel)
        }

    def _stats(
        self, channel: str, most: int, counts: list[Any] | None, dead: int, paused: bool
    ) -> ChannelStats:
        ready, scheduled, claimed, oldest = counts or (0, 0, 0, None)
        if ready > most:
            ready = max(ready, self._estimate(STATEMENTS["estimate_ready"], channel))
        if scheduled > most:
            scheduled = max(scheduled, self._estimate(STATEMENTS["estimate_scheduled"], channel))
        if dead > most:
            dead = max(dead, self._estimate(STATEMENTS["estimate_dead"], channel))
        return ChannelStats(ready, scheduled, claimed, dead, oldest if ready else None, paused)

    def _estimate(self, statement: str, channel: str) -> int:
        [(plan,)] = self._execute(statement, {"channel": channel})
        plan = json.loads(plan) if isinstance(plan, str) else plan
        return int(plan[0]["Plan"]["Plan Rows"])


def _discard(cursor: Any, channel: str, ids: list[UUID]) -> list[UUID]:
    cursor.execute(STATEMENTS["discard"], {"channel": channel, "ids": ids})
    return [id for (id,) in cursor.fetchall()]
