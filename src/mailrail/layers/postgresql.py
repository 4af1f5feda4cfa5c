"""The database layer on PostgreSQL: many workers on many machines, and sends inside your transactions.

Every verb is one statement where it can be; see ``postgresql_sql`` for them. Rows that another transaction has locked
are passed over, never waited for, so workers do not stand in each other's way.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError, OperationalError, ProgrammingError, connections, transaction

from ..errors import LayerUnavailable, WouldDeadlock
from ..messages import (
    ChannelStats,
    Claimed,
    Content,
    DeadMessage,
    Granted,
    Message,
    Rate,
    WorkerInfo,
    check_channel_name,
    encode,
)
from . import database_sql
from . import postgresql_sql as sql
from .base import WORKER_FORGOTTEN_AFTER, Lease, lease_for
from .buckets import refill
from .database import DatabaseChannelLayer, read_dead, read_message, storable
from .frontier import Frontier
from .listener import Listener, is_direct
from .postgresql_rows import (
    Answer,
    Call,
    by_name,
    columns_of,
    lane_columns,
    lane_number,
    named,
    read_answer,
    row_of,
    runs,
    token_columns,
)
from .unanswered import Unanswered

COUNTED = 10_000
"""Messages of a channel that ``stats`` counts; more are estimated."""
MOST_TRIES = 10
LOOK_FIRST, LOOK_SELDOM = 0.02, 1.0
"""Seconds between two looks of a worker that gets no notifications: the first ones, and when nothing comes."""
LONGEST_LOCK = 5.0
"""Seconds that ``immediately=True`` waits for a lock that only the caller's own transaction may hold."""

# SQLSTATEs, from the PostgreSQL manual's appendix A.
DEADLOCK, SERIALIZATION_FAILURE, UNDEFINED_TABLE, LOCK_NOT_AVAILABLE = "40P01", "40001", "42P01", "55P03"

Result = TypeVar("Result")


