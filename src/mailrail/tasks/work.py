"""The long work of tasks, for people on call: those that run for some time or tell their progress, and open batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from typing import Any, cast
from uuid import UUID

from django.db.models import Q
from django.utils.translation import pgettext_lazy

from mailrail.moments import aware, from_now
from mailrail.monitoring import Count, WorkFacts, register_work
from mailrail.monitoring.facts import NONE
from mailrail.monitoring.tally import Tally
from mailrail.terminal import single_line

from . import overview
from .batch_ends import counts_of
from .models import FAILED, RUNNING, SUCCESSFUL, BatchRecord, TaskRecord
from .queues import used_databases

MAX_SHOWN = 50
"""Tasks, and batches, that are shown: the newest."""
LONG_S = 10.0
"""Seconds after which a running task is long work, also without progress."""


@register_work
def long_tasks() -> Iterator[WorkFacts]:
    """Yield the running tasks that tell their progress, or run for more than ``LONG_S``; the newest first."""
    is_long = Q(progress__isnull=False) | Q(last_attempted_at__lt=from_now(-LONG_S))
    return map(_task, overview.newest(MAX_SHOWN, is_long, status=RUNNING))


def _task(record: TaskRecord) -> WorkFacts:
    progress = record.progress if isinstance(record.progress, dict) else {}
    done, total = _whole_numbers(progress.get("done"), progress.get("total"))
    return WorkFacts(
        kind=cast(str, pgettext_lazy("tasks", "task")),
        title=single_line(record.task),
        text=single_line(str(progress.get("text") or "")),
        model=record._meta.label_lower,
        pk=str(record.pk),
        done=Count(done),
        total=None if total is None else Count(total),
        since=_timestamp(record.last_attempted_at),
    )


def _whole_numbers(done: Any, total: Any) -> tuple[int, int | None]:
    """Return how much is done, of how much; as per cent where the task counts in fractions."""
    if not isinstance(done, int | float):
        return 0, None
    if not isinstance(total, int | float) or total <= 0:
        return int(done), None
    if done == int(done) and total == int(total):
        return int(done), int(total)
    return round(100 * done / total), 100


@register_work
def open_batches() -> Iterator[WorkFacts]:
    """Yield the batches that have not ended, the newest first."""
    found = [
        BatchRecord.objects.using(using).filter(finished_at=None).order_by("-pk")[:MAX_SHOWN]
        for using in used_databases()
    ]
    records = list(merge(*found, key=lambda record: record.pk, reverse=True))[:MAX_SHOWN]
    counts = _members.values([(record.pk, str(record._state.db)) for record in records])
    return (_batch(record, counts.get((record.pk, str(record._state.db)))) for record in records)


_members: Tally[tuple[UUID, str], Counter[str]] = Tally(lambda batch: counts_of(*batch))
"""The members of open batches, by status. A batch may have very many."""


def _batch(record: BatchRecord, counts: Counter[str] | None) -> WorkFacts:
    done, failed, total = NONE, NONE, None
    if counts is not None:
        done, failed = Count(counts[SUCCESSFUL] + record.forgotten), Count(counts[FAILED])
        total = Count(counts.total() + record.forgotten)
    return WorkFacts(
        kind=cast(str, pgettext_lazy("tasks", "batch")),
        title=str(record),
        model=record._meta.label_lower,
        pk=str(record.pk),
        done=done,
        failed=failed,
        total=total,
        since=_timestamp(record.created_at),
    )


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else aware(moment).timestamp()
