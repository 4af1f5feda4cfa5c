"""Claiming on PostgreSQL: one statement settles and leases; what stands in its way is the rare path.

Rows that another transaction has locked are passed over, never waited for, so workers do not stand in each other's way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ...messages import Message
from ..rows import read_message
from ..store import ClaimCall, Leased, set_waits
from .lanes import advance_lanes, finish_in_lanes, give_places, lane_positions, passed_over
from .rows import Answer, lane_columns, name_array, plain_array, read_answer, token_columns
from .scan_floor import ScanFloor
from .session import MOST_TRIES, PostgresqlSession
from .statements import STATEMENTS


class PostgresqlClaims:
    """Carry out calls of ``claim``."""

    def __init__(self, session: PostgresqlSession) -> None:
        self._session = session
        self.scan_floor = ScanFloor()

    def claim(self, call: ClaimCall) -> Leased:
        if lanes := passed_over(self._session.using).due(call.limits):
            self._session.write(lambda cursor: give_places(cursor, lanes))
        if any(message.lane is not None for message in call.finished):
            return self._claim_after_lanes(call)
        leased = self._choose(call, call.finished)
        if not leased.lost:
            return leased
        names = set(leased.lost)  # or of a lane
        rest = [claim for claim in call.finished if (claim.id, claim.token) in names]
        return leased._replace(lost=self._session.write(lambda cursor: finish_in_lanes(cursor, rest)))

    def _claim_after_lanes(self, call: ClaimCall) -> Leased:
        """Finish first, in a transaction of its own: the next of a lane is let go by it, and may be claimed then.

        Both take locks of lanes. Two workers that hold some and want more would wait for each other.
        """
        lost = self._session.write(lambda cursor: finish_in_lanes(cursor, call.finished))
        return self._choose(call)._replace(lost=lost)

    def _choose(self, call: ClaimCall, finished: Sequence[Message] = ()) -> Leased:
        """Settle and lease. Messages behind others of their lane are put out of the way before anything is leased."""
        is_partial = self.scan_floor.min_dues(call.worker) is not None
        answer = self._choose_once(call, finished, of_many=len(call.limits) > 1)
        lost, overdue = answer.lost, answer.overdue
        if answer.passed_over or (is_partial and not answer.claims):  # or nothing claimed would say nothing
            answer = self._choose_once(call)
        for tries_left in reversed(range(MOST_TRIES)):
            if not (answer.blocked or answer.unplaced):
                break
            despite = not self._park(answer) or not tries_left
            answer = self._choose_once(call, despite=despite)
            if despite:
                break
        if overdue:
            call.expired.extend(self._drop_expired(overdue))
        return Leased(answer.claims, lost)

    def _choose_once(
        self,
        call: ClaimCall,
        finished: Sequence[Message] = (),
        *,
        despite: bool = False,
        of_many: bool = False,
    ) -> Answer:
        min_dues = self.scan_floor.min_dues(call.worker)
        values = {
            "channels": name_array(call.limits),
            "rooms": plain_array(map(str, call.limits.values())),
            "leases": plain_array(str(call.leases[channel]) for channel in call.limits),
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
        answer = read_answer(self._session.execute_prepared(STATEMENTS[statement], values))
        leases = call.leases
        set_waits(
            answer.claims,
            [
                (claim.due or 0.0) - leases[claim.channel] - was_due
                for claim, (_, was_due) in zip(answer.claims, answer.dues, strict=True)
            ],
        )
        full = bool(answer.claims) and len(answer.claims) >= min(call.total, sum(call.limits.values()))
        self.scan_floor.learn(call.worker, min_dues, answer.dues, time.monotonic() - begun, full)
        return answer

    def _park(self, answer: Answer) -> bool:
        """Put out of the way of claims what waits behind others of its lane. False: not now."""

        def park(cursor: Any) -> bool:
            cursor.execute(STATEMENTS["park"], lane_columns(answer.blocked))
            return bool(cursor.rowcount)

        is_parked = bool(answer.blocked) and self._session.run(park)
        moved = 0
        if answer.unplaced:
            moved = self._session.write(lambda cursor: give_places(cursor, answer.unplaced))
        return is_parked or moved > 0

    def _drop_expired(self, channels: list[str]) -> list[Message]:
        """In a transaction: the next of each lane is let go with it."""

        def drop(cursor: Any) -> list[Message]:
            cursor.execute(STATEMENTS["drop_expired"], {"channels": channels})
            dropped = [read_message(row) for row in cursor.fetchall()]
            advance_lanes(cursor, lane_positions(dropped))
            return dropped

        return self._session.write(drop)

    def recover_claims(self, call: ClaimCall, tokens: Sequence[int]) -> list[Message]:
        values = {
            "channels": list(call.limits),
            "leases": [call.leases[channel] for channel in call.limits],
            "unconfirmed": list(tokens),
            "token": call.token,
        }
        return [read_message(row) for row in self._session.execute(STATEMENTS["recover_claims"], values)]
