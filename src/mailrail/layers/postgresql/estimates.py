"""Estimate numbers that take too long to count, by what the planner knows, in one statement for all channels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .session import PostgresqlSession
from .statements import STATEMENTS


def estimate_live(session: PostgresqlSession, live: Mapping[str, list[Any]], most: int) -> None:
    """Replace numbers above ``most`` of ready and scheduled messages, which were counted no further, in place.

    ``live``: ready, scheduled, claimed and more of each channel. Where one was counted, the other is the rest.
    """
    many = [channel for channel, (ready, scheduled, *_) in live.items() if ready > most or scheduled > most]
    totals = _rows_of("mailrail_message", session, many)
    share = _due_share(session) if any(min(live[channel][:2]) > most for channel in many) else 0.0
    for channel in many:
        ready, scheduled, claimed, *_ = live[channel]
        total = totals.get(channel, 0) - claimed
        if scheduled <= most:
            live[channel][0] = max(ready, total - scheduled)
        elif ready <= most:
            live[channel][1] = max(scheduled, total - ready)
        else:
            live[channel][:2] = max(ready, round(total * share)), max(scheduled, round(total * (1 - share)))


def estimate_dead(session: PostgresqlSession, dead: dict[str, int], most: int) -> None:
    """Replace numbers of dead messages above ``most``, likewise."""
    many = [channel for channel, number in dead.items() if number > most]
    for channel, number in _rows_of("mailrail_dead", session, many).items():
        dead[channel] = max(dead[channel], number)


def _rows_of(table: str, session: PostgresqlSession, channels: Sequence[str]) -> dict[str, int]:
    """Return how many rows of the table the channels have; of a table that was never analyzed, nothing."""
    if not channels:
        return {}
    return dict(session.execute(STATEMENTS["estimates"], {"table": table, "channels": channels}))


def _due_share(session: PostgresqlSession) -> float:
    return min(1.0, _planned(session, "estimate_due") / max(1, _planned(session, "estimate_all")))


def _planned(session: PostgresqlSession, name: str) -> int:
    [(plan,)] = session.execute(STATEMENTS[name], {})
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return int(plan[0]["Plan"]["Plan Rows"])
