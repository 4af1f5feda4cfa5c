"""Show long work with its progress: lists of invitations, tasks, batches, and what other apps register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext

from mailrail.monitoring.facts import WorkFacts
from mailrail.monitoring.sample import Sample

from . import links
from .cells import cell, count_cell, row
from .formats import moment, number
from .queries import PageQuery
from .viewers import SEE_ARGUMENTS, Viewer


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any]:
    """Build the rows of all long work that is not done."""
    rows = [_row(work, viewer, sample.at) for sample in samples for work in sample.work]
    return {"rows": rows, "empty": gettext("No long work is under way.")}


def _row(work: WorkFacts, viewer: Viewer, now: float) -> dict[str, Any]:
    progress = number(work.done)
    if work.total is not None:
        progress = gettext("%(done)s of %(total)s") % {"done": progress, "total": number(work.total)}
    is_told = bool(work.text) and viewer.may(SEE_ARGUMENTS)
    title = f"{work.title}: {work.text}" if is_told else work.title
    cells = {
        "title": cell(title, href=links.record(viewer, work.model, work.pk)),
        "kind": cell(work.kind),
        "progress": cell(progress, n=work.done.n),
        "failed": count_cell(work.failed, "warn"),
        "since": cell(moment(work.since, now)),
    }
    made = row(f"{work.model}/{work.pk}", "warn" if work.failed.n else "", cells)
    if work.total is not None:
        made["bar"] = {"done": work.done.n, "failed": work.failed.n, "total": work.total.n}
    return made
