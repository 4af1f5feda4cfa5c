"""End batches: enqueue their followers when the first member has failed, when all have ended, when all are successful.

No row counts the members, so their ends never wait for each other. Whoever has committed the end of a member looks once
whether any is unfinished, by an index. Of those who commit last, at least one looks when all ends can be seen. Whoever
finds a batch at its end locks its row, looks again, and enqueues the followers in that transaction, so exactly once.
A process that dies between the two has not settled its message, whose next claim looks. Workers look once a minute.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache, partial
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Count
from django.utils import timezone

from mailrail.log import logger_of
from mailrail.moments import from_now
from mailrail.prepared_statements import execute_prepared
from mailrail.second_connection import is_in_transaction
from mailrail.transient import is_transient
from mailrail.write_transactions import reading_committed, write_transaction

from .batch_membership import is_kept_open
from .followers import drop_held
from .models import FAILED, READY, RUNNING, SUCCESSFUL, BatchRecord, TaskRecord
from .named import backend_of
from .options import DEFAULT_RETENTION_S
from .results import result_of
from .sending import send

PLAN_CACHE_S = 5.0
"""Seconds for which PostgreSQL keeps the plan of the statement that looks."""
MAX_PER_LOOK = 20_000
"""Open batches that one look of a worker's maintenance asks for at most; the next look goes on behind them."""
IDS_PER_QUERY = 500

logger = logger_of("mailrail.tasks")

# Members that have ended leave dead entries in an index of PostgreSQL, so each look is for the newest member, which
# ends last. The order names the batch by a range. An equality would leave the order of ids alone, for which the planner
# may take the index of primary keys, past all other tasks. SQLite uses no column of an index behind a range.
_ONE = {
    "postgresql": """(SELECT r.id FROM mailrail_tasks_taskrecord AS r
        WHERE r.batch_id >= b.id AND r.batch_id <= b.id AND r.status = '{status}'
        ORDER BY r.batch_id DESC, r.id DESC LIMIT 1)""",
    "sqlite": """(SELECT r.id FROM mailrail_tasks_taskrecord AS r
        WHERE r.batch_id = b.id AND r.status = '{status}' LIMIT 1)""",
}
_LOOK = """
SELECT b.id FROM mailrail_tasks_batchrecord AS b
WHERE {chosen} AND b.finished_at IS NULL AND (
    ({ready} IS NULL AND {running} IS NULL) OR (b.failed_at IS NULL AND {failed} IS NOT NULL))
"""
_STATE = """
SELECT {ready} IS NOT NULL OR {running} IS NOT NULL, {failed} IS NOT NULL
FROM mailrail_tasks_batchrecord AS b WHERE b.id = %(id)s
"""
_CHOSEN = {
    "postgresql": "b.id = ANY (%(ids)s::uuid[])",
    "sqlite": "b.id IN (SELECT value FROM json_each(%(ids)s))",
}


@lru_cache
def _statement(template: str, vendor: str) -> str:
    members = {name.lower(): _ONE[vendor].format(status=name) for name in (READY, RUNNING, FAILED)}
    return template.format(chosen=_CHOSEN[vendor], **members)


def look_after(ids: Collection[UUID], using: str) -> None:
    """Do for these batches what is due now that members of theirs have ended, and again once that is committed.

    What fails is logged, and done by a later look; but inside a transaction it raises.
    """
    if not is_in_transaction(using):
        with _errors_logged():
            for id in _due(ids, using):
                with _errors_logged():
                    _advance(id, using)
        return
    advance_due(ids, using)
    if connections[using].in_atomic_block:
        transaction.on_commit(partial(look_after, ids, using), using, robust=True)


@contextmanager
def _errors_logged() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            logger.exception("a batch could not be looked after; workers look again within a minute")
        else:
            logger.info("a batch could not be looked after just now; workers look again: %s", error)


def advance_due(ids: Collection[UUID], using: str, *, are_new: bool = False) -> None:
    """Do for these batches what is due now. Raises what the database raises.

    ``are_new``: the transaction has made them itself, so nobody else can have added members.
    """
    for id in _due(ids, using):
        _advance(id, using, is_new=are_new)


def look_after_open(using: str, after: UUID | None = None) -> UUID | None:
    """Do what is due for open batches of a database, as whoever was to do it may have been killed.

    ``after``: the id behind which to begin. Returns where to go on next time, ``None`` at the end of all batches.
    """
    rows = BatchRecord.objects.using(using).filter(finished_at=None).order_by("pk")
    rows = rows if after is None else rows.filter(pk__gt=after)
    ids = list(rows.values_list("pk", flat=True)[:MAX_PER_LOOK])
    for begin in range(0, len(ids), IDS_PER_QUERY):
        look_after(ids[begin : begin + IDS_PER_QUERY], using)
    return ids[-1] if len(ids) == MAX_PER_LOOK else None


def _due(ids: Collection[UUID], using: str) -> list[UUID]:
    """Return those of these batches for which something is to be done now."""
    hexes = [id.hex for id in ids if not is_kept_open(id)]
    if not hexes:
        return []
    connection = connections[using]
    statement = _statement(_LOOK, connection.vendor)
    if connection.vendor == "postgresql":
        rows = execute_prepared(connection, statement, {"ids": hexes}, PLAN_CACHE_S)
    else:
        with connection.cursor() as cursor:
            cursor.execute(statement, {"ids": json.dumps(hexes)})
            rows = cursor.fetchall()
    return [id if isinstance(id, UUID) else UUID(id) for (id,) in rows]


