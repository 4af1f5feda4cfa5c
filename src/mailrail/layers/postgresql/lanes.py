"""Lanes: whatever removes messages lets the next of each lane go, in the same transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

from django.db import connections, transaction

from ...messages import Message
from ...prepared_statements import execute_prepared
from ..store import ClaimName
from .rows import lane_columns, lane_number, text_columns, token_columns
from .session import MOST_TRIES, PLANS_LAST_S, PostgresqlSession
from .statements import STATEMENTS

LanePosition: TypeAlias = Sequence[Any]
"""Channel, lane (``None``: in none) and number."""

LANES_AT_ONCE = 100
"""The server has memory for some thousand locks of all transactions (manual, ``max_locks_per_transaction``)."""

LOOK_AGAIN_S = 1.0
"""Seconds until a process looks again whether what it has passed over is locked still."""


class PassedOver:
    """Hold the lanes of a database where this process left a place free, as what is parked was locked.

    If the transaction that had locked it is rolled back, nobody else is told. So whoever claims looks again. What the
    process cannot do as it ends, the next maintenance does.
    """

    def __init__(self) -> None:
        self._lanes: frozenset[tuple[str, str]] = frozenset()
        self._look_at = 0.0  # time.monotonic()
        self._lock = threading.Lock()

    def note(self, lanes: Iterable[tuple[str, str]], passed: Iterable[tuple[str, str]]) -> None:
        """Take in in which of these lanes something was passed over."""
        if not passed and not self._lanes:
            return
        with self._lock:
            self._lanes = (self._lanes - frozenset(lanes)).union(passed)
            self._look_at = time.monotonic() + LOOK_AGAIN_S

    def due(self, channels: Collection[str]) -> list[tuple[str, str]]:
        """Return the lanes of these channels that are to be looked at now, as many as can be locked at once."""
        if not self._lanes or time.monotonic() < self._look_at:
            return []
        return [lane for lane in self._lanes if lane[0] in channels][:LANES_AT_ONCE]

    def seconds_left(self, channels: Collection[str]) -> float | None:
        """Return the seconds until there is a lane of these channels to look at, or ``None`` if there is none."""
        if not any(channel in channels for channel, _ in self._lanes):
            return None
        return max(0.0, self._look_at - time.monotonic())


@lru_cache
def passed_over(using: str) -> PassedOver:
    """Return what this process has passed over in a database."""
    return PassedOver()


def lock_lanes(cursor: Any, lanes: Iterable[tuple[str, str]]) -> None:
    for number in sorted(map(lane_number, lanes)):  # sorted: two senders cannot wait for each other
        cursor.execute(STATEMENTS["lock_lane"], {"lane": number})


def finish_in_lanes(cursor: Any, claims: Sequence[Message]) -> Sequence[ClaimName]:
    """Remove claims of lanes, or of none. Returns those that were lost."""
    cursor.execute(STATEMENTS["finish_in_lanes"], token_columns(claims))
    return not_found(cursor, claims)


def not_found(cursor: Any, claims: Sequence[Message]) -> Sequence[ClaimName]:
    """Return the claims that a statement did not find. It returned (id, token, channel, lane, lane_seq) of the others,
    which it has removed."""
    gone = cursor.fetchall()
    advance_lanes(cursor, (position for _, _, *position in gone))
    removed = {(id, token) for id, token, *_ in gone}
    return [name for claim in claims if (name := (claim.id, claim.token)) not in removed]


def lane_positions(messages: Iterable[Message]) -> Iterable[LanePosition]:
    return ((m.channel, m.lane, m.lane_seq) for m in messages)


def advance_lanes(cursor: Any, gone: Iterable[LanePosition], after_commit: bool = False) -> None:
    """After messages are gone from these positions: the next of each lane may be claimed.

    ``after_commit``: take no lock of a lane with several places now, as this transaction may be open for long.
    """
    positions = list(gone)
    columns = _lowest_positions(position for position in positions if position[2])
    if columns["lanes"] and _advance(cursor, columns) and cursor.db.in_atomic_block:
        # What its caller's transaction cannot see, it cannot let go.
        transaction.on_commit(
            partial(_look_again, cursor.db.alias, columns), using=cursor.db.alias, robust=True
        )
    # last, so that nobody who has the lock of such a lane waits for one who has locked a message
    give = give_places_after_commit if after_commit else give_places
    give(cursor, {(channel, lane) for channel, lane, seq in positions if lane is not None and seq == 0})


def give_places(cursor: Any, lanes: Collection[tuple[str, str]]) -> int:
    """Give the free places of lanes that have several to what waits there. Returns how many messages were moved.

    In a transaction with an old snapshot, which does not show what others have given, this is done after the commit.
    """
    moved = _give_places(cursor, lanes) if lanes else 0
    if moved is None:
        give_places_after_commit(cursor, lanes)
    return moved or 0


def give_places_after_commit(cursor: Any, lanes: Collection[tuple[str, str]]) -> None:
    """Give them in a transaction of its own. If that fails, the next maintenance does it."""
    if lanes:
        session = PostgresqlSession(cursor.db.alias)
        give = partial(session.write, partial(_give_places, lanes=[*lanes]))
        transaction.on_commit(give, using=cursor.db.alias, robust=True)


def _give_places(cursor: Any, lanes: Collection[tuple[str, str]]) -> int | None:
    """``None``: the snapshot is that of the transaction's beginning, so nothing was locked or moved."""
    numbers = sorted(lane_number(lane, lock="mailrail places") for lane in lanes)
    cursor.execute(STATEMENTS["lock_places"], {"lanes": numbers})
    if not cursor.fetchall():
        return None
    [(moved, passed)] = execute_prepared(cursor.db, STATEMENTS["places"], text_columns(lanes), PLANS_LAST_S)
    passed_over(cursor.db.alias).note(lanes, [(channel, lane) for channel, lane in passed or ()])
    return int(moved)


def _advance(cursor: Any, columns: dict[str, list[Any]]) -> bool:
    """Returns whether it was blind to what others have committed since the transaction began."""
    for _ in range(MOST_TRIES):
        cursor.execute(STATEMENTS["advance_lanes"], columns)
        missed, is_blind = cursor.fetchone()
        if not missed:
            break
    return bool(is_blind)


def _look_again(using: str, columns: dict[str, list[Any]]) -> None:
    with connections[using].cursor() as cursor:
        _advance(cursor, columns)


def _lowest_positions(gone: Iterable[LanePosition]) -> dict[str, list[Any]]:
    lowest: dict[tuple[str, str], int | None] = {}
    for channel, lane, seq in sorted(gone, key=lambda position: position[2] or 0, reverse=True):
        if lane is not None:
            lowest[channel, lane] = seq
    return lane_columns(lowest) | {"gone": [lowest[lane] for lane in sorted(lowest)]}
