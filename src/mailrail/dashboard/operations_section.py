"""Show what people have asked for on the live page: what, by whom, how far it is, and what it waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils.formats import number_format
from django.utils.translation import gettext

from mailrail.monitoring.facts import OperationFacts
from mailrail.monitoring.sample import Sample

from .cells import State, cell, row
from .operation_words import CHANNEL, outcome_of, title_of
from .queries import PageQuery
from .viewers import OPERATE, Viewer


def build(samples: Sequence[Sample], viewer: Viewer, query: PageQuery) -> dict[str, Any]:
    """Build the rows of the operations, the newest first."""
    return {
        "rows": [_row(operation, viewer) for sample in samples for operation in sample.operations],
        "empty": gettext("Nobody has asked for anything in the last half hour."),
    }


def _row(operation: OperationFacts, viewer: Viewer) -> dict[str, Any]:
    is_open = operation.ended_at is None
    cells = {
        "title": cell(title_of(operation), title=operation.reason),
        "by": cell(_by(operation)),
        "progress": cell(_progress(operation), n=operation.done),
        "state": cell(_state(operation), _severity(operation)),
    }
    made = row(operation.key, _severity(operation), cells)
    made["actions"] = ["cancel"] if is_open and viewer.may(OPERATE) else []
    if operation.total:
        most = max(operation.total, operation.done + operation.left)
        made["bar"] = {"done": operation.done, "failed": operation.left, "total": most}
    return made


def _by(operation: OperationFacts) -> str:
    if not operation.reason:
        return operation.by
    return gettext("%(by)s: %(reason)s") % {"by": operation.by, "reason": operation.reason}


def _progress(operation: OperationFacts) -> str:
    done = number_format(operation.done, force_grouping=True)
    if not operation.total or operation.ended_at is not None:
        return done
    total = number_format(operation.total, force_grouping=True)
    return gettext("%(done)s of %(total)s") % {"done": done, "total": total}


def _state(operation: OperationFacts) -> str:
    if operation.ended_at is not None:
        return outcome_of(operation)
    if operation.begun_at is not None:
        return gettext("It runs.")
    if operation.is_served:
        return gettext("A worker takes it in a moment.")
    text = gettext("It waits for a worker that serves %(channel)s. Start one: manage.py runworker")
    return text % {"channel": CHANNEL}


def _severity(operation: OperationFacts) -> State:
    if operation.error:
        return "bad"
    is_waiting = operation.begun_at is None and operation.ended_at is None and not operation.is_served
    return "warn" if operation.left or is_waiting else ""