def _advance(id: UUID, using: str, *, is_new: bool = False) -> None:
    """Do for a batch what is due, in one transaction that has locked its row first."""
    bounded = connections[using].vendor == "postgresql" and not is_in_transaction(using)
    if not bounded and not is_new and _may_see_the_past(using):
        return
    with reading_committed(using), write_transaction(using):
        if bounded:  # somebody who adds members may hold the row for long
            with connections[using].cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '200ms'")
        if (batch := _lock_open(id, using, waits=bounded)) is None:
            return
        is_unfinished, has_failed = _state(id, using)
        followers: list[UUID | None] = []
        if has_failed and batch.failed_at is None:
            batch.failed_at = timezone.now()
            followers.append(batch.on_failure_id)
        if not is_unfinished:
            followers += _end(batch, using)
        records = _release(followers, using)
        batch.save(using=using)
        send(records, using)
    _tell(records)


def _may_see_the_past(using: str) -> bool:
    """Tell whether the caller's transaction does not see members that others have added since it began.

    Its commit looks again. A ``TestCase`` never commits, and nobody else writes meanwhile.
    """
    connection = connections[using]
    if connection.vendor != "postgresql":
        return False
    if any(getattr(block, "_from_testcase", False) for block in getattr(connection, "atomic_blocks", ())):
        return False
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        return bool(cursor.fetchone()[0] not in ("read committed", "read uncommitted"))


def _lock_open(id: UUID, using: str, waits: bool) -> BatchRecord | None:
    """Lock the row of a batch that has not ended until the end of the transaction, and return it.

    ``waits``: for whoever has locked it. A transaction of the caller does not wait, as two that have added members
    would wait for each other. Its commit looks again.
    """
    rows = BatchRecord._base_manager.using(using).filter(pk=id, finished_at=None)
    return rows.select_for_update(no_key=True, skip_locked=not waits).first()


def _state(id: UUID, using: str) -> tuple[bool, bool]:
    """Tell whether a batch has unfinished members, and whether it has failed ones, as they are committed now."""
    connection = connections[using]
    with connection.cursor() as cursor:
        value = id if connection.vendor == "postgresql" else id.hex
        cursor.execute(_statement(_STATE, connection.vendor), {"id": value})
        is_unfinished, has_failed = cursor.fetchone()
    return bool(is_unfinished), bool(has_failed)


def _end(batch: BatchRecord, using: str) -> list[UUID | None]:
    """Note in a locked batch that all members have ended, and return the ids of the followers that are due then.

    Does nothing if some have not: nobody can add members now, but people may run failed ones again.
    """
    counts = counts_of(batch.pk, using)
    if counts[READY] or counts[RUNNING]:  # somebody has just retried a failed one
        return []
    batch.finished_at = timezone.now()
    batch.total, batch.failed = counts.total() + batch.forgotten, counts[FAILED]
    is_successful = not batch.failed and batch.cancelled_at is None
    batch.kept_until = from_now(DEFAULT_RETENTION_S[SUCCESSFUL if is_successful else FAILED])
    if not is_successful:  # `then` is held back as long as the failed may be retried
        return [batch.on_finish_id]
    drop_held([batch.on_failure_id], using)
    return [batch.then_id, batch.on_finish_id]


def open_again(batch: BatchRecord, using: str) -> None:
    """Let a locked batch go on, as members of it run again. Followers that were enqueued are not held any more."""
    if batch.finished_at is not None:
        kept = counts_of(batch.pk, using).total()
        batch.forgotten = max(0, (batch.total or 0) - kept)
        batch.finished_at = batch.kept_until = batch.total = batch.failed = None
    batch.cancelled_at = None
    batch.save(using=using)


def is_held_still(follower: TaskRecord, using: str) -> bool:
    """Tell whether the batch of a held follower has not got so far, and keep it from that until the commit."""
    if follower.follows_id is None:
        return False
    opened = BatchRecord._base_manager.using(using).filter(pk=follower.follows_id, finished_at=None)
    batch = opened.select_for_update(no_key=True).first()
    return batch is not None and (follower.pk != batch.on_failure_id or batch.failed_at is None)


def counts_of(id: UUID, using: str) -> Counter[str]:
    """Count the members whose records are kept, by status."""
    members = TaskRecord._base_manager.using(using).filter(batch_id=id).order_by()
    return Counter(dict(members.values_list("status").annotate(Count("pk"))))


def _release(ids: Iterable[UUID | None], using: str) -> list[TaskRecord]:
    """Make held followers ordinary tasks, and return their records. One that somebody has cancelled stays as it is."""
    known = [id for id in ids if id is not None]
    held = TaskRecord._base_manager.using(using).filter(pk__in=known, held=1, status=READY)
    released = []
    for record in held if known else ():
        record.held, record.enqueued_at = 0, timezone.now()
        record.expires_at = _expires_at(record)
        changes = {name: getattr(record, name) for name in ("held", "enqueued_at", "expires_at")}
        if held.filter(pk=record.pk).update(**changes):
            released.append(record)
    return released


def _expires_at(record: TaskRecord) -> datetime | None:
    """Return when a follower expires: the seconds that its task says count from now on."""
    seconds = record.options.get("expires")
    return record.expires_at if seconds is None else record.enqueued_at + timedelta(seconds=seconds)


def _tell(records: Iterable[TaskRecord]) -> None:
    for record in records:
        logger.info("task %s of %s is enqueued, as its batch has got so far", record.pk, record.task)
        backend_of({"backend": record.backend}).tell_released(result_of(record))
