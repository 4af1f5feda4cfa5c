"""Make batches of tasks, look at them, and change them: ``with batch(then=report) as b: ...``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.models import Model, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from mailrail.monitoring import FailedItem, WorkProgress
from mailrail.options import related_object
from mailrail.second_connection import is_in_transaction
from mailrail.write_transactions import reading_committed, write_transaction

from . import batch_ends, control
from .batch_membership import filling, kept_open
from .compat import InvalidTask
from .definition import FollowUp
from .followers import backend_with_records, new_followers, store_rows
from .models import FAILED, READY, RUNNING, STATUSES, SUCCESSFUL, UNFINISHED, BatchRecord, TaskRecord
from .overview import last_error
from .queues import used_databases
from .results import ChannelResult, result_of

RESULTS_PER_QUERY = 500
FAILURES_SHOWN = 100
"""Failed tasks that a progress names; it says how many more there are."""


@dataclass(frozen=True)
class BatchProgress:
    """Count the tasks of a batch by their status."""

    total: int
    ready: int
    running: int
    successful: int
    failed: int

    @property
    def done(self) -> int:
        """Return how many have ended."""
        return self.successful + self.failed


@dataclass(frozen=True)
class Batch:
    """A batch of tasks. ``using``: the alias of the database that keeps its record, and those of the tasks."""

    id: UUID
    using: str

    @classmethod
    def get(cls, id: UUID | str) -> Batch:
        """Return the batch with this id. Raises ``BatchRecord.DoesNotExist``, and ``ValueError`` for no UUID."""
        try:
            wanted = id if isinstance(id, UUID) else UUID(id)
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"Batch.get() needs the id of a batch, which is a UUID, not {id!r}.") from None
        for using in used_databases():
            if BatchRecord.objects.using(using).filter(pk=wanted).exists():
                return cls(wanted, using)
        raise BatchRecord.DoesNotExist(f"There is no batch {id}.")

    @property
    def record(self) -> BatchRecord:
        """Return its record as it is now. Reads the database, as the other properties do."""
        return self._rows.get()

    @property
    def progress(self) -> BatchProgress:
        """Return how many of its tasks have which status; of a batch that has ended, as it was then."""
        record = self.record
        if record.finished_at is not None:
            total, failed = record.total or 0, record.failed or 0
            return BatchProgress(total, 0, 0, total - failed, failed)
        counts, forgotten = batch_ends.counts_of(self.id, self.using), record.forgotten
        return BatchProgress(
            total=counts.total() + forgotten,
            ready=counts[READY],
            running=counts[RUNNING],
            successful=counts[SUCCESSFUL] + forgotten,
            failed=counts[FAILED],
        )

    async def aprogress(self) -> BatchProgress:
        """Return from a coroutine what ``progress`` is."""
        return await sync_to_async(lambda: self.progress)()

    def mailrail_progress(self) -> WorkProgress:
        """Return how far it is, for ``{% mailrail_progress batch %}``, with the first failed tasks by name."""
        record, counts = self.record, self.progress
        failures = (
            [FailedItem(task.task, last_error(task)) for task in self._failed()] if counts.failed else []
        )
        return WorkProgress(
            counts.successful,
            counts.total,
            counts.failed,
            failures,
            is_over=record.finished_at is not None,
        )

    def _failed(self) -> QuerySet[TaskRecord]:
        members = TaskRecord._base_manager.using(self.using).filter(batch_id=self.id, status=FAILED)
        return members.only("task", "errors").order_by("pk")[:FAILURES_SHOWN]

    def results(self) -> Iterator[ChannelResult]:
        """Yield the results of its tasks, in the order of enqueueing, as far as they are kept."""
        records = TaskRecord._base_manager.using(self.using)
        ids = sorted(self._ids(*(status for status, _ in STATUSES)))
        for begin in range(0, len(ids), RESULTS_PER_QUERY):
            page = records.filter(pk__in=ids[begin : begin + RESULTS_PER_QUERY]).order_by("pk")
            yield from map(result_of, page)

    @contextmanager
    def add(self) -> Iterator[Batch]:
        """Let what the block enqueues join the batch, all of it or nothing.

        The block is a transaction, within that of the caller. Raises ``InvalidTask`` if the batch has ended, or is
        cancelled, and for what ``batch`` refuses.
        """
        try:
            with reading_committed(self.using), write_transaction(self.using):
                if not self._keep_open():
                    raise InvalidTask(
                        f"Batch {self.id} takes no more tasks: it has ended, or somebody has cancelled it. Add tasks "
                        "in a task of the batch, or make another one."
                    )
                with filling(self.id, self.using):
                    yield self
        except Exception:
            if not is_in_transaction(self.using):  # the last member may have ended meanwhile
                batch_ends.look_after([self.id], self.using)
            raise
        batch_ends.look_after([self.id], self.using)

    def _keep_open(self) -> bool:
        """Keep the batch from ending, and being cancelled, until the end of the transaction. Tells whether it is open.

        On PostgreSQL, others may add at the same time. SQLite has one writer, which is this transaction.
        """
        if connections[self.using].vendor != "postgresql":
            return self._rows.filter(cancelled_at=None, finished_at=None).exists()
        with connections[self.using].cursor() as cursor:
            cursor.execute(_SHARE, [self.id])
            return bool(cursor.fetchone() == (True,))

    def cancel(self) -> int:
        """Cancel its tasks that have not ended, as ``mailrail.tasks.cancel`` does, and return how many these are.

        ``then`` is not enqueued any more, and nobody can add tasks.
        """
        is_open = self._rows.filter(finished_at=None)
        if not is_open.update(cancelled_at=Coalesce("cancelled_at", Value(timezone.now()))):
            return 0
        with kept_open(self.id):
            changed = control.cancel_all(self._ids(*UNFINISHED))
        batch_ends.look_after([self.id], self.using)
        return len(changed.done)

    async def acancel(self) -> int:
        """Cancel from a coroutine, as ``cancel`` does."""
        return await sync_to_async(self.cancel)()

    def retry_failed(self) -> int:
        """Run its failed tasks again, with all their attempts, and return how many these are.

        If the batch has ended, that opens it again: ``then`` is enqueued once all of its tasks are successful.
        """
        with reading_committed(self.using), write_transaction(self.using):
            record = self._rows.select_for_update(no_key=True).get()
            with kept_open(self.id):
                changed = control.retry_all(self._ids(FAILED))
            if changed.done:
                batch_ends.open_again(record, self.using)
        return len(changed.done)

    async def aretry_failed(self) -> int:
        """Retry from a coroutine, as ``retry_failed`` does."""
        return await sync_to_async(self.retry_failed)()

    @property
    def _rows(self) -> QuerySet[BatchRecord]:
        return BatchRecord._base_manager.using(self.using).filter(pk=self.id)

    def _ids(self, *statuses: str) -> list[UUID]:
        """Return the ids of the tasks with these statuses. Without a LIMIT, planners take the index of members."""
        members = TaskRecord._base_manager.using(self.using).filter(batch_id=self.id, status__in=statuses)
        return list(members.values_list("pk", flat=True))


_SHARE = """
SELECT finished_at IS NULL AND cancelled_at IS NULL FROM mailrail_tasks_batchrecord WHERE id = %s FOR SHARE
"""


@contextmanager
def batch(
    *,
    then: FollowUp | None = None,
    on_failure: FollowUp | None = None,
    on_finish: FollowUp | None = None,
    about: Model | str | None = None,
    backend: str = "default",
) -> Iterator[Batch]:
    """Make a batch of the tasks that the block enqueues on its thread, all of them or none.

    ``then``: enqueued once, when all have succeeded. ``on_failure``: once, when the first has failed for good.
    ``on_finish``: once, when all have ended. Each is a task, ``(task, args)`` or ``(task, args, kwargs)``. ``about``:
    the object that the batch is about, or words. ``backend``: the alias in ``TASKS`` whose database keeps the batch.

    The block is a transaction, within that of the caller. A batch that stays empty ends with the block: ``then`` and
    ``on_finish`` are enqueued at once. Raises ``InvalidTask`` for tasks that keep no record in that database, and what
    ``enqueue`` raises.
    """
    using = backend_with_records(backend, "batch()").database
    record = BatchRecord(related_object=related_object("about", about))
    follow_ups = {"then": then, "on_failure": on_failure, "on_finish": on_finish}
    followers = new_followers(record, using, follow_ups)
    with transaction.atomic(using):
        store_rows([record, *followers], using)
        with filling(record.pk, using):
            yield Batch(record.pk, using)
        batch_ends.advance_due([record.pk], using, are_new=True)
