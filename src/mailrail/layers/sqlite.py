"""The database layer on SQLite: one file, one machine, nothing to install.

SQLite has one writer at a time, so every verb that writes is one short ``BEGIN IMMEDIATE`` transaction (or a
savepoint of the caller's) and sees a world at rest. See ``sqlite_sql`` for the statements.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.db import DatabaseError, OperationalError, transaction

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
    new_token,
    uuid7,
)
from . import database_sql
from . import sqlite_sql as sql
from .base import WORKER_FORGOTTEN_AFTER, Lease, lease_for
from .buckets import refill
from .database import DatabaseChannelLayer, read_dead, read_message, storable
from .sqlite_file import FileWatch

PATIENCE = 30.0
"""Seconds a write of ours waits for the database's one write lock, on top of the connection's own ``timeout``."""
STATEMENT_GRACE = 0.1
"""Seconds a statement gets to end in a transaction that is to be undone; then it is interrupted."""


class SqliteLayer(DatabaseChannelLayer):
    """What ``DatabaseChannelLayer`` is on a SQLite database."""

    has_one_writer = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._file = FileWatch()

    # -- transactions -------------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[Any]:
        """A cursor in a write transaction: the caller's, if there is one, else a short one of our own."""
        connection = self._connection
        with _plain_words():
            if connection.in_atomic_block:
                with transaction.atomic(self.using), connection.cursor() as cursor:
                    yield cursor
            elif not connection.get_autocommit():  # the caller commits by hand
                with connection.cursor() as cursor:
                    yield cursor
            else:
                with connection.cursor() as cursor:
                    yield from self._short_transaction(cursor)

    def _short_transaction(self, cursor: Any) -> Iterator[Any]:
        _patiently(lambda: cursor.execute("BEGIN IMMEDIATE"))
        try:
            yield cursor
            # In journal modes other than WAL, COMMIT waits for readers, and may be repeated.
            _patiently(lambda: cursor.execute("COMMIT"))
        except BaseException:
            if self._connection.connection is not None and self._connection.connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Takes the write lock at the start: a transaction that reads first and writes later may fail half-way."""
        connection = self._connection
        connection.ensure_connection()  # which sets the mode that the settings ask for
        mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        with ExitStack() as stack:
            try:
                _patiently(lambda: stack.enter_context(transaction.atomic(self.using)))
            finally:
                connection.transaction_mode = mode
            yield

    def breaker(self) -> Callable[[], None]:
        """Rolls back and closes: whatever the abandoned code does from then on, it does not do to the database."""
        connection = self._connection
        raw = connection.connection

        def interrupt() -> None:
            with suppress(sqlite3.Error):  # closed by now
                raw.interrupt()

        def undo() -> None:
            connection.needs_rollback = True  # Django refuses statements from here on, a COMMIT too
            interrupting = threading.Timer(STATEMENT_GRACE, interrupt)
            interrupting.start()
            with suppress(sqlite3.Error), closing(raw):
                raw.rollback()  # waits for the statement that runs, if one does
            interrupting.cancel()

        return undo

    def _read(self, statement: str, **values: Any) -> list[Any]:
        with _plain_words(), self._connection.cursor() as cursor:
            rows: list[Any] = _patiently(partial(_rows, cursor, statement, values))
            return rows

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        now = time.time()
        rows = [_row(message, now) for message in messages]
        if len(rows) == 1 and not _ordered(messages[0]):
            self._insert_one(_plain(rows[0]))
            return [messages[0].id]
        if not any(map(_ordered, messages)):
            with self._write() as cursor:
                cursor.executemany(sql.ENQUEUE, map(_plain, rows))
            return [message.id for message in messages]
        with self._write() as cursor:
            return [
                _insert_in_order(cursor, row) or message.id
                for message, row in zip(messages, rows, strict=True)
            ]

    def _insert_one(self, row: tuple[Any, ...]) -> None:
        """A statement on its own is a transaction of its own, or part of the caller's."""
        with _plain_words(), self._connection.cursor() as cursor:
            if self._connection.in_atomic_block:
                cursor.execute(sql.ENQUEUE, row)
            else:
                _patiently(lambda: cursor.execute(sql.ENQUEUE, row))

    def check_immediately(self) -> None:
        if self._connection.in_atomic_block or not self._connection.get_autocommit():
            raise WouldDeadlock(
                "immediately=True inside a transaction would wait for that very transaction: SQLite has one writer "
                "at a time. Leave it out (the message is sent when the transaction commits), or send before atomic()."
            )

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
        if total is not None and total <= 0:
            limits = {}
        if not finished and self.poll(list(limits)) != 0:
            return Claimed([], [], self._drop_expired(list(limits)))
        with self._write() as cursor:
            lost = self._finish(cursor, finished)
            expired = _drop_expired(cursor, list(limits))
            ids = _choose(cursor, limits, total, besides=finished)
            leases = {channel: lease_for(channel, lease) for channel in limits}
            return Claimed(_lease(cursor, worker, ids, leases), lost, expired)

    def _drop_expired(self, channels: list[str]) -> list[Message]:
        """Look first: an idle worker must not take the write lock."""
        if not self._read(sql.ANY_EXPIRED, channels=json.dumps(channels), now=time.time()):
            return []
        with self._write() as cursor:
            return _drop_expired(cursor, channels)

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        leases = {claim.channel: lease_for(claim.channel, lease) for claim in claims}
        return self._settle(claims, sql.RENEW, leases=json.dumps(leases))

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        if not claims:
            return []
        with self._write() as cursor:
            return self._finish(cursor, claims)

    def _finish(self, cursor: Any, claims: Sequence[Message]) -> list[Message]:
        if not claims:
            return []
        gone = _rows(cursor, sql.FINISH, {"claims": _tokens(claims)})
        _advance_lanes(cursor, [lane for _, _, *lane in gone])
        return _not_in(gone, claims)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._settle([claim], sql.GIVE_BACK, delay=delay, attempts=0, alone=alone)

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return self._settle(claims, sql.GIVE_BACK, delay=delay, attempts=-1, alone=False)

    def _settle(self, claims: Sequence[Message], statement: str, **values: Any) -> list[Message]:
        if not claims:
            return []
        with self._write() as cursor:
            values.update(claims=_tokens(claims), now=time.time())
            held = _rows(cursor, sql.HELD, values)
            cursor.execute(statement, values)
            return _not_in(held, claims)

    def bury(self, claim: Message, error: str) -> list[Message]:
        with self._write() as cursor:
            values = {"claims": _tokens([claim]), "error": storable(error), "now": time.time()}
            cursor.execute(sql.BURY, values)
            return self._finish(cursor, [claim])

    def poll(self, channels: Sequence[str]) -> float | None:
        if not channels:
            return None
        [(due,)] = self._read(sql.NEXT_DUE, channels=json.dumps(list(channels)))
        if not isinstance(due, int | float):  # none, or only what was edited by hand into something else
            return None
        return max(0.0, due - time.time())

    def _change(self) -> object:
        # Differs after another connection's commit, in this process or elsewhere (SQLite manual, PRAGMA data_version).
        # 50 times a second, so past Django's cursor, which costs ten times as much.
        connection = self._connection
        connection.ensure_connection()
        self._file.check(connection)
        with connection.wrap_database_errors:
            return connection.connection.execute("PRAGMA data_version").fetchone()

    # -- operating ----------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            gone = _rows(cursor, sql.CANCEL, {"channel": channel, "ids": _ids(ids)})
            _advance_lanes(cursor, [lane for _, *lane in gone])
            return [UUID(id) for id, *_ in gone]

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        return [read_message(row) for row in self._read(sql.WAITING, channel=channel, limit=limit)]

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        before_at, before_id = (before.buried_at, before.message.id.hex) if before else (float("inf"), "")
        rows = self._read(sql.DEAD, channel=channel, limit=limit, before_at=before_at, before_id=before_id)
        return [read_dead(row) for row in rows]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        ids = list(ids)
        with self._write() as cursor:
            for id in ids:  # one by one, so that those of a lane take its places in the order given
                cursor.execute(sql.REQUEUE, {"channel": channel, "id": id.hex, "now": time.time()})
            return _discard(cursor, channel, ids)

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._write() as cursor:
            return _discard(cursor, channel, ids)

    def pause(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(sql.PAUSE, {"channel": check_channel_name(channel), "now": time.time()})

    def resume(self, channel: str) -> None:
        with self._write() as cursor:
            cursor.execute(sql.RESUME, {"channel": channel})

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._write() as cursor:
            now = time.time()
            [(held, filled_at)] = _rows(cursor, sql.BUCKET, {"name": bucket}) or [(rate.count, now)]
            tokens, granted, retry_after = refill(held, now - filled_at, n, rate)
            cursor.execute(sql.FILL_BUCKET, {"name": bucket, "tokens": tokens, "now": now})
            return Granted(granted, retry_after)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        now = time.time()
        self._connection.ensure_connection()
        self._file.check(self._connection)
        with self._write() as cursor:
            gone = worker if info is None else ""
            cursor.execute(sql.GOODBYE, {"id": gone, "forgotten": now - WORKER_FORGOTTEN_AFTER})
            if info is not None:
                cursor.execute(sql.HEARTBEAT, {"id": worker, "details": encode(info, "info"), "now": now})

    def workers(self) -> list[WorkerInfo]:
        now = time.time()
        rows = self._read(sql.WORKERS, now=now, forgotten=now - WORKER_FORGOTTEN_AFTER)
        return [WorkerInfo(id, json.loads(details), age) for id, details, age in rows]

    def stats(self) -> dict[str, ChannelStats]:
        dead = dict(self._read(database_sql.DEAD_COUNTS))
        paused = {channel for (channel,) in self._read(database_sql.PAUSED)}
        live = {channel: counts for channel, *counts in self._read(sql.STATS, now=time.time())}
        return {
            channel: _stats(live.get(channel, (0, 0, 0, None)), dead.get(channel, 0), channel in paused)
            for channel in sorted(live.keys() | dead.keys() | paused)
        }

    def shift(self, seconds: float) -> None:
        with self._write() as cursor:
            for statement in database_sql.SHIFT:
                cursor.execute(statement, {"s": seconds})


# -- rows -------------------------------------------------------------------------------------------------------


_id = re.compile("[0-9a-f]{32}")
_any_text = partial(str, encoding="utf-8", errors="backslashreplace")


def _rows(cursor: Any, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """What a statement returns; text that is not UTF-8, edited by hand or otherwise, with its odd bytes escaped.

    In two steps: ``execute`` returns the driver's own cursor, whose errors are not Django's.
    """
    raw = cursor.db.connection
    usual, raw.text_factory = raw.text_factory, _any_text
    try:
        cursor.execute(statement, values)
        rows: list[Any] = cursor.fetchall()
        return rows
    finally:
        raw.text_factory = usual


def _ordered(message: Message) -> bool:
    return message.key is not None or message.lane is not None


def _row(message: Message, now: float) -> dict[str, Any]:
    return {
        "id": message.id.hex,
        "channel": check_channel_name(message.channel),
        "content": encode(message.content),
        "headers": encode(message.headers, "headers") if message.headers else "{}",
        "v": message.v,
        "attempt": message.attempt,
        "losses": message.losses,
        "alone": message.alone,
        "max_attempts": message.max_attempts,
        "priority": message.priority,
        "due": now + message.delay if message.due is None else message.due,
        "expires": message.expires if message.lifetime is None else now + message.lifetime,
        "sent_at": now,
        "lane": message.lane,
        "key": message.key,
        "unique_key": message.key,
    }


def _plain(row: dict[str, Any]) -> tuple[Any, ...]:
    """The values of ``ENQUEUE``: the row's first 13, lane and key apart."""
    return tuple(row.values())[:-3]


def _insert_in_order(cursor: Any, row: dict[str, Any]) -> UUID | None:
    stored = _rows(cursor, sql.ENQUEUE_IN_ORDER, row)
    return UUID(stored[0][0]) if stored else None


def _choose(
    cursor: Any, limits: Mapping[str, int], total: int | None, besides: Sequence[Message]
) -> list[str]:
    """The ids to claim, best first."""
    if not limits:
        return []
    most = max(limits.values())
    values = {
        "channels": json.dumps(list(limits)),
        "now": time.time(),
        "most": most if total is None else min(most, total),
        "besides": _ids(claim.id for claim in besides),
    }
    room = dict(limits)
    chosen: list[str] = []
    for id, channel, row in _rows(cursor, sql.CLAIMABLE, values):
        if len(chosen) == total:
            break
        if room[channel] > 0:
            room[channel] -= 1
            chosen.append(id if _id.fullmatch(str(id)) else _rename(cursor, row))
    return chosen


def _rename(cursor: Any, row: int) -> str:
    """Somebody has written an id that no claim could name: give the message a new one, and it runs like others."""
    new = uuid7().hex
    cursor.execute(sql.RENAME, {"id": new, "row": row})
    return new


def _lease(cursor: Any, worker: str, ids: list[str], leases: Mapping[str, float]) -> list[Message]:
    if not ids:
        return []
    values = {
        "ids": json.dumps(ids),
        "leases": json.dumps(leases),
        "worker": worker,
        "token": new_token(),
        "now": time.time(),
    }
    rows = {row[0]: row for row in _rows(cursor, sql.LEASE, values)}
    return [read_message(rows[id]) for id in ids]  # RETURNING promises no order


def _drop_expired(cursor: Any, channels: list[str]) -> list[Message]:
    values = {"channels": json.dumps(channels), "now": time.time()}
    dropped = [read_message(row) for row in _rows(cursor, sql.DROP_EXPIRED, values)]
    _advance_lanes(cursor, [(m.channel, m.lane) for m in dropped])
    return dropped


def _discard(cursor: Any, channel: str, ids: Iterable[UUID]) -> list[UUID]:
    gone = _rows(cursor, sql.DISCARD, {"channel": channel, "ids": _ids(ids)})
    return [UUID(id) for (id,) in gone]


def _advance_lanes(cursor: Any, gone: Iterable[Sequence[str | None]]) -> None:
    """After messages are gone from (channel, lane): the next of each lane may be claimed."""
    lanes = {(channel, lane) for channel, lane in gone if isinstance(lane, str)}  # a blob, by hand: no lane
    if lanes:
        cursor.execute(sql.ADVANCE_LANES, {"lanes": json.dumps(sorted(lanes))})


def _tokens(claims: Iterable[Message]) -> str:
    return json.dumps([(claim.id.hex, claim.token) for claim in claims])


def _ids(ids: Iterable[UUID]) -> str:
    return json.dumps([id.hex for id in ids])


def _not_in(held: Iterable[tuple[Any, ...]], claims: Sequence[Message]) -> list[Message]:
    """The claims that are not among these rows of (id, token, …): they were lost."""
    ours = {row[:2] for row in held}
    given = {(claim.id.hex, claim.token): claim for claim in claims}
    return [claim for name, claim in given.items() if name not in ours]


def _stats(counts: Sequence[Any], dead: int, paused: bool) -> ChannelStats:
    ready, scheduled, claimed, oldest = counts
    return ChannelStats(ready, scheduled, claimed, dead, oldest if ready else None, paused)


# -- SQLite's one write lock ------------------------------------------------------------------------------------


def _patiently(action: Any) -> Any:
    """Run a statement, again while the database is locked. Only for statements that are safe to repeat."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except OperationalError as error:
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
        # The connection's own busy timeout has waited already; this only guards against one of 0.
        time.sleep(random.uniform(0.001, 0.02))


def _is_locked(error: DatabaseError) -> bool:
    code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF  # the primary part of an extended code
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def _plain_words() -> Iterator[None]:
    """Say what a database error means for the layer, where that is known."""
    try:
        yield
    except OperationalError as error:
        if "no such table: mailrail_" in str(error):
            raise LayerUnavailable(f"{error}. Run: python manage.py migrate mailrail") from error
        raise
