"""Lanes: whatever removes messages lets the next of each lane go, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...messages import Message
from . import lanes_sql as sql
from .execution import MOST_TRIES
from .rows import by_name, lane_columns, lane_number, token_columns


def lock_lanes(cursor: Any, lanes: Iterable[tuple[str, str]]) -> None:
    for number in sorted(map(lane_number, lanes)):  # sorted: two senders cannot wait for each other
        cursor.execute(sql.LOCK_LANE, {"lane": number})


def finish_in_lanes(cursor: Any, claims: Sequence[Message]) -> list[Message]:
    cursor.execute(sql.FINISH_IN_LANES, token_columns(claims))
    return not_found(cursor, claims)


def not_found(cursor: Any, claims: Sequence[Message]) -> list[Message]:
    """After a statement that removed claims and returned (id, token, channel, lane) of each: those it did not find."""
    gone = cursor.fetchall()
    advance_lanes(cursor, {(channel, lane) for *_, channel, lane in gone if lane is not None})
    found = {(id, token) for id, token, *_ in gone}
    return [claim for name, claim in by_name(claims).items() if name not in found]


def lanes_of(messages: Iterable[Message]) -> set[tuple[str, str]]:
    return {(m.channel, m.lane) for m in messages if m.lane is not None}


def advance_lanes(cursor: Any, lanes: set[tuple[str, str]]) -> None:
    """After messages are gone from (channel, lane): the next of each lane may be claimed."""
    for _ in range(MOST_TRIES if lanes else 0):
        cursor.execute(sql.ADVANCE_LANES, lane_columns(lanes))
        (missed,) = cursor.fetchone()
        if not missed:
            return
