"""The PostgreSQL layer's verbs, in the order of a message: sent, claimed, settled.

Every verb is one statement where it can be; see ``statements`` for how they are written. Rows that another transaction
has locked are passed over, never waited for, so workers do not stand in each other's way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import DatabaseError, transaction

from ...errors import LayerUnavailable
from ...messages import Claimed, Message, Statement
from ...second_connection import outside_the_transaction
from ...tracebacks import error_class
from ..base import Lease, lease_for
from ..database import SHIFTED, read_message, storable
from ..lost_replies import UnconfirmedClaims
from ..notifications import NotifiedLayer
from .execution import MOST_TRIES, plain_words
from .lanes import advance_lanes, finish_in_lanes, lock_lanes, not_found, places_of
from .listener import Listener
from .operations import PostgresqlOperations
from .rows import (
    Answer,
    ClaimCall,
    columns_of,
    lane_columns,
    name_array,
    named,
    plain_array,
    read_answer,
    row_of,
    runs,
    token_columns,
)
from .scan_floor import ScanFloor
from .statements import STATEMENTS


class PostgresqlLayer(PostgresqlOperations, NotifiedLayer):
    """What ``DatabaseChannelLayer`` is on a PostgreSQL database."""

    may_poll_early = True

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._listener = Listener(self.using, self.wake, self._wake_up)
        self._scan_floor = ScanFloor()
        self._unconfirmed = UnconfirmedClaims()

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        rows = [row_of(message) for message in messages]
        if _is_plain(messages):
            self._patiently(lambda: self._execute(STATEMENTS["enqueue"], rows[0]))
            return [messages[0].id]
        return self._patiently(lambda: self._enqueue_all(rows))

    def _enqueue_with(self, record: Statement, messages: Sequence[Message]) -> list[UUID]:
        """Both statements in one query are one transaction, without a BEGIN and a COMMIT of their own (PostgreSQL
        manual, 55.2.2.1). The extended protocol, which binds values on the server, takes one at a time."""
        if not _is_plain(messages) or self._connection.features.uses_server_side_binding:
            return super()._enqueue_with(record, messages)
        statement, values = record
        both, row = f"{statement};{STATEMENTS['enqueue']}", row_of(messages[0])
        if shared := values.keys() & row.keys():
            raise ValueError(f"The record's values have names of a message's: {', '.join(sorted(shared))}.")
        with transaction.mark_for_rollback_on_error(self.using):
            self._patiently(lambda: self._execute(both, {**values, **row}))
        return [messages[0].id]

    def _enqueue_all(self, rows: Sequence[dict[str, Any]]) -> list[UUID]:
        with self._write() as cursor:
            lock_lanes(cursor, {(row["channel"], row["lane"]) for row in rows if row["lane"] is not None})
            stored: list[UUID] = []
            for together in runs(rows):
                if together[0]["key"] is not None:
                    stored += [_insert_with_key(cursor, row) for row in together]
                else:
                    cursor.execute(STATEMENTS["enqueue_many"], columns_of(together))
                    stored += [row["id"] for row in together]
            return stored

    def check_immediately(self) -> None:
        pass  # a connection of its own; see below

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        """On a second connection, unless the caller is in no transaction."""
        with outside_the_transaction(self.using, "Leave it out, or send before atomic()."):
            return self.enqueue(messages)

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
        call = ClaimCall(worker, limits, {c: lease_for(c, lease) for c in limits}, finished, total)
        call.expired.extend(self._unconfirmed.take_expired(worker))
        try:
            claimed = self._recovered(call) or self._claim_anew(call)
            claimed = claimed._replace(lost=self._really_lost(claimed.lost))
        except (DatabaseError, LayerUnavailable):  # whatever has this token by now will be recovered
            longest = max(lease_for(channel, lease) for channel in {*limits, *(m.channel for m in finished)})
            self._unconfirmed.note(worker, call.token, longest, finished, call.expired, limits)
            raise
        self._fruitless = 0 if claimed.claims else self._fruitless + 1
        return claimed

    def _claim_anew(self, call: ClaimCall) -> Claimed:
        if any(message.lane is not None for message in call.finished):
            return self._patiently(lambda: self._claim_in_lanes(call))
        claimed = self._choose(call, call.finished)
        return claimed._replace(lost=self._finish_in_lanes(claimed.lost))

    def _recovered(self, call: ClaimCall) -> Claimed | None:
        """They take the room that the call before had, so this one only settles."""
        recovered = self._recover_claims(call)
        return Claimed(recovered, self.finish(call.finished), call.expired) if recovered else None

    def _claim_in_lanes(self, call: ClaimCall) -> Claimed:
        """In one transaction: the next of a lane is let go here, and may be claimed by the same call."""
        told = list(call.expired)
        try:
            with self._write() as cursor:
                lost = finish_in_lanes(cursor, call.finished)
                return self._choose(call)._replace(lost=lost)
        except DatabaseError:
            call.expired[:] = told  # the others are there again
            raise

    def _choose(self, call: ClaimCall, finished: Sequence[Message] = ()) -> Claimed:
        """Settle and lease. Messages behind others of their lane are put out of the way before anything is leased."""
        answer = self._choose_once(call, finished, of_many=len(call.limits) > 1)
        lost, overdue = named(answer.lost, finished), answer.overdue
        if answer.passed_over:
            answer = self._choose_once(call)
        for _ in range(MOST_TRIES):
            if not answer.blocked:
                break
            parked = self._park(answer.blocked)
            answer = self._choose_once(call, despite=not parked)
            if not parked:
                break
        if overdue:
            call.expired.extend(self._drop_expired(overdue))
        return Claimed(answer.claims, lost, call.expired)

    def _choose_once(
        self,
        call: ClaimCall,
        finished: Sequence[Message] = (),
        *,
        despite: bool = False,
        of_many: bool = False,
    ) -> Answer:
        min_dues = self._scan_floor.min_dues(call.worker)
        values = {
            "channels": name_array(call.limits),
            "rooms": plain_array(map(str, call.limits.values())),
            "leases": plain_array(map(str, call.leases.values())),
            "total": call.total,
            "despite": despite,
            "worker": call.worker,
            "token": call.token,
            "besides": plain_array(message.id.hex for message in call.finished),
            **token_columns(finished),
        }
        if min_dues is None:
            statement = "claim_of_many" if of_many else "claim"
        else:
            statement = "claim_of_many_from_floor" if of_many else "claim_from_floor"
            values["known_channels"] = name_array(level.channel for level in min_dues)
            values["known_priorities"] = plain_array(str(level.priority) for level in min_dues)
            values["min_dues"] = plain_array(map(str, min_dues.values()))
        begun = time.monotonic()
        answer = read_answer(self._patiently(lambda: self._execute_prepared(STATEMENTS[statement], values)))
        full = bool(answer.claims) and len(answer.claims) >= min(call.total, sum(call.limits.values()))
        self._scan_floor.learn(call.worker, min_dues, answer.dues, time.monotonic() - begun, full)
        return answer

    def _recover_claims(self, call: ClaimCall) -> list[Message]:
        """Claims of ours whose answer was lost, found by their token, under a new one."""
        unconfirmed = self._unconfirmed.tokens(call.worker) if call.limits else []
        if not unconfirmed:
            return []
        values = {
            "channels": list(call.limits),
            "leases": list(call.leases.values()),
            "unconfirmed": unconfirmed,
            "token": call.token,
        }
        rows = self._execute(STATEMENTS["recover_claims"], values)
        self._unconfirmed.confirmed(call.worker, call.limits)
        return [read_message(row) for row in rows]

    def _really_lost(self, lost: list[Message]) -> list[Message]:
        """Without those that a call of ours has finished whose answer was lost."""
        ours = self._unconfirmed.may_have_finished(lost) if lost else []
        if not ours:
            return lost
        rows = self._execute(STATEMENTS["stored"], {"ids": [message.id for message in ours]})
        gone = {message.id for message in ours} - {id for (id,) in rows}
        return [message for message in lost if message.id not in gone]

    def _park(self, blocked: Sequence[tuple[str, str]]) -> bool:
        """Out of the way of claims with what waits behind another one of its lane. False: not now."""

        def park() -> bool:
            with plain_words(self.using), self._connection.cursor() as cursor:
                cursor.execute(STATEMENTS["park"], lane_columns(blocked))
                return bool(cursor.rowcount)

        return self._patiently(park)

    def _drop_expired(self, channels: list[str]) -> list[Message]:
        """In a transaction: the next of each lane is let go with it."""

        def drop() -> list[Message]:
            with self._write() as cursor:
                cursor.execute(STATEMENTS["drop_expired"], {"channels": channels})
                dropped = [read_message(row) for row in cursor.fetchall()]
                advance_lanes(cursor, places_of(dropped))
                return dropped

        return self._patiently(drop)

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        if not claims:
            return []
        leases = {claim.channel: lease_for(claim.channel, lease) for claim in claims}
        values = {**token_columns(claims), "channels": list(leases), "leases": list(leases.values())}
        rows = self._patiently(lambda: self._execute_prepared(STATEMENTS["renew"], values))
        return named(rows, claims)

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        if any(claim.lane is not None for claim in claims):
            return self._finish_in_lanes(claims)
        return self._finish_in_lanes(self._settle(claims, STATEMENTS["finish"]))

    def _finish_in_lanes(self, claims: Sequence[Message]) -> list[Message]:
        """In a transaction: the next of each lane is let go with it."""
        if not claims:
            return []

        def finish() -> list[Message]:
            with self._write() as cursor:
                return finish_in_lanes(cursor, claims)

        return self._patiently(finish)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        values = {"delay": delay, "attempts": 0, "alone": alone, "error": storable(error)}
        return self._settle([claim], STATEMENTS["give_back"], **values)

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        values = {"delay": delay, "attempts": -1, "alone": False, "error": None}
        return self._settle(claims, STATEMENTS["give_back"], **values)

    def _settle(self, claims: Sequence[Message], statement: str, **values: Any) -> list[Message]:
        if not claims:
            return []
        values |= token_columns(claims)
        return named(self._patiently(lambda: self._execute(statement, values)), claims)

    def bury(self, claim: Message, error: str) -> list[Message]:
        error = storable(error)
        values = {"error": error, "error_class": error_class(error), **token_columns([claim])}

        def bury() -> list[Message]:
            with self._write() as cursor:
                cursor.execute(STATEMENTS["bury"], values)
                return not_found(cursor, [claim])

        return self._patiently(bury)

    def poll(self, channels: Sequence[str]) -> float | None:
        if not channels:
            return None
        [(seconds,)] = self._execute_prepared(STATEMENTS["next_due"], {"channels": list(channels)})
        return None if seconds is None else max(0.0, seconds)

    # -- for tests ----------------------------------------------------------------------------------------------

    def shift(self, seconds: float) -> None:
        with self._write() as cursor:
            for table in SHIFTED:
                cursor.execute(STATEMENTS[f"shift_{table}"], {"seconds": seconds})
        self._scan_floor.forget()


def _is_plain(messages: Sequence[Message]) -> bool:
    """One, as ``ENQUEUE`` stores it."""
    return len(messages) == 1 and messages[0].key is None and messages[0].lane is None


def _insert_with_key(cursor: Any, row: dict[str, Any]) -> UUID:
    """The id of what waits under this key now: ours, or the twin's."""
    id: UUID = row["id"]
    for _ in range(MOST_TRIES):
        cursor.execute(STATEMENTS["enqueue_with_key"], row)
        if cursor.fetchone():
            return id
        cursor.execute(STATEMENTS["stored"], {"ids": [id]})
        if cursor.fetchone():  # a repeat of the id
            return id
        cursor.execute(STATEMENTS["join_twin"], row)
        if twin := cursor.fetchone():
            twin_id: UUID = twin[0]
            return twin_id
        # The twin was claimed between the statements.
    raise LayerUnavailable(f"Somebody claims {row['key']!r} as often as it is sent. Try again.")
