"""Lanes: whatever removes messages lets the next of each lane go, in the same transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from .session import rows_of
from .statements import STATEMENTS


def advance_lanes(cursor: Any, gone: Iterable[Sequence[Any]]) -> None:
    """After messages are gone from (channel, lane, number): the next of each lane may be claimed."""
    places = [place for place in gone if isinstance(place[1], str)]  # a blob, by hand: no lane
    if lanes := {(channel, lane) for channel, lane, number in places if number}:
        cursor.execute(STATEMENTS["advance_lanes"], {"lanes": json.dumps(sorted(lanes))})
    give_places(cursor, {(channel, lane) for channel, lane, number in places if number == 0})


def give_places(cursor: Any, lanes: Iterable[tuple[str, str]]) -> None:
    """Give the free places of lanes that have several to what waits there, and park the rest of it."""
    for channel, lane in lanes:
        bound = {"channel": channel, "lane": lane, "now": time.time()}
        [(free,)] = rows_of(cursor, STATEMENTS["free_places"], bound)
        if free is None:
            continue
        if free > 0:
            cursor.execute(STATEMENTS["give_places"], {**bound, "free": free})
        cursor.execute(STATEMENTS["park"], bound)
