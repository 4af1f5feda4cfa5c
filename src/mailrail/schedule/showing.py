"""Show entries to people: in the admin, when they are due in words and in both zones, and how their runs stand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.translation import ngettext, pgettext

from mailrail.keyset_admin import breakable, short_time
from mailrail.record_links import link_of
from mailrail.redaction import redacted, redacted_arguments

from . import registry
from .choices import CODE
from .control import EntryStatus, entry_of
from .definition import Definition
from .describing import describe
from .enqueuing import RUN_STATES, database, states_of
from .entries import create_rows
from .models import ScheduleEntry, ScheduleTick
from .times import Cron, Every
from .zones import load_zone, zone_data

SHOWN_RUNS = 5
"""Runs to come that the page of an entry shows."""
SHOWN_TICKS = 10
"""Ticks of the past that it shows."""


class NextRuns(NamedTuple):
    """Hold the next runs: the names of the zones, and for each run the zones with its time in each."""

    zones: list[str]
    rows: list[list[tuple[str, str]]]


class PastTick(NamedTuple):
    """Hold a tick of the past, how its run stands, and the page of its task; without a run, neither."""

    tick: ScheduleTick
    state: str | None
    url: str | None


def create_missing_rows() -> None:
    """Store rows for the entries of code that no worker has seen, so that the list has them."""
    declared = registry.definitions()
    rows = ScheduleEntry.objects.using(database()).filter(name__in=declared)
    known = set(rows.values_list("name", flat=True))
    create_rows([each for name, each in declared.items() if name not in known], datetime.now(UTC))


def fill(rows: Sequence[Any]) -> None:
    """Give rows their ``entry``, and ``run_state`` of the last run. Rows of code get what code declares."""
    declared = registry.definitions()
    states = states_of([row.last for row in rows if row.last is not None])
    for row in rows:
        row.entry = entry_of(row, declared)
        row.run_state = states.get(row.last.run_id) if row.last else None
        if row.name in declared:
            _fill_in(row, declared[row.name])


def _fill_in(row: Any, definition: Definition) -> None:
    """Write a definition into a row that is shown, and never saved."""
    row.source = CODE
    for name in ("task", "args", "kwargs", "channel", "content", "missed", "overlap", "jitter"):
        setattr(row, name, getattr(definition, name))
    times = definition.times
    row.cron, row.zone, row.seconds = "", "", None
    if isinstance(times, Cron):
        row.cron, row.zone = times.expression, times.zone or ""
    elif isinstance(times, Every):
        row.seconds = int(times.seconds)


def hide(row: Any) -> None:
    """Write into a row that is shown, and never saved, what nobody may see of its arguments and its content."""
    row.args = redacted_arguments(row.task, row.args)
    row.kwargs, row.content = redacted(row.kwargs), redacted(row.content)


def state_in_words(entry: EntryStatus) -> str:
    """Return whether an entry is on."""
    if entry.row.paused_at is not None:
        state, text = "paused", pgettext("entry of the schedule", "paused")
    elif entry.definition is None:
        state, text = "failed", pgettext("entry of the schedule", "cannot run")
    else:
        state, text = "on", pgettext("entry of the schedule", "on")
    return format_html('<span class="mailrail-status" data-status="{}">{}</span>', state, text)


def times_in_words(entry: EntryStatus) -> str:
    """Return when an entry is due, in words where they can be had; empty for one that cannot run."""
    match entry.definition and entry.definition.times:
        case Every(seconds=seconds):
            return _every(int(seconds))
        case Cron() as cron:
            words, zone = describe(cron), breakable(cron.zone or "")
            shown = "" if words == cron.expression else words
            return format_html("{} <code>{}</code> {}", shown, cron.expression, zone)
    return ""


def _every(seconds: int) -> str:
    if seconds % 86400 == 0:
        number, text = seconds // 86400, ngettext("every day", "every %(number)d days", seconds // 86400)
    elif seconds % 3600 == 0:
        number, text = seconds // 3600, ngettext("every hour", "every %(number)d hours", seconds // 3600)
    elif seconds % 60 == 0:
        number, text = seconds // 60, ngettext("every minute", "every %(number)d minutes", seconds // 60)
    else:
        number, text = seconds, ngettext("every second", "every %(number)d seconds", seconds)
    return text % {"number": number}


def state_of_run(state: str | None) -> str | None:
    """Return how a run stands, in words; ``None`` for no run."""
    if state is None:
        return None
    return format_html('<span class="mailrail-status" data-status="{}">{}</span>', state, RUN_STATES[state])


def next_runs(entry: EntryStatus) -> NextRuns:
    """Return the next runs of an entry by the clocks of its zone, and by those of the site if they are others."""
    zones = [load_zone()]
    times = entry.definition and entry.definition.times
    if isinstance(times, Cron) and times.zone not in (None, zones[0].key):
        zones.insert(0, load_zone(times.zone))
    ticks = entry.next_ticks(SHOWN_RUNS) if entry.definition else []
    rows = [[(zone.key, in_zone(tick, zone)) for zone in zones] for tick in ticks]
    return NextRuns([zone.key for zone in zones], rows)


def in_zone(moment: datetime, zone: tzinfo) -> str:
    """Return a moment by the clocks of a zone, with its offset, as an hour may come twice."""
    offset = moment.astimezone(zone).isoformat()[-6:]
    return format_html("{} {}", short_time(moment, zone), offset)


def past_ticks(name: str, request: HttpRequest, site: AdminSite) -> list[PastTick]:
    """Return the newest ticks of an entry, with what this user may see of their runs."""
    ticks = list(ScheduleTick.objects.using(database()).filter(name=name).order_by("-tick")[:SHOWN_TICKS])
    states = states_of(ticks)
    return [
        PastTick(tick, state_of_run(states.get(tick.run_id)), _page_of(tick, request, site)) for tick in ticks
    ]


def _page_of(tick: ScheduleTick, request: HttpRequest, site: AdminSite) -> str | None:
    link = link_of(tick.channel, {"id": tick.run_id}, request, site) if tick.task else None
    return link and link[1]


def used_zone_data() -> str:
    """Return which time zone data is used."""
    return next((str(data) for data in zone_data()), "")
