"""The store on PostgreSQL, in the order of a message: sent, claimed, settled.

Whatever can be is one statement; see ``statements`` for how they are written. Claiming is in ``claims``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connections, transaction

from ...errors import LayerUnavailable
from ...messages import Content, Granted, Message, MessageSummary, Rate, Statement, encode
from ...pauses import Pause
from ...second_connection import is_in_transaction
from ..buckets import refill
from ..deferred_sends import with_record
from ..rows import TABLES_WITH_TIMES, read_dead, read_message, read_summary
from ..store import (
    ERROR_LENGTH,
    PREVIEW_LENGTH,
    WINDOW,
    WORKER_FORGOTTEN_AFTER,
    ClaimCall,
    ClaimName,
    Counts,
    DatabaseStore,
    Leased,
    Listing,
    Move,
    Settlement,
)
from ..waiting import NotifiedWaiting
from .claims import PostgresqlClaims
from .estimates import estimate_dead, estimate_live
from .history import PostgresqlHistory
from .lanes import (
    LANES_AT_ONCE,
    advance_lanes,
    finish_in_lanes,
    give_places,
    lock_lanes,
    not_found,
    passed_over,
)
from .listener import Listener
from .rows import columns_of, enqueued, runs, token_columns
from .session import MOST_TRIES, PostgresqlSession
from .statements import STATEMENTS


class PostgresqlStore(DatabaseStore):
    """Keep messages in the PostgreSQL database ``using``."""

    may_poll_early = True

    def __init__(self, using: str) -> None:
        self._session = PostgresqlSession(using)
        self._claims = PostgresqlClaims(self._session)
        self.history = PostgresqlHistory(self._session)
        self.waiting = NotifiedWaiting(lambda waiting: Listener(using, waiting.wake, waiting.look_again))

    # -- sending ------------------------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        is_plain = len(messages) == 1 and messages[0].key is None and messages[0].lane is None
        if record is not None:
            return self._insert_with(record, messages, is_plain)
        rows = [enqueued(message) for message in messages]
        if is_plain:
            self._session.execute(STATEMENTS["enqueue"], rows[0])
            return [messages[0].id]
        return self._session.write(lambda cursor: [*_insert_all(cursor, rows)])

    def _insert_with(self, record: Statement, messages: Sequence[Message], is_plain: bool) -> list[UUID]:
        """Both statements in one query are one transaction, without a BEGIN and a COMMIT of their own (PostgreSQL
        manual, 55.2.2.1). The extended protocol, which binds values on the server, takes one at a time."""
        using = self._session.using
        features: Any = connections[using].features
        statement, values = record
        row = enqueued(messages[0]) if is_plain and not features.uses_server_side_binding else None
        if row is None or values.keys() & row.keys():
            with with_record(using, record):
                return self.insert(messages)
        both = f"{statement}\n;{STATEMENTS['enqueue']}"  # the line end also ends a comment of the first
        with transaction.mark_for_rollback_on_error(using):
            self._session.execute(both, {**values, **row})
        return [messages[0].id]

    # -- claiming -----------------------------------------------------------------------------------------------

    def claim(self, call: ClaimCall) -> Leased:
        return self._claims.claim(call)

    def recover_claims(self, call: ClaimCall, tokens: Sequence[int]) -> list[Message]:
        return self._claims.recover_claims(call, tokens)

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        if settlement == "bury":
            return self._session.write(lambda cursor: _bury(cursor, claims, values))
        if settlement == "finish":
            return self._finish(claims)
        if settlement == "renew":
            leases = values["leases"]
            values = {"channels": list(leases), "leases": list(leases.values())}
            return self._session.execute_prepared(STATEMENTS["renew"], {**token_columns(claims), **values})
        return self._reschedule(claims, values)

    def _reschedule(self, claims: Sequence[Message], values: Mapping[str, Any]) -> Sequence[ClaimName]:
        """Where a claim has one of several places, the next of its lane gets it in the same transaction."""
        values = {**token_columns(claims), **values}
        if any(claim.lane_seq == 0 for claim in claims):
            return self._session.write(lambda cursor: _reschedule_with_places(cursor, values))
        rows = self._session.execute(STATEMENTS["reschedule"], values)
        lanes = {(channel, lane) for id, _, channel, lane in rows if id is None}
        if lanes and values.get("places") is None:  # of claims that do not say so: their tokens alone decide
            self._session.write(partial(give_places, lanes=lanes))
        return [(id, token) for id, token, *_ in rows if id is not None]

    def _finish(self, claims: Sequence[Message]) -> Sequence[ClaimName]:
        """What the statement does not find may be of a lane: in a transaction, the next of it is let go."""
        rest = claims
        if all(claim.lane is None for claim in claims):
            names = set(self._session.execute(STATEMENTS["finish"], token_columns(claims)))
            rest = [claim for claim in claims if (claim.id, claim.token) in names]
        return self._session.write(lambda cursor: finish_in_lanes(cursor, rest)) if rest else []

    def next_due(self, channels: Sequence[str]) -> float | None:
        """Sooner than the truth where a claim is to look again at what was locked."""
        [(seconds,)] = self._session.execute_prepared(STATEMENTS["next_due"], {"channels": list(channels)})
        moments = (seconds, passed_over(self._session.using).seconds_left(channels))
        return min((float(moment) for moment in moments if moment is not None), default=None)

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        def take(cursor: Any) -> Granted:
            cursor.execute(STATEMENTS["new_bucket"], {"name": bucket, "tokens": float(rate.count)})
            cursor.execute(STATEMENTS["bucket"], {"name": bucket})
            held, elapsed = cursor.fetchone()
            tokens, granted, retry_after = refill(held, elapsed, n, rate)
            cursor.execute(STATEMENTS["fill_bucket"], {"name": bucket, "tokens": tokens})
            return Granted(granted, retry_after)

        return self._session.write(take)

    # -- what people ask for ------------------------------------------------------------------------------------

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        values = {"channel": channel, "ids": list(ids)}
        is_callers = is_in_transaction(self._session.using)

        def move_them(cursor: Any) -> list[UUID]:
            if move == "cancel":
                cursor.execute(STATEMENTS["cancel"], values)
                gone = cursor.fetchall()
                advance_lanes(cursor, (position for _, *position in gone), after_commit=is_callers)
                return [id for id, *_ in gone]
            if move == "requeue":
                _requeue(cursor, channel, values)
            cursor.execute(STATEMENTS["discard"], values)
            return [id for (id,) in cursor.fetchall()]

        return self._session.write(move_them)

    def pause(self, channel: str, pause: Pause | None) -> None:
        def change(cursor: Any) -> None:
            if pause is not None:
                who_and_why = {"paused_by": pause.by, "reason": pause.reason}
                cursor.execute(STATEMENTS["pause"], {"channel": channel, **who_and_why})
            else:
                cursor.execute(STATEMENTS["resume"], {"channel": channel})
                cursor.execute(STATEMENTS["notify"], {"channel": channel})

        self._session.write(change)

    def page(self, listing: Listing) -> list[MessageSummary]:
        is_dead = listing.state == "dead"
        at, id = listing.cursor
        values = {"channels": listing.channels, "limit": listing.limit, "error_class": listing.error_class}
        values |= {"preview": PREVIEW_LENGTH, "error_length": ERROR_LENGTH}
        if is_dead:
            statement = "list_dead" if listing.error_class is None else "list_dead_of_class"
            values |= {"before_at": at, "before_id": id}
        else:
            statement = "list_waiting" if listing.state is None else f"list_waiting_{listing.state}"
            window = WINDOW // max(1, len(listing.channels)) if listing.state == "claimed" else 0
            values |= {"after_at": at, "after_id": id, "most": max(listing.limit, window)}
        return [read_summary(row, is_dead) for row in self._session.execute(STATEMENTS[statement], values)]

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        statement = STATEMENTS["get_dead" if is_dead else "get"]
        rows = self._session.execute(statement, {"channel": channel, "ids": list(ids)})
        return map(read_dead if is_dead else read_message, rows)

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        rows = self._session.execute(STATEMENTS["existing_ids"], {"channel": channel, "ids": list(ids)})
        return {id for (id,) in rows}

    def channels(self) -> Iterable[str]:
        return [name for (name,) in self._session.execute(STATEMENTS["list_channels"], {})]

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        rows = self._session.execute(STATEMENTS["error_classes"], {"channels": channels})
        return [error_class for (error_class,) in rows]

    def count(self, most: int) -> Counts:
        execute = self._session.execute
        paused = {channel: Pause(*pause) for channel, *pause in execute(STATEMENTS["paused"], {})}
        if not most:
            return Counts({}, {}, paused)
        dead = dict(execute(STATEMENTS["dead_counts"], {"most": most}))
        live = {channel: counts for channel, *counts in execute(STATEMENTS["stats"], {"most": most})}
        estimate_live(self._session, live, most)
        estimate_dead(self._session, dead, most)
        return Counts(live, dead, paused)

    def beat(self, worker: str, info: Content | None) -> None:
        gone = worker if info is None else ""
        self._session.execute(
            STATEMENTS["deregister_worker"], {"id": gone, "forgotten": WORKER_FORGOTTEN_AFTER}
        )
        if info is not None:
            self._session.execute(STATEMENTS["heartbeat"], {"id": worker, "details": encode(info, "info")})

    def maintain(self) -> None:
        """Give away the places that are free while messages of their lanes are parked. Whoever gave them back passed
        over messages that another transaction had locked, or ended before this."""
        behind = {"channel": "", "lane": ""}
        while rows := self._session.execute(STATEMENTS["parked_lanes"], behind):
            lanes = [(channel, lane) for channel, lane, has_room in rows if has_room]
            for begin in range(0, len(lanes), LANES_AT_ONCE):
                self._session.write(partial(give_places, lanes=lanes[begin : begin + LANES_AT_ONCE]))
            channel, lane, _ = rows[-1]
            behind = {"channel": channel, "lane": lane}

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        return self._session.execute(STATEMENTS["workers"], {"forgotten": WORKER_FORGOTTEN_AFTER})

    def advance_time(self, seconds: float) -> None:
        def age(cursor: Any) -> None:
            for table in TABLES_WITH_TIMES:
                cursor.execute(STATEMENTS[f"age_{table}"], {"seconds": seconds})

        self._session.write(age)
        self._claims.scan_floor.forget()

    def atomic(self) -> AbstractContextManager[None]:
        return transaction.atomic(self._session.using)


def _insert_all(cursor: Any, rows: Sequence[dict[str, Any]]) -> Iterator[UUID]:
    in_order = (row for row in rows if row["lane"] is not None and row["places"] is None)
    lock_lanes(cursor, {(row["channel"], row["lane"]) for row in in_order})
    for together in runs(rows):
        if together[0]["key"] is not None:
            yield from (_insert_with_key(cursor, row) for row in together)
        else:
            cursor.execute(STATEMENTS["enqueue_many"], columns_of(together))
            yield from (row["id"] for row in together)


def _insert_with_key(cursor: Any, row: dict[str, Any]) -> UUID:
    """Return the id of what waits under this key now: ours, or the one that it is a duplicate of."""
    id: UUID = row["id"]
    for _ in range(MOST_TRIES):
        cursor.execute(STATEMENTS["enqueue_with_key"], row)
        if cursor.fetchone():
            return id
        cursor.execute(STATEMENTS["stored"], {"ids": [id]})
        if cursor.fetchone():  # a repeat of the id
            return id
        cursor.execute(STATEMENTS["merge_duplicate"], row)
        if waiting := cursor.fetchone():
            waiting_id: UUID = waiting[0]
            return waiting_id
        # It was claimed between the statements.
    raise LayerUnavailable(f"Somebody claims {row['key']!r} as often as it is sent. Try again.")


def _reschedule_with_places(cursor: Any, values: Mapping[str, Any]) -> Sequence[ClaimName]:
    cursor.execute(STATEMENTS["reschedule"], values)
    rows = cursor.fetchall()
    give_places(cursor, {(channel, lane) for id, _, channel, lane in rows if id is None})
    return [(id, token) for id, token, *_ in rows if id is not None]


def _bury(cursor: Any, claims: Sequence[Message], values: Mapping[str, Any]) -> Sequence[ClaimName]:
    cursor.execute(STATEMENTS["bury"], {**token_columns(claims), **values})
    return not_found(cursor, claims)


def _requeue(cursor: Any, channel: str, values: Mapping[str, Any]) -> None:
    cursor.execute(STATEMENTS["lanes_of_dead"], values)
    lock_lanes(cursor, {(channel, lane) for (lane,) in cursor.fetchall()})
    cursor.execute(STATEMENTS["requeue"], values)