class PostgresqlLayer(DatabaseChannelLayer):
    """What ``DatabaseChannelLayer`` is on a PostgreSQL database."""

    may_poll_early = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._listener = Listener(self.using, self.wake, self._stir)
        self._frontier = Frontier()
        self._unanswered = Unanswered()
        self._look_every = LOOK_FIRST
        self._fruitless = 0  # claims in a row that got nothing

    # -- statements and transactions ----------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Any]:
        """A cursor in a transaction: the caller's, if there is one, else a short one of our own."""
        with (
            _plain_words(),
            transaction.atomic(self.using, savepoint=False),
            self._connection.cursor() as cursor,
        ):
            yield cursor

    def _execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """One statement: a transaction of its own, or part of the caller's."""
        with _plain_words(), self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _execute_prepared(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """One of the worker's statements: past Django's cursor, so that PostgreSQL plans it once, not each time.

        A pooler may send the next statement to another server process, which has not prepared it: there, as usual.
        """
        connection = self._connection
        connection.ensure_connection()
        if not is_direct(connection):
            return self._execute(statement, values)
        connection.validate_no_broken_transaction()
        from psycopg import Cursor

        with _plain_words(), connection.wrap_database_errors:
            driver = connection.connection
            usual, driver.prepare_threshold = driver.prepare_threshold, 5
            try:
                with Cursor(driver) as cursor:
                    return cursor.execute(statement, values).fetchall()
            finally:
                driver.prepare_threshold = usual

    def _patiently(self, action: Callable[[], Result]) -> Result:
        """Again after a deadlock or a serialization failure, if the transaction is ours: nothing has happened."""
        tries = 0
        while True:
            try:
                return action()
            except OperationalError as error:
                tries += 1
                ours = not self._connection.in_atomic_block
                if (
                    not ours
                    or tries >= MOST_TRIES
                    or _sqlstate(error) not in (DEADLOCK, SERIALIZATION_FAILURE)
                ):
                    raise
            time.sleep(random.uniform(0, 0.01 * tries))

    @contextmanager
    def atomic(self) -> Iterator[None]:
        with transaction.atomic(self.using):
            yield

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        rows = [row_of(message) for message in messages]
        if len(rows) == 1 and messages[0].key is None and messages[0].lane is None:
            self._patiently(lambda: self._execute(sql.ENQUEUE, rows[0]))
            return [messages[0].id]
        return self._patiently(lambda: self._enqueue_all(rows))

    def _enqueue_all(self, rows: Sequence[dict[str, Any]]) -> list[UUID]:
        with self._write() as cursor:
            _lock_lanes(cursor, {(row["channel"], row["lane"]) for row in rows if row["lane"] is not None})
            stored: list[UUID] = []
            for together in runs(rows):
                if together[0]["key"] is not None:
                    stored += [_insert_with_key(cursor, row) for row in together]
                else:
                    cursor.execute(sql.ENQUEUE_MANY, columns_of(together))
                    stored += [row["id"] for row in together]
            return stored

    def check_immediately(self) -> None:
        pass  # a connection of its own; see below

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        """On a second connection, unless the caller is in no transaction."""
        if not self._connection.in_atomic_block:
            return self.enqueue(messages)
        usual = self._connection
        connections[self.using] = usual.copy()
        try:
            with transaction.atomic(self.using), self._connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LONGEST_LOCK}s'")
                return self.enqueue(messages)
        except OperationalError as error:
            if _sqlstate(error) != LOCK_NOT_AVAILABLE:
                raise
            raise WouldDeadlock(
                "immediately=True waits for something that a transaction holds: most likely this one, which has sent "
                "the same key or to the same lane. Leave it out, or send before atomic()."
            ) from error
        finally:
            self._connection.close()
            connections[self.using] = usual

    # -- working ------------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        limits = {channel: room for channel, room in limits.items() if room > 0}
        total = sum(limits.values()) if total is None else total
        if total <= 0:
            limits = {}
        if not limits and not finished:
            return Claimed([], [], [])
        call = Call(worker, limits, {c: lease_for(c, lease) for c in limits}, finished, total)
        if adopted := self._adopt(call):  # they take the room that the call before had
            return Claimed(adopted, self._really_lost(self.finish(finished)), [])
        try:
            claimed = self._patiently(lambda: self._claim(call))
        except DatabaseError:
            self._unanswered.note(worker, call.token, max(call.leases.values(), default=0.0), finished)
            raise
        self._fruitless = 0 if claimed.claims else self._fruitless + 1
        return claimed._replace(lost=self._really_lost(claimed.lost))

    def _claim(self, call: Call) -> Claimed:
        if any(message.lane is not None for message in call.finished):
            with (
                self._write() as cursor
            ):  # the next of a lane is let go here, and may be claimed by the same call
                lost = _finish_in_lanes(cursor, call.finished)
                return self._choose(call)._replace(lost=lost)
        claimed = self._choose(call, call.finished)
        return claimed._replace(lost=self._finish_in_lanes(claimed.lost))

    def _choose(self, call: Call, finished: Sequence[Message] = ()) -> Claimed:
        """Settle and lease. Messages behind others of their lane are put out of the way before anything is leased."""
        answer = self._choose_once(call, finished)
        lost, expired = named(answer.lost, finished), answer.expired
        for _ in range(MOST_TRIES):
            if not answer.blocked:
                break
            parked = self._park(answer.blocked)
            answer = self._choose_once(call, despite=not parked)
            expired += answer.expired
            if not parked:
                break
        if answer.overdue:
            expired += self._drop_expired(answer.overdue)
        return Claimed(answer.claims, lost, expired)

    def _choose_once(self, call: Call, finished: Sequence[Message] = (), *, despite: bool = False) -> Answer:
        floors = self._frontier.floors(call.worker)
        values = {
            "channels": list(call.limits),
            "rooms": list(call.limits.values()),
            "leases": list(call.leases.values()),
            "total": call.total,
            "despite": despite,
            "worker": call.worker,
            "token": call.token,
            "besides": [message.id for message in call.finished],
            **token_columns(finished),
        }
        if floors is None:
            statement = sql.CLAIM
        else:
            statement = sql.CLAIM_ON
            values["known_channels"] = [level.channel for level in floors]
            values["known_priorities"] = [level.priority for level in floors]
            values["floors"] = list(floors.values())
        begun = time.monotonic()
        answer = read_answer(self._execute_prepared(statement, values))
        full = bool(answer.claims) and len(answer.claims) >= min(call.total, sum(call.limits.values()))
        self._frontier.learn(call.worker, floors, answer.dues, time.monotonic() - begun, full)
        return answer

    def _adopt(self, call: Call) -> list[Message]:
        """Claims of ours whose answer was lost, found by their token, under a new one."""
        unanswered = self._unanswered.tokens(call.worker) if call.limits else []
        if not unanswered:
            return []
        values = {
            "channels": list(call.limits),
            "leases": list(call.leases.values()),
            "unanswered": unanswered,
            "token": call.token,
        }
        return [read_message(row) for row in self._execute(sql.ADOPT, values)]

    def _really_lost(self, lost: list[Message]) -> list[Message]:
        """Without those that a call of ours has finished whose answer was lost."""
        ours = self._unanswered.may_have_finished(lost) if lost else []
        if not ours:
            return lost
        rows = self._execute(sql.STORED, {"ids": [message.id for message in ours]})
        gone = {message.id for message in ours} - {id for (id,) in rows}
        return [message for message in lost if message.id not in gone]

    def _park(self, blocked: Sequence[tuple[str, str]]) -> bool:
        """Out of the way of claims with what waits behind another one of its lane. False: not now."""
        with _plain_words(), self._connection.cursor() as cursor:
            cursor.execute(sql.PARK, lane_columns(blocked))
            return bool(cursor.rowcount)

    def _drop_expired(self, channels: list[str]) -> list[Message]:
        """Those of lanes: their next one is let go in the same transaction."""
        with self._write() as cursor:
            cursor.execute(sql.DROP_EXPIRED_IN_LANES, {"channels": channels})
            dropped = [read_message(row) for row in cursor.fetchall()]
            _advance_lanes(cursor, dropped)
            return dropped

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        if not claims:
            return []
        leases = {claim.channel: lease_for(claim.channel, lease) for claim in claims}
        values = {**token_columns(claims), "channels": list(leases), "leases": list(leases.values())}
        rows = self._patiently(lambda: self._execute_prepared(sql.RENEW, values))
        return named(rows, claims)

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        if any(claim.lane is not None for claim in claims):
            return self._finish_in_lanes(claims)
        return self._finish_in_lanes(self._settle(claims, sql.FINISH))

    def _finish_in_lanes(self, claims: Sequence[Message]) -> list[Message]:
        """In a transaction: the next of each lane is let go with it."""
        if not claims:
            return []

        def finish() -> list[Message]:
            with self._write() as cursor:
                return _finish_in_lanes(cursor, claims)

        return self._patiently(finish)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._settle([claim], sql.GIVE_BACK, delay=delay, attempts=0, alone=alone)

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return self._settle(claims, sql.GIVE_BACK, delay=delay, attempts=-1, alone=False)

    def _settle(self, claims: Sequence[Message], statement: str, **values: Any) -> list[Message]:
        if not claims:
            return []
        values |= token_columns(claims)
        return named(self._patiently(lambda: self._execute(statement, values)), claims)

    def bury(self, claim: Message, error: str) -> list[Message]:
        values = {"error": storable(error), **token_columns([claim])}

        def bury() -> list[Message]:
            with self._write() as cursor:
                cursor.execute(sql.BURY, values)
                return _gone(cursor, [claim])

        return self._patiently(bury)

    # -- waiting ------------------------------------------------------------------------------------------------

    def poll(self, channels: Sequence[str]) -> float | None:
        if not channels:
            return None
        [(seconds,)] = self._execute_prepared(sql.NEXT_DUE, {"channels": list(channels)})
        return None if seconds is None else max(0.0, seconds)

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        seen = self._wakes if seen is None else seen
        deadline = time.monotonic() + timeout
        while self._wakes == seen:
            # In this order: a notification between the two counts as one wake more than `seen`.
            listening = self._listener.listen(channels) if channels else self._listener.is_live
            soon = self._due_at(channels) - time.monotonic()
            if soon <= 0:
                self._look_every = LOOK_FIRST
                soon = self._hesitation()
            left = min(deadline - time.monotonic(), soon)
            looks = self._look_every * random.uniform(0.75, 1.25) if channels and not listening else left
            if min(left, looks) > 0:
                self._sleep(min(left, looks), seen, listening)
            if time.monotonic() >= deadline or looks >= left == soon:
                return
            self._look_every = min(LOOK_SELDOM, self._look_every * 1.5)

    def _sleep(self, seconds: float, seen: int, listening: bool) -> None:
        with self._waking:
            self._waking.wait_for(lambda: self._wakes != seen or self._listener.is_live != listening, seconds)

    def _stir(self) -> None:
        """Listening has begun, or ended: look again, and sleep accordingly."""
        with self._waking:
            self._waking.notify_all()

    def _hesitation(self) -> float:
        """Seconds to wait before a claim of what is due although the last claims did not get it.

        Others have it locked: they claim it just now, or a transaction of a user holds it (a twin of its key).
        """
        return 0.0 if self._fruitless < 2 else min(0.05, 0.001 * 2 ** min(self._fruitless, 10))

    def stop_listening(self) -> None:
        self._listener.close()

    # -- operating ----------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def cancel() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(sql.CANCEL, {"channel": channel, "ids": ids})
                gone = cursor.fetchall()
                _advance(cursor, {(channel, lane) for _, channel, lane in gone if lane is not None})
                return [id for id, *_ in gone]

        return self._patiently(cancel)

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        rows = self._execute(sql.WAITING, {"channel": channel, "limit": limit})
        return [read_message(row) for row in rows]

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        at, id = (before.buried_at, before.message.id) if before else (float("inf"), UUID(int=0))
        values = {"channel": channel, "limit": limit, "before_at": at, "before_id": id}
        return [read_dead(row) for row in self._execute(sql.DEAD, values)]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)

        def requeue() -> list[UUID]:
            with self._write() as cursor:
                cursor.execute(sql.LANES_OF_DEAD, {"channel": channel, "ids": ids})
                _lock_lanes(cursor, {(channel, lane) for (lane,) in cursor.fetchall()})
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
            cursor.execute(sql.RESUME, {"channel": channel})
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

    def stats(self) -> dict[str, ChannelStats]:
        dead = dict(self._execute(database_sql.DEAD_COUNTS, {}))
        paused = {channel for (channel,) in self._execute(database_sql.PAUSED, {})}
        live = {channel: counts for channel, *counts in self._execute(sql.STATS, {"most": COUNTED})}
        return {
            channel: self._stats(channel, live.get(channel), dead.get(channel, 0), channel in paused)
            for channel in sorted(live.keys() | dead.keys() | paused)
        }

    def _stats(self, channel: str, counts: list[Any] | None, dead: int, paused: bool) -> ChannelStats:
        ready, scheduled, claimed, oldest = counts or (0, 0, 0, None)
        if ready > COUNTED:
            ready = max(ready, self._estimate(channel, "<="))
        if scheduled > COUNTED:
            scheduled = max(scheduled, self._estimate(channel, ">"))
        return ChannelStats(ready, scheduled, claimed, dead, oldest if ready else None, paused)

    def _estimate(self, channel: str, comparison: str) -> int:
        [(plan,)] = self._execute(sql.ESTIMATE.format(comparison=comparison), {"channel": channel})
        plan = json.loads(plan) if isinstance(plan, str) else plan
        return int(plan[0]["Plan"]["Plan Rows"])

    def shift(self, seconds: float) -> None:
        with self._write() as cursor:
            for statement in database_sql.SHIFT:
                cursor.execute(statement, {"s": seconds})
        self._frontier.forget()


