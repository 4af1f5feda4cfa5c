"""Look at the records of tasks: in the order of enqueueing, from all databases that keep some."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from mailrail.redaction import without_hidden
from mailrail.tracebacks import first_line

from .models import TaskRecord, TaskStep
from .queues import used_databases

IDS_PER_PAGE = 500


def newest(limit: int, *either: Q, **conditions: Any) -> list[TaskRecord]:
    """Return the records that were enqueued last, the newest first. The others: as for ``filter``."""
    found = [
        records.filter(*either, **conditions).order_by("-pk").defer("args", "kwargs", "return_value")[:limit]
        for records in _databases()
    ]
    return list(merge(*found, key=lambda record: record.pk, reverse=True))[:limit]


def pages_of_ids(*databases: str, **conditions: Any) -> Iterator[list[UUID]]:
    """Yield the ids of the records in pages, the oldest first. Each is yielded once, whatever changes meanwhile.

    ``databases``: aliases of those to look into, by default all that keep records.
    """
    for records in _databases(*databases):
        ordered, last = records.filter(**conditions).order_by("pk").values_list("pk", flat=True), None
        while page := list((ordered if last is None else ordered.filter(pk__gt=last))[:IDS_PER_PAGE]):
            yield page
            last = page[-1]


def _databases(*aliases: str) -> list[QuerySet[TaskRecord]]:
    return [TaskRecord.objects.using(using) for using in aliases or used_databases()]


def last_error(record: TaskRecord) -> str:
    """Return the last error of a record in one line, or an empty text."""
    error = record.errors[-1] if isinstance(record.errors, list) and record.errors else {}
    return first_line(str(error.get("traceback", ""))) if isinstance(error, dict) else ""


def summary(record: TaskRecord) -> dict[str, Any]:
    """Return what a list says of a record."""
    return {
        "id": str(record.pk),
        "status": record.status,
        "held": bool(record.held),
        "task": record.task,
        "queue": record.queue,
        "attempts": len(record.worker_ids),
        "enqueued_at": record.enqueued_at,
        "run_after": record.run_after,
        "finished_at": record.finished_at,
        "cancelled_at": record.cancelled_at,
        "error": last_error(record),
    }


_DETAILS = (
    *("backend", "priority", "lane", "timeout", "options", "expires_at", "started_at", "last_attempted_at"),
    *("kept_until", "args", "kwargs", "return_value", "progress", "metadata", "worker_ids", "errors"),
)

_CONTENTS = ("options", "args", "kwargs", "return_value", "progress", "metadata")


def details(record: TaskRecord) -> dict[str, Any]:
    """Return all that a record says, with its steps, but for what nobody may see."""
    steps = [_step(step) for step in steps_of(record)]
    batches = {"batch": record.batch_id, "follows": record.follows_id}
    ids = {name: None if id is None else str(id) for name, id in batches.items()}
    facts = summary(record) | ids | {name: getattr(record, name) for name in _DETAILS}
    return without_hidden(_CONTENTS, facts) | {"steps": steps}


def steps_of(record: TaskRecord) -> QuerySet[TaskStep]:
    """Return the steps of a record, in the order in which they were first kept."""
    return TaskStep.objects.using(record._state.db).filter(task=record.pk).order_by("pk")


def _step(step: TaskStep) -> dict[str, Any]:
    names = ("name", "is_loop", "started_at", "finished_at", "value")
    return without_hidden(("value",), {name: getattr(step, name) for name in names})
