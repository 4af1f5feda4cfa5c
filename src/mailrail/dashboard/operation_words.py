"""Say in words what an operation is about, and how it stands; and observe the operations for the page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import router
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext

from mailrail.layers import get_layer
from mailrail.moments import aware
from mailrail.monitoring.facts import OperationFacts
from mailrail.terminal import single_line, without_addresses

from .models import Operation
from .wording import ACTIONS

CHANNEL = "mailrail.operations"
MAX_SHOWN = 20
SHOWN_FOR = timedelta(minutes=30)
"""How long an operation that has ended is shown."""


def recent_operations() -> Iterator[OperationFacts]:
    """Yield the operations that are open, and those that have ended lately, the newest first."""
    rows = Operation.objects.using(router.db_for_read(Operation)).defer("doing")
    recent = Q(ended_at=None) | Q(ended_at__gt=timezone.now() - SHOWN_FOR)
    shown = list(rows.filter(recent).order_by("-pk")[:MAX_SHOWN])
    is_waiting = any(operation.begun_at is None and operation.ended_at is None for operation in shown)
    is_served = not is_waiting or _is_served()
    for operation in shown:
        yield facts_of(operation, is_served)


def _is_served() -> bool:
    """Tell whether a worker runs that takes operations."""
    return any(CHANNEL in worker.info.get("channels", ()) for worker in get_layer().workers())


def facts_of(operation: Operation, is_served: bool = True) -> OperationFacts:
    """Return what the page shows of an operation."""
    return OperationFacts(
        str(operation.pk),
        operation.action,
        tuple(operation.units),
        operation.filters,
        operation.by,
        operation.reason,
        operation.total,
        operation.done,
        operation.left,
        _timestamp(operation.begun_at),
        _timestamp(operation.ended_at),
        operation.is_cancelled,
        operation.error,
        is_served,
    )


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else aware(moment).timestamp()


def title_of(operation: Operation | OperationFacts) -> str:
    """Return what an operation does to what, such as ``Requeue: default/send-invite (ValueError)``."""
    names = [_name_of(unit) for unit in operation.units]
    more = len(names) - 3
    shown = ", ".join([*names[:3], *([gettext("%(count)d more") % {"count": more}] if more > 0 else [])])
    filters = ", ".join(str(value) for value in operation.filters.values() if value)
    text = f"{_label_of(operation.action)}: {shown}"
    return single_line(f"{text} ({filters})" if filters else text)


def _name_of(unit: Any) -> str:
    if isinstance(unit, str):
        return unit or "default"
    name = f"{unit[0]}/{unit[1]}"
    return f"{name} ({', '.join(unit[2][:3])}{', …' if len(unit[2]) > 3 else ''})" if len(unit) > 2 else name


def _label_of(action: str) -> str:
    return next((str(wording.label) for wording in ACTIONS if wording.name == action), action)


def outcome_of(operation: Operation | OperationFacts) -> str:
    """Return how an operation stands, or has ended."""
    counts = {"done": operation.done, "left": operation.left}
    if operation.error:
        error = single_line(without_addresses(operation.error))
        return gettext("Failed after %(done)d: %(error)s") % {**counts, "error": error}
    if operation.is_cancelled:
        return gettext("Cancelled after %(done)d.") % counts
    if operation.left:
        return gettext("%(done)d done, %(left)d left as they were.") % counts
    return gettext("All done: %(done)d.") % counts
