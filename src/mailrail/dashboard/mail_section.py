"""Show the mailers: how mail flows through each, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.utils.formats import number_format
from django.utils.functional import Promise
from django.utils.translation import gettext, pgettext_lazy

from mailrail.monitoring.facts import Count, FlowFacts
from mailrail.monitoring.sample import Sample

from . import links
from .cells import State, cell, count_cell, rate_cell, row
from .channels_section import pause_text
from .formats import duration, joined, moment, number
from .queries import PageQuery
from .viewers import OPERATE, Viewer

REASONS: dict[str, Promise | str] = {
    "time": pgettext_lazy("reason to wait", "its time"),
    "retry": pgettext_lazy("reason to wait", "retry"),
    "rate": pgettext_lazy("reason to wait", "rate"),
    "pause": pgettext_lazy("reason to wait", "pause"),
    "outage": pgettext_lazy("reason to wait", "outage"),
    "connection": pgettext_lazy("reason to wait", "no connection free"),
    "worker": pgettext_lazy("reason to wait", "a worker"),
}


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any] | None:
    """Build the rows of all mailers; ``None`` without the mail queue."""
    if not apps.is_installed("mailrail.mail"):
        return None
    rows = [_row(flow, viewer, sample.at) for sample in samples for flow in sample.flows]
    rows.sort(key=lambda row: ("bad", "warn", "ok", "").index(row["state"]))
    empty = gettext("No mailer queues email. Name one in MAILERS, with mailrail.mail's backend.")
    return {"rows": rows, "empty": empty}


def _row(flow: FlowFacts, viewer: Viewer, now: float) -> dict[str, Any]:
    waiting = Count(
        sum(count.n for count in flow.waiting.values()), any(c.is_estimate for c in flow.waiting.values())
    )
    name = flow.mailer or "default"
    cells = {
        "name": cell(name, href=links.emails(viewer, flow.mailer)),
        "sent": rate_cell(flow.sent_per_minute),
        "waiting": count_cell(waiting, href=links.emails(viewer, flow.mailer, "queued")),
        "reasons": cell(joined(*(_reason(reason, count) for reason, count in flow.waiting.items()))),
        "failed": count_cell(flow.failed, "warn", href=links.emails(viewer, flow.mailer, "failed")),
        "oldest": cell(duration(flow.oldest_due), n=flow.oldest_due),
        "pace": cell(_pace(flow), n=flow.pace),
        "connections": cell(_connections(flow), n=flow.connections),
        "left": cell(duration(flow.seconds_left), n=flow.seconds_left),
        "note": cell(_note(flow, now), _state(flow), href=links.mailers(viewer)),
    }
    return row(name, _state(flow), cells, _actions(flow, waiting, viewer))


def _state(flow: FlowFacts) -> State:
    if flow.outage:
        return "bad"
    return "warn" if flow.pause else ""


def _reason(reason: str, count: Count) -> str:
    return f"{number(count)} {REASONS.get(reason, reason)}" if count.n else ""


def _pace(flow: FlowFacts) -> str:
    if flow.pace is None:  # only rates of recipient domains slow it
        return str(flow.pace_reason)
    text = gettext("%(count)s a second") % {"count": number_format(flow.pace, 1 if flow.pace < 10 else 0)}
    reason = flow.pace_reason
    return gettext("%(pace)s: %(reason)s") % {"pace": text, "reason": reason} if reason else text


def _connections(flow: FlowFacts) -> str:
    if flow.connections is None:
        return ""
    used = number_format(flow.connections)
    return used if flow.max_connections is None else f"{used} / {number_format(flow.max_connections)}"


def _note(flow: FlowFacts, now: float) -> str:
    out = since = stands_in = probe = ""
    if flow.outage:
        since = moment(flow.outage.since, now)
        out = gettext("out since %(since)s") % {"since": since} if since else gettext("out of order")
        out = gettext("%(out)s: %(reason)s") % {"out": out, "reason": flow.outage.reason}
    if flow.stands_in:
        stands_in = gettext("%(mailer)s stands in") % {"mailer": flow.stands_in}
    if flow.next_probe_at is not None:
        seconds = max(0.0, flow.next_probe_at - now)
        probe = gettext("next try in %(duration)s") % {"duration": duration(seconds)}
    return joined(pause_text(flow.pause, now) if flow.pause else "", out, stands_in, probe)


def _actions(flow: FlowFacts, waiting: Count, viewer: Viewer) -> list[str]:
    if not viewer.may(OPERATE):
        return []
    may_pause = viewer.may("mailrail_mail.pause_mailerstate")
    may_resend = viewer.may("mailrail_mail.resend_email")
    offered = (
        ("resume", (flow.pause or flow.outage) and may_pause),
        ("pause", not flow.pause and may_pause),
        ("requeue", flow.failed.n and may_resend),
        ("send_now", waiting.n and may_resend),
        ("cancel", waiting.n and viewer.may("mailrail_mail.cancel_email")),
    )
    return [action for action, is_offered in offered if is_offered]
