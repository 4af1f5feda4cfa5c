"""Lanes: whatever removes messages lets the next of each lane go, in the same transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from .statements import STATEMENTS


def advance_lanes(cursor: Any, gone: Iterable[Sequence[str | None]]) -> None:
    """After messages are gone from (channel, lane): the next of each lane may be claimed."""
    lanes = {(channel, lane) for channel, lane in gone if isinstance(lane, str)}  # a blob, by hand: no lane
    if lanes:
        cursor.execute(STATEMENTS["advance_lanes"], {"lanes": json.dumps(sorted(lanes))})
