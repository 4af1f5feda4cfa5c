"""Show the workers, and what each of their slots does since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext, pgettext

from mailrail.monitoring.facts import SlotFacts, WorkerFacts
from mailrail.monitoring.sample import Sample

from .cells import State, cell, row
from .formats import duration, joined, memory, moment
from .queries import PageQuery
from .viewers import Viewer

MAX_SLOTS = 8
"""Slots of a worker that the page describes; those that have run longest come first."""
RECENT_S = 10.0
"""Seconds in which a worker that works sends a heartbeat or two: counting them would only move numbers."""


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any]:
    """Build the rows of all workers, those that are silent or of another release first."""
    rows = [_row(worker, sample) for sample in samples for worker in sample.workers]
    rows.sort(key=lambda row: (("bad", "warn", "ok", "").index(row["state"]), row["key"]))
    return {"rows": rows, "empty": gettext("No worker has been seen. Start one: manage.py runworker")}


def _row(worker: WorkerFacts, sample: Sample) -> dict[str, Any]:
    state: State = "bad" if worker.is_silent else "warn" if worker.is_other_release else ""
    cells = {
        "name": cell(worker.id),
        "host": cell(worker.host),
        "pid": cell("" if worker.pid is None else str(worker.pid)),
        "version": cell(worker.version),
        "release": cell(worker.release, "warn" if worker.is_other_release else ""),
        "seen": cell(_seen(worker), "bad" if worker.is_silent else "", n=worker.age),
        "memory": cell(memory(worker.memory), n=worker.memory),
        "slots": cell(_slots(worker, sample.at), title=_slot_list(worker.slots, sample.at)),
        "note": cell(_note(worker, sample.at), state),
    }
    return row(f"{sample.layer}/{worker.id}", state, cells)


def _seen(worker: WorkerFacts) -> str:
    if worker.age < RECENT_S:
        return pgettext("heartbeat", "just now")
    return gettext("%(duration)s ago") % {"duration": duration(worker.age)}


def _slots(worker: WorkerFacts, now: float) -> str:
    busy = gettext("%(busy)s of %(all)s busy") % {
        "busy": number_format(len(worker.slots)),
        "all": number_format(max(worker.threads, len(worker.slots))),
    }
    longest = sorted(worker.slots, key=lambda slot: slot.since)[:MAX_SLOTS]
    return joined(busy, *(_slot(slot, now) for slot in longest)) if longest else busy


def _slot(slot: SlotFacts, now: float) -> str:
    return gettext("%(channel)s for %(duration)s") % {
        "channel": slot.channel,
        "duration": duration(now - slot.since),
    }


def _slot_list(slots: Sequence[SlotFacts], now: float) -> str:
    return ", ".join(f"{slot.channel} {slot.message_id}" for slot in slots[:MAX_SLOTS])


def _note(worker: WorkerFacts, now: float) -> str:
    since = moment(worker.started_at, now)
    return joined(
        gettext("silent: killed, stopped or cut off") if worker.is_silent else "",
        gettext("another release than the others") if worker.is_other_release else "",
        gettext("stopping after its running messages") if worker.is_stopping else "",
        gettext("started %(since)s") % {"since": since} if since else "",
    )
