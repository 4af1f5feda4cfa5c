"""Gather what the command shows of entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from mailrail.moments import aware
from mailrail.redaction import without_hidden
from mailrail.terminal import counted

from .control import EntryStatus
from .definition import Definition
from .describing import describe
from .enqueuing import states_of
from .times import Cron, Every
from .zones import load_zone

NEXT_TICKS = 5
_CONTENTS = ("args", "kwargs", "content")


def last_states(entries: Sequence[EntryStatus]) -> dict[UUID | None, str]:
    """Return how the last runs of entries stand, by the ids of the runs."""
    return states_of([entry.row.last for entry in entries if entry.row.last is not None])


def summary(entry: EntryStatus, states: Mapping[UUID | None, str]) -> dict[str, Any]:
    """Return the facts about an entry, by name; moments are datetimes. ``states``: of ``last_states``."""
    row, last = entry.row, entry.row.last
    return {
        "name": entry.name,
        "source": row.source,
        "on": entry.is_on,
        "problem": entry.problem,
        "paused_at": row.paused_at,
        "paused_by": row.paused_by,
        "paused_reason": row.paused_reason,
        **(what(entry.definition) if entry.definition else {}),
        "next": entry.next_ticks(NEXT_TICKS),
        "last_run": last and {"tick": last.tick, "id": str(last.run_id), "state": states.get(last.run_id)},
        "missed_count": row.missed_count,
        "skipped_count": row.skipped_count,
    }


def what(definition: Definition) -> dict[str, Any]:
    """Return what an entry runs, and when, but for what nobody may see."""
    times = definition.times
    facts = {
        "task": definition.task,
        "args": [*definition.args],
        "kwargs": {**definition.kwargs},
        "channel": definition.channel,
        "content": {**definition.content},
        "cron": times.expression if isinstance(times, Cron) else None,
        "tz": times.zone if isinstance(times, Cron) else None,
        "seconds": times.seconds if isinstance(times, Every) else None,
        "missed": definition.missed,
        "overlap": definition.overlap,
        "jitter": definition.jitter,
    }
    return without_hidden(_CONTENTS, facts)


def lines(entry: EntryStatus, states: Mapping[UUID | None, str]) -> list[str]:
    """Return the facts about an entry as lines for people; next runs are in its zone and in that of the site."""
    row, definition = entry.row, entry.definition
    text = [f"{entry.name}: {_state(entry)}{', ' + in_words(definition) if definition else ''}"]
    zone = definition.times.zone if definition and isinstance(definition.times, Cron) else None
    zones = [zone, None] if zone not in (None, settings.TIME_ZONE) else [None]
    for moment in entry.next_ticks(NEXT_TICKS):
        by_clocks = " = ".join(in_zone(moment, each) for each in zones)
        text.append(f"  next run: {by_clocks}")
    if row.last is not None:
        text.append(f"  last run: {in_zone(aware(row.last.tick), None)}, {states.get(row.last.run_id)}")
    return [*text, f"  missed: {row.missed_count:,}, skipped: {row.skipped_count:,}"]


def _state(entry: EntryStatus) -> str:
    if entry.definition is None:
        return f"off. {entry.problem}"
    if entry.row.paused_at is None:
        return "on"
    by = f" by {entry.row.paused_by}" if entry.row.paused_by else ""
    reason = f" ({entry.row.paused_reason})" if entry.row.paused_reason else ""
    return f"paused since {in_zone(aware(entry.row.paused_at), None)}{by}{reason}"


def in_words(definition: Definition) -> str:
    """Return when an entry is due, and what it runs."""
    times, what_runs = definition.times, definition.task or f"the channel {definition.channel}"
    if not isinstance(times, Cron):
        return f"every {counted(int(times.seconds), 'second')}: {what_runs}"
    words = describe(times)
    told = f" ({words})" if words != times.expression else ""
    return f"{times.expression} in {times.zone or settings.TIME_ZONE}{told}: {what_runs}"


def in_zone(moment: datetime, zone: str | None) -> str:
    """Format a moment by the clocks of a zone (``None``: ``TIME_ZONE``), with the data that ticks are computed from."""
    name = settings.TIME_ZONE if zone is None else zone
    return f"{moment.astimezone(load_zone(zone)).isoformat(sep=' ', timespec='seconds')} {name}"
