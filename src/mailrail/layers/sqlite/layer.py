"""The SQLite layer's verbs, in the order of a message: sent, claimed, settled.

SQLite has one writer at a time. So every verb that writes is one short ``BEGIN IMMEDIATE`` transaction, or a savepoint
of the caller's, and nothing changes beside it. See ``statements`` for the statements.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from ...errors import WouldDeadlock
from ...messages import Claimed, Message, check_channel_name, encode, new_token, uuid7
from ...tracebacks import error_class
from ..base import Lease, lease_for
from ..database import SHIFTED, read_message, storable
from .execution import ids_of, patiently, plain_words, rows_of
from .file import FileWatch
from .lanes import advance_lanes
from .operations import SqliteOperations
from .statements import ENQUEUE, STATEMENTS


class SqliteLayer(SqliteOperations):
    """What ``DatabaseChannelLayer`` is on a SQLite database."""

    has_one_writer = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._file = FileWatch()

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        now = time.time()
        rows = [_row(message, now) for message in messages]
        if len(rows) == 1 and not _ordered(messages[0]):
            self._insert_one(_plain(rows[0]))
            return [messages[0].id]
        if not any(map(_ordered, messages)):
            with self._write() as cursor:
                cursor.executemany(ENQUEUE, map(_plain, rows))
            return [message.id for message in messages]
        with self._write() as cursor:
            return [
                _insert_in_order(cursor, row) or message.id
                for message, row in zip(messages, rows, strict=True)
            ]

    def _insert_one(self, row: tuple[Any, ...]) -> None:
        """A statement on its own is a transaction of its own, or part of the caller's."""
        with plain_words(self.using), self._connection.cursor() as cursor:
            if self._connection.in_atomic_block:
                cursor.execute(ENQUEUE, row)
            else:
                patiently(lambda: cursor.execute(ENQUEUE, row))

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
        if not self._read(STATEMENTS["any_expired"], channels=json.dumps(channels), now=time.time()):
            return []
        with self._write() as cursor:
            return _drop_expired(cursor, channels)

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        leases = {claim.channel: lease_for(claim.channel, lease) for claim in claims}
        return self._settle(claims, STATEMENTS["renew"], leases=json.dumps(leases))

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        if not claims:
            return []
        with self._write() as cursor:
            return self._finish(cursor, claims)

    def _finish(self, cursor: Any, claims: Sequence[Message]) -> list[Message]:
        if not claims:
            return []
        gone = rows_of(cursor, STATEMENTS["finish"], {"claims": _tokens(claims)})
        advance_lanes(cursor, [lane for _, _, *lane in gone])
        return _not_in(gone, claims)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._settle(
            [claim], STATEMENTS["give_back"], delay=delay, attempts=0, alone=alone, error=storable(error)
        )

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return self._settle(
            claims, STATEMENTS["give_back"], delay=delay, attempts=-1, alone=False, error=None
        )

    def _settle(self, claims: Sequence[Message], statement: str, **values: Any) -> list[Message]:
        if not claims:
            return []
        with self._write() as cursor:
            values.update(claims=_tokens(claims), now=time.time())
            held = rows_of(cursor, STATEMENTS["held"], values)
            cursor.execute(statement, values)
            return _not_in(held, claims)

    def bury(self, claim: Message, error: str) -> list[Message]:
        error = storable(error)
        with self._write() as cursor:
            values = {"claims": _tokens([claim]), "error": error, "error_class": error_class(error)}
            cursor.execute(STATEMENTS["bury"], {**values, "now": time.time()})
            return self._finish(cursor, [claim])

    def poll(self, channels: Sequence[str]) -> float | None:
        if not channels:
            return None
        [(due,)] = self._read(STATEMENTS["next_due"], channels=json.dumps(list(channels)))
        if not isinstance(due, int | float):  # none, or only what was edited by hand into something else
            return None
        return max(0.0, due - time.time())

    def _change(self) -> object:
        # The value differs after another connection's commit, in this process or elsewhere (SQLite manual, PRAGMA
        # data_version). It is asked for 50 times a second, so it bypasses Django's cursor, which costs ten times as
        # much.
        connection = self._connection
        connection.ensure_connection()
        self._file.check(connection)
        with connection.wrap_database_errors:
            return connection.connection.execute("PRAGMA data_version").fetchone()

    # -- for tests ----------------------------------------------------------------------------------------------

    def shift(self, seconds: float) -> None:
        with self._write() as cursor:
            for table in SHIFTED:
                cursor.execute(STATEMENTS[f"shift_{table}"], {"seconds": seconds})


# -- rows -------------------------------------------------------------------------------------------------------


_id = re.compile("[0-9a-f]{32}")


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
    stored = rows_of(cursor, STATEMENTS["enqueue_in_order"], row)
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
        "besides": ids_of(claim.id for claim in besides),
    }
    room = dict(limits)
    chosen: list[str] = []
    for id, channel, row in rows_of(cursor, STATEMENTS["claimable"], values):
        if len(chosen) == total:
            break
        if room[channel] > 0:
            room[channel] -= 1
            chosen.append(id if _id.fullmatch(str(id)) else _rename(cursor, row))
    return chosen


def _rename(cursor: Any, row: int) -> str:
    """Somebody has written an id that no claim could name: give the message a new one, and it runs like others."""
    new = uuid7().hex
    cursor.execute(STATEMENTS["rename"], {"id": new, "row": row})
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
    rows = {row[0]: row for row in rows_of(cursor, STATEMENTS["lease"], values)}
    return [read_message(rows[id]) for id in ids]  # RETURNING promises no order


def _drop_expired(cursor: Any, channels: list[str]) -> list[Message]:
    values = {"channels": json.dumps(channels), "now": time.time()}
    dropped = [read_message(row) for row in rows_of(cursor, STATEMENTS["drop_expired"], values)]
    advance_lanes(cursor, [(m.channel, m.lane) for m in dropped])
    return dropped


def _tokens(claims: Iterable[Message]) -> str:
    return json.dumps([(claim.id.hex, claim.token) for claim in claims])


def _not_in(held: Iterable[tuple[Any, ...]], claims: Sequence[Message]) -> list[Message]:
    """The claims that are not among these rows of (id, token, …): they were lost."""
    ours = {row[:2] for row in held}
    given = {(claim.id.hex, claim.token): claim for claim in claims}
    return [claim for name, claim in given.items() if name not in ours]
