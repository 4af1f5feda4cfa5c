"""Show the channels, those that need somebody first, page by page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext, pgettext

from mailrail.monitoring.channels import by_need
from mailrail.monitoring.facts import ChannelFacts, Pause
from mailrail.monitoring.sample import Sample

from . import links
from .cells import State, cell, count_cell, rate_cell, row
from .formats import duration, joined, moment
from .queries import PageQuery
from .viewers import OPERATE, Viewer

PAGE_SIZE = 50
_STATES: Mapping[str, State] = {"bad": "bad", "warn": "warn", "ok": ""}


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any]:
    """Build one page of the channels whose layer and name contain the search."""
    by_layer = {sample.layer: sample for sample in samples}
    channels = [channel for sample in samples for channel in sample.channels if _is_meant(channel, query.q)]
    if len(samples) > 1:
        channels = list(by_need(channels, frozenset[str]().union(*(sample.late for sample in samples))))
    pages = max(1, -(-len(channels) // PAGE_SIZE))
    number = min(query.page, pages)
    listed = channels[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]
    rows = [_row(channel, by_layer[channel.layer], viewer) for channel in listed]
    empty = (
        gettext("No channel has “%(text)s” in its name.") % {"text": query.q}
        if query.q
        else gettext("There are no channels yet. A route, or the first message, makes one.")
    )
    counts = {"total": len(channels), "page": number, "pages": pages}
    return {"rows": rows, "empty": empty, "q": query.q, **counts}


def _is_meant(channel: ChannelFacts, text: str) -> bool:
    return not text or text.lower() in f"{channel.layer}/{channel.name}".lower()


def _row(channel: ChannelFacts, sample: Sample, viewer: Viewer) -> dict[str, Any]:
    state = _STATES[sample.severity(channel)]
    waiting = links.waiting_messages(viewer, channel.layer, channel.name)
    dead = links.dead_messages(viewer, channel.layer, channel.name)
    cells = {
        "name": cell(channel.name, href=waiting, title=f"{channel.layer}/{channel.name}"),
        "ready": count_cell(channel.ready),
        "scheduled": count_cell(channel.scheduled),
        "claimed": count_cell(channel.claimed),
        "dead": count_cell(channel.dead, "warn", href=dead),
        "oldest": cell(duration(channel.oldest_due), "bad" if state == "bad" else "", n=channel.oldest_due),
        "sent": rate_cell(channel.sent_per_minute),
        "done": rate_cell(channel.done_per_minute),
        "failed": rate_cell(channel.failed_per_minute, "warn"),
        "note": _note(channel, sample.at),
    }
    return row(f"{channel.layer}/{channel.name}", state, cells, _actions(channel, viewer))


def _note(channel: ChannelFacts, now: float) -> dict[str, Any]:
    unrouted = "" if channel.is_routed else gettext("no route: nobody here consumes it")
    paused = pause_text(channel.pause, now) if channel.pause else ""
    return cell(joined(paused, unrouted), "warn" if paused or unrouted else "")


def pause_text(pause: Pause, now: float) -> str:
    """Return since when, by whom and why something is paused, as far as that is known."""
    parts = {"since": moment(pause.since, now), "by": pause.by, "reason": pause.reason}
    text = pgettext("channel", "paused")
    if parts["since"]:
        text = gettext("paused since %(since)s") % parts
    if parts["by"]:
        text = gettext("%(paused)s by %(by)s") % {"paused": text, **parts}
    return gettext("%(paused)s: %(reason)s") % {"paused": text, **parts} if parts["reason"] else text


def _actions(channel: ChannelFacts, viewer: Viewer) -> list[str]:
    if not viewer.may(OPERATE):
        return []
    waits = channel.ready.n or channel.scheduled.n
    offered = (
        ("resume", channel.pause is not None),
        ("pause", channel.pause is None),
        ("requeue", channel.dead.n and viewer.may("mailrail.requeue_message")),
        ("discard", channel.dead.n and viewer.may("mailrail.discard_message")),
        ("cancel", waits and viewer.may("mailrail.cancel_message")),
    )
    return [action for action, is_offered in offered if is_offered]
