"""Remove the rows of ticks that are old enough. Workers do it, once an hour each."""

from __future__ import annotations

import time
from datetime import timedelta

from mailrail.moments import from_now

from .models import ScheduleEntry, ScheduleTick

KEPT_FOR = timedelta(days=7)
"""Ticks of this time are kept. A clock that steps back by less runs none of them again."""
CHUNK_SIZE = 500
"""Rows that one statement deletes."""
MAX_CHUNKS = 20
"""Statements of one turn, so that ticks are not late for it; the next turn goes on."""
PRUNE_EVERY_S = 3600.0

_prune_at = float("-inf")  # time.monotonic()


def prune_for_a_while(using: str) -> int:
    """Delete old ticks, if this process has not done so for an hour, and return how many."""
    global _prune_at
    if time.monotonic() < _prune_at:
        return 0
    _prune_at = time.monotonic() + PRUNE_EVERY_S
    return prune(using)


def prune(using: str) -> int:
    """Delete old ticks, but for the last run of each entry, and return how many."""
    ticks = ScheduleTick.objects.using(using)
    last = ScheduleEntry.objects.using(using).filter(last__isnull=False).values("last")
    old = ticks.filter(tick__lt=from_now(-KEPT_FOR.total_seconds())).exclude(pk__in=last).order_by("tick")
    deleted = 0
    for _ in range(MAX_CHUNKS):
        in_chunk = ticks.filter(pk__in=old.values("pk")[:CHUNK_SIZE]).delete()[0]
        deleted += in_chunk
        if in_chunk < CHUNK_SIZE:
            break
    return deleted
