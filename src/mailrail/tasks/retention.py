"""Remove the records of tasks that have been kept long enough. Workers do it once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from mailrail.write_transactions import write_transaction

from .followers import drop_held, follower_ids
from .models import FAILED, FINAL, BatchRecord, TaskRecord, TaskStep
from .overview import pages_of_ids

_BATCH = BatchRecord._base_manager.filter(pk=OuterRef("batch_id"))
IS_NEEDED = Exists(_BATCH.filter(finished_at=None)) | (Q(status=FAILED) & Exists(_BATCH))
"""Records of which a batch has to know: all of one that is open, and the failed as long as they can be retried."""
CHUNK_SIZE = 500
"""Records that one transaction deletes."""
MAX_SECONDS_PER_TURN = 10.0
"""Seconds for which a worker deletes at a time; it goes on a minute later."""


def prune(using: str, *, go_on: Callable[[], bool] = lambda: True) -> int:
    """Delete records whose time is over, a chunk in a transaction while ``go_on()``, and return how many.

    An index lists them by the end of their time. A chunk that another process deletes is passed by.
    """
    over = (
        TaskRecord.objects.using(using)
        .filter(~IS_NEEDED, kept_until__lt=timezone.now())
        .order_by("kept_until")
    )
    deleted = 0
    while go_on():
        in_chunk = _delete_first(over)
        deleted += in_chunk
        if in_chunk < CHUNK_SIZE:
            break
    _prune_batches(BatchRecord.objects.using(using).filter(kept_until__lt=timezone.now()), go_on)
    return deleted


def _prune_batches(over: QuerySet[BatchRecord], go_on: Callable[[], bool]) -> None:
    """Delete batches in chunks while ``go_on()``, with the followers that they hold back."""
    while go_on():
        with write_transaction(over.db):
            chunk = list(over.select_for_update(skip_locked=True)[:CHUNK_SIZE])
            drop_held([id for batch in chunk for id in follower_ids(batch)], over.db)
            BatchRecord.objects.using(over.db).filter(pk__in=[batch.pk for batch in chunk]).delete()
        if len(chunk) < CHUNK_SIZE:
            break


def _delete_first(over: QuerySet[TaskRecord]) -> int:
    """Delete the first of these records in one transaction, and return how many."""
    records, using = TaskRecord.objects.using(over.db), over.db
    with write_transaction(using):
        ids = list(over.select_for_update(skip_locked=True).values_list("pk", flat=True)[:CHUNK_SIZE])
        return _delete(records.filter(pk__in=ids)) if ids else 0


def _delete(records: QuerySet[TaskRecord]) -> int:
    """Delete records and their steps, and return how many records. ``delete()`` would read them whole before."""
    TaskStep.objects.using(records.db).filter(task__in=records.values("pk")).delete()
    return int(records._raw_delete(records.db))


def prune_ended(using: str, before: datetime) -> int:
    """Delete records, and batches, that ended before that moment, whatever their time. Returns how many records."""
    _prune_batches(BatchRecord.objects.using(using).filter(finished_at__lt=before), lambda: True)
    records, deleted = TaskRecord.objects.using(using), 0
    for page in pages_of_ids(using, status__in=FINAL, finished_at__lt=before):
        with write_transaction(using):
            deleted += _delete(records.filter(~IS_NEEDED, pk__in=page, status__in=FINAL))
    return deleted


def prune_for_a_while(using: str) -> int:
    """Delete records whose time is over, for ten seconds at most, and return how many."""
    until = time.monotonic() + MAX_SECONDS_PER_TURN
    return prune(using, go_on=lambda: time.monotonic() < until)
