"""Show what went wrong last, grouped, with links to what is dead and to what waits for its next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext

from mailrail.monitoring.facts import Count, TroubleFacts
from mailrail.monitoring.sample import Sample

from . import links
from .cells import cell, count_cell, row
from .formats import joined, moment
from .queries import PageQuery
from .viewers import Viewer


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any]:
    """Build the rows of all troubles, the last one first."""
    pairs = [(trouble, sample) for sample in samples for trouble in sample.troubles]
    pairs.sort(key=lambda pair: -pair[0].last_at)
    rows = [_row(trouble, sample, viewer) for trouble, sample in pairs]
    return {"rows": rows, "empty": gettext("Nothing has gone wrong lately.")}


def _row(trouble: TroubleFacts, sample: Sample, viewer: Viewer) -> dict[str, Any]:
    waiting, dead = _links(trouble, sample.layer, viewer)
    cells = {
        "where": cell(trouble.where or "default", href=waiting),
        "what": cell(trouble.what, href=dead if trouble.buried else waiting),
        "count": count_cell(Count(trouble.count)),
        "last": cell(moment(trouble.last_at, sample.at)),
        "first": cell(moment(trouble.first_at, sample.at)),
        "note": cell(_note(trouble)),
    }
    key = f"{trouble.kind}:{sample.layer}/{trouble.where}:{trouble.what}"
    return row(key, "bad" if trouble.buried else "warn", cells)


def _links(trouble: TroubleFacts, layer: str, viewer: Viewer) -> tuple[str, str]:
    """Return the URLs of the list of what waits and of the list of what has failed for good."""
    if trouble.kind == "mailer":
        return links.emails(viewer, trouble.where, "deferred"), links.emails(viewer, trouble.where, "failed")
    dead = links.dead_messages(viewer, layer, trouble.where, trouble.what)
    return links.waiting_messages(viewer, layer, trouble.where), dead


def _note(trouble: TroubleFacts) -> str:
    tried_again = trouble.count - trouble.buried
    return joined(
        gettext("%(count)s failed for good") % {"count": number_format(trouble.buried)}
        if trouble.buried
        else "",
        gettext("%(count)s tried again") % {"count": number_format(tried_again)} if tried_again > 0 else "",
    )
