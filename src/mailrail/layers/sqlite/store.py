"""The store on SQLite, in the order of a message: sent, claimed, settled.

SQLite has one writer at a time. So whatever writes is one short ``BEGIN IMMEDIATE`` transaction, or a savepoint of the
caller's, and nothing changes beside it. See ``statements`` for the statements.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from ...messages import Content, Granted, Message, MessageSummary, Rate, Statement, encode, row_of, uuid7
from ...pauses import Pause
from ..buckets import refill
from ..deferred_sends import with_record
from ..rows import TABLES_WITH_TIMES, read_dead, read_message, read_summary
from ..store import (
    ERROR_LENGTH,
    PREVIEW_LENGTH,
    WORKER_FORGOTTEN_AFTER,
    ClaimCall,
    ClaimName,
    Counts,
    DatabaseStore,
    Leased,
    Listing,
    Move,
    Settlement,
    set_waits,
)
from ..waiting import PolledWaiting
from .history import SqliteHistory
from .session import SqliteSession, rows_of
from .statements import ENQUEUE, STATEMENTS

MOST_ROUNDS = 10
"""How often one claim puts messages out of the way, 1,000 of each lane: others wait for the write lock meanwhile."""
_id = re.compile("[0-9a-f]{32}")


class SqliteStore(DatabaseStore):
    """Keep messages in the SQLite database ``using``."""

    has_one_writer = True

    def __init__(self, using: str) -> None:
        self._session = SqliteSession(using)
        self.waiting = PolledWaiting(self._change)
        self.history = SqliteHistory(self._session)

    # -- sending ------------------------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        if record is not None:
            with with_record(self._session.using, record):
                return self.insert(messages)
        now = time.time()
        rows = [
            row_of(
                m,
                id=m.id.hex,
                due=now + m.delay if m.due is None else m.due,
                expires=m.expires if m.lifetime is None else now + m.lifetime,
                sent_at=now,
                lane=m.lane,
                places=m.places,
                key=m.key,
                unique_key=m.key,
            )
            for m in messages
        ]
        if all(m.key is None and m.lane is None for m in messages):
            self._session.run(ENQUEUE, [[*row.values()][:13] for row in rows])
            return [m.id for m in messages]
        with self._session.write() as cursor:
            stored = [rows_of(cursor, STATEMENTS["enqueue_in_order"], row) for row in rows]
        return [UUID(row[0][0]) if row else m.id for row, m in zip(stored, messages, strict=True)]

    # -- claiming -----------------------------------------------------------------------------------------------

    def claim(self, call: ClaimCall) -> Leased:
        channels = json.dumps([*call.limits])
        if not call.finished and ((due := self.next_due([*call.limits])) is None or due > 0.0):
            if self._session.read(STATEMENTS["any_expired"], channels=channels, now=time.time()):
                # Only now: an idle worker must not take the write lock.
                with self._session.write() as cursor:
                    _drop_expired(cursor, channels, call)
            return Leased([], [])
        with self._session.write() as cursor:
            lost = _finish(cursor, call.finished) if call.finished else []
            if not call.limits:
                return Leased([], lost)
            _drop_expired(cursor, channels, call)
            return Leased(_lease(cursor, _choose(cursor, channels, call), call), lost)

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        with self._session.write() as cursor:
            if settlement == "finish":
                return _finish(cursor, claims)
            tokens = json.dumps([(claim.id.hex, claim.token) for claim in claims])
            bound = {**values, "claims": tokens, "now": time.time()}
            if settlement == "bury":
                cursor.execute(STATEMENTS["bury"], bound)
                return _finish(cursor, claims)
            if settlement == "renew":
                bound["leases"] = json.dumps(values["leases"])
            held = rows_of(cursor, STATEMENTS["held"], bound)
            cursor.execute(STATEMENTS[settlement], bound)
            if settlement == "reschedule":
                _give_places(cursor, {(channel, lane) for _, _, channel, lane, number in held if number == 0})
            return _lost(claims, held)

    def next_due(self, channels: Sequence[str]) -> float | None:
        [(due,)] = self._session.read(STATEMENTS["next_due"], channels=json.dumps(channels))
        if not isinstance(due, int | float):  # none, or only what was edited by hand into something else
            return None
        return due - time.time()

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._session.write() as cursor:
            now = time.time()
            [(held, filled_at)] = rows_of(cursor, STATEMENTS["bucket"], {"name": bucket}) or [
                (rate.count, now)
            ]
            tokens, granted, retry_after = refill(held, now - filled_at, n, rate)
            cursor.execute(STATEMENTS["fill_bucket"], {"name": bucket, "tokens": tokens, "now": now})
            return Granted(granted, retry_after)

    # -- what people ask for ------------------------------------------------------------------------------------

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        bound = {"channel": channel, "ids": _hex(ids)}
        with self._session.write() as cursor:
            if move == "cancel":
                gone = rows_of(cursor, STATEMENTS["cancel"], bound)
                _advance_lanes(cursor, [place for _, *place in gone])
                return [UUID(id) for id, *_ in gone]
            for id in ids if move == "requeue" else ():  # one by one: those of a lane keep the order given
                cursor.execute(STATEMENTS["requeue"], {"channel": channel, "id": id.hex, "now": time.time()})
            return [UUID(id) for (id,) in rows_of(cursor, STATEMENTS["discard"], bound)]

    def pause(self, channel: str, pause: Pause | None) -> None:
        with self._session.write() as cursor:
            if pause is None:
                cursor.execute(STATEMENTS["resume"], {"channel": channel})
            else:
                who_and_why = {"paused_by": pause.by, "reason": pause.reason}
                cursor.execute(STATEMENTS["pause"], {"channel": channel, "now": time.time(), **who_and_why})

    def page(self, listing: Listing) -> list[MessageSummary]:
        is_dead = listing.state == "dead"
        end = "before" if is_dead else "after"
        if is_dead:
            statement = "list_dead" if listing.error_class is None else "list_dead_of_class"
        else:
            statement = "list_waiting" if listing.state is None else f"list_waiting_{listing.state}"
        values = {
            "channels": json.dumps(listing.channels),
            "limit": listing.limit,
            f"{end}_at": listing.cursor[0],
            f"{end}_id": listing.cursor[1].hex,
            "error_class": listing.error_class,
            "now": time.time(),
            "preview": PREVIEW_LENGTH,
            "error_length": ERROR_LENGTH,
        }
        rows = self._session.read(STATEMENTS[statement], **values)
        return [read_summary(row, is_dead) for row in rows]

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        bound = {"channel": channel, "ids": _hex(ids)}
        rows = self._session.read(STATEMENTS["get_dead" if is_dead else "get"], **bound)
        return map(read_dead if is_dead else read_message, rows)

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        bound = {"channel": channel, "ids": _hex(ids)}
        return {UUID(id) for (id,) in self._session.read(STATEMENTS["existing_ids"], **bound)}

    def channels(self) -> Iterable[str]:
        return [name for (name,) in self._session.read(STATEMENTS["list_channels"])]

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        rows = self._session.read(STATEMENTS["error_classes"], channels=json.dumps(channels))
        return [error_class for (error_class,) in rows]

    def count(self, most: int) -> Counts:
        read = self._session.read
        paused = {name: Pause(*pause) for name, *pause in read(STATEMENTS["paused"])}
        if not most:
            return Counts({}, {}, paused)
        live = {channel: counts for channel, *counts in read(STATEMENTS["stats"], now=time.time())}
        return Counts(live, dict(read(STATEMENTS["dead_counts"])), paused)

    def beat(self, worker: str, info: Content | None) -> None:
        now, gone = time.time(), worker if info is None else ""
        self._session.connect()
        with self._session.write() as cursor:
            cursor.execute(
                STATEMENTS["deregister_worker"], {"id": gone, "forgotten": now - WORKER_FORGOTTEN_AFTER}
            )
            if info is not None:
                bound = {"id": worker, "details": encode(info, "info"), "now": now}
                cursor.execute(STATEMENTS["heartbeat"], bound)

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        now = time.time()
        return self._session.read(STATEMENTS["workers"], now=now, forgotten=now - WORKER_FORGOTTEN_AFTER)

    def advance_time(self, seconds: float) -> None:
        with self._session.write() as cursor:
            for table in TABLES_WITH_TIMES:
                cursor.execute(STATEMENTS[f"age_{table}"], {"seconds": seconds})

    def atomic(self) -> AbstractContextManager[None]:
        return self._session.atomic()

    def transaction_aborter(self) -> Callable[[], None]:
        return self._session.transaction_aborter()

    def _change(self) -> object:
        # The value differs after another connection's commit, in this process or elsewhere (SQLite manual, PRAGMA
        # data_version). It is asked for 50 times a second, so it bypasses Django's cursor, which costs ten times as
        # much.
        connection = self._session.connect()
        with connection.wrap_database_errors:
            return connection.connection.execute("PRAGMA data_version").fetchone()


# -- rows -------------------------------------------------------------------------------------------------------


def _choose(cursor: Any, channels: str, call: ClaimCall) -> dict[str, float]:
    """Return the ids to claim, best first, and for how many seconds each has been due."""
    values = {
        "channels": channels,
        "now": time.time(),
        "most": min(max(call.limits.values()), call.total),
        "besides": json.dumps([claim.id.hex for claim in call.finished]),
    }
    for _ in range(MOST_ROUNDS):
        rows = rows_of(cursor, STATEMENTS["claimable"], values)
        lanes = {(channel, lane) for _, channel, _, lane, _ in rows if lane is not None}
        if not lanes:
            break
        _give_places(cursor, lanes)  # what waits for one in its lane gets one, or is put out of the way
    room, chosen = dict(call.limits), dict[str, float]()
    for id, channel, row, unplaced, waited in rows:
        if len(chosen) == call.total:
            break
        if room[channel] > 0 and unplaced is None:
            room[channel] -= 1
            chosen[id if _id.fullmatch(str(id)) else _rename(cursor, row)] = waited
    return chosen


def _rename(cursor: Any, row: int) -> str:
    """Somebody has written an id that no claim could name: give the message a new one, and it runs like others."""
    new = uuid7().hex
    cursor.execute(STATEMENTS["rename"], {"id": new, "row": row})
    return new


def _lease(cursor: Any, chosen: Mapping[str, float], call: ClaimCall) -> list[Message]:
    if not chosen:
        return []
    values = {
        "ids": json.dumps([*chosen]),
        "leases": json.dumps(call.leases),
        "worker": call.worker,
        "token": call.token,
        "now": time.time(),
    }
    rows = {row[0]: row for row in rows_of(cursor, STATEMENTS["lease"], values)}
    claims = [read_message(rows[id]) for id in chosen]  # RETURNING promises no order
    set_waits(claims, chosen.values())
    return claims


def _drop_expired(cursor: Any, channels: str, call: ClaimCall) -> None:
    rows = rows_of(cursor, STATEMENTS["drop_expired"], {"channels": channels, "now": time.time()})
    if rows:
        dropped = [read_message(row) for row in rows]
        _advance_lanes(cursor, [(m.channel, m.lane, m.lane_seq) for m in dropped])
        call.expired += dropped


def _finish(cursor: Any, claims: Sequence[Message]) -> Sequence[ClaimName]:
    """Remove claims. Returns those that were lost."""
    tokens = json.dumps([(claim.id.hex, claim.token) for claim in claims])
    gone = rows_of(cursor, STATEMENTS["finish"], {"claims": tokens})
    if places := [place for _, _, *place in gone if place[1] is not None]:
        _advance_lanes(cursor, places)
    return [] if len(gone) == len(claims) else _lost(claims, gone)


def _advance_lanes(cursor: Any, gone: Iterable[Sequence[Any]]) -> None:
    """After messages are gone from (channel, lane, number): the next of each lane may be claimed."""
    places = [place for place in gone if isinstance(place[1], str)]  # a blob, by hand: no lane
    if lanes := {(channel, lane) for channel, lane, number in places if number}:
        cursor.execute(STATEMENTS["advance_lanes"], {"lanes": json.dumps(sorted(lanes))})
    _give_places(cursor, {(channel, lane) for channel, lane, number in places if number == 0})


def _give_places(cursor: Any, lanes: Iterable[tuple[str, str]]) -> None:
    """Give the free places of lanes that have several to what waits there, and park the rest of it."""
    for channel, lane in lanes:
        bound = {"channel": channel, "lane": lane, "now": time.time()}
        [(free,)] = rows_of(cursor, STATEMENTS["free_places"], bound)
        if free is None:
            continue
        if free > 0:
            cursor.execute(STATEMENTS["give_places"], {**bound, "free": free})
        cursor.execute(STATEMENTS["park"], bound)


def _lost(claims: Sequence[Message], held: Iterable[Sequence[Any]]) -> Sequence[ClaimName]:
    """Return the claims that are not among these rows of (id, token, …)."""
    ours = {(row[0], row[1]) for row in held}
    return [(c.id, c.token) for c in claims if (c.id.hex, c.token) not in ours]


def _hex(ids: Sequence[UUID]) -> str:
    return json.dumps([id.hex for id in ids])
