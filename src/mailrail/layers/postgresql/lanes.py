"""Lanes: whatever removes messages lets the next of each lane go, in the same transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
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
    [(moved,)] = execute_prepared(cursor.db, STATEMENTS["places"], text_columns(lanes), PLANS_LAST_S)
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