# -- statements that belong together ----------------------------------------------------------------------------


def _insert_with_key(cursor: Any, row: dict[str, Any]) -> UUID:
    """The id of what waits under this key now: ours, or the twin's."""
    id: UUID = row["id"]
    for _ in range(MOST_TRIES):
        cursor.execute(sql.ENQUEUE_WITH_KEY, row)
        if cursor.fetchone():
            return id
        cursor.execute(sql.STORED, {"ids": [id]})
        if cursor.fetchone():  # a repeat of the id
            return id
        cursor.execute(sql.JOIN_TWIN, row)
        if twin := cursor.fetchone():
            twin_id: UUID = twin[0]
            return twin_id
        # The twin was claimed between the statements.
    raise LayerUnavailable(f"Somebody claims {row['key']!r} as often as it is sent. Try again.")


def _lock_lanes(cursor: Any, lanes: Iterable[tuple[str, str]]) -> None:
    for number in sorted(map(lane_number, lanes)):  # sorted: two senders cannot wait for each other
        cursor.execute(sql.LOCK_LANE, {"lane": number})


def _finish_in_lanes(cursor: Any, claims: Sequence[Message]) -> list[Message]:
    cursor.execute(sql.FINISH_IN_LANES, token_columns(claims))
    return _gone(cursor, claims)


def _gone(cursor: Any, claims: Sequence[Message]) -> list[Message]:
    """After a statement that removed claims and returned (id, token, channel, lane) of each: those it did not find."""
    gone = cursor.fetchall()
    _advance(cursor, {(channel, lane) for *_, channel, lane in gone if lane is not None})
    found = {(id, token) for id, token, *_ in gone}
    return [claim for name, claim in by_name(claims).items() if name not in found]


def _advance_lanes(cursor: Any, gone: Iterable[Message]) -> None:
    _advance(cursor, {(m.channel, m.lane) for m in gone if m.lane is not None})


def _advance(cursor: Any, lanes: set[tuple[str, str]]) -> None:
    """After messages are gone from (channel, lane): the next of each lane may be claimed."""
    for _ in range(MOST_TRIES if lanes else 0):
        cursor.execute(sql.ADVANCE_LANES, lane_columns(lanes))
        (missed,) = cursor.fetchone()
        if not missed:
            return


def _discard(cursor: Any, channel: str, ids: list[UUID]) -> list[UUID]:
    cursor.execute(sql.DISCARD, {"channel": channel, "ids": ids})
    return [id for (id,) in cursor.fetchall()]


def _sqlstate(error: DatabaseError) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)


@contextmanager
def _plain_words() -> Iterator[None]:
    """Say what a database error means for the layer, where that is known."""
    try:
        yield
    except ProgrammingError as error:
        if _sqlstate(error) == UNDEFINED_TABLE and "mailrail_" in str(error):
            [first, *_] = str(error).splitlines()
            raise LayerUnavailable(f"{first}. Run: python manage.py migrate mailrail") from error
        raise
