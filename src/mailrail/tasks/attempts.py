"""Write into records that attempts begin, and what came of them: one statement for many attempts.

Both statements are fenced. An attempt begins only if no later claim of the message has begun one. What came of
it is written only while its own token stands in the record. So a worker that lost its claim changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

from django.db import OperationalError, connections, models
from django.db.models import Value
from django.db.models.base import ModelState
from django.db.models.functions import Coalesce
from django.utils import timezone

from mailrail.moments import as_django
from mailrail.prepared_statements import execute_prepared
from mailrail.second_connection import is_in_transaction
from mailrail.transient import is_lock_timeout

from .aside import write_aside
from .batch_ends import look_after
from .grouping import Answer, Company, GroupedWrites, Item
from .inserting import prepared_moment, stored_moment
from .json_values import dumps, loads
from .models import FAILED, READY, RUNNING, SUCCESSFUL, JsonTextField, TaskRecord

PLAN_CACHE_S = 5.0
"""Seconds for which PostgreSQL keeps the plans of the statements below."""
_TABLE = "mailrail_tasks_taskrecord"
_LOCK_BOUND = ", set_config('lock_timeout', '200ms', true) AS bound"
"""Bounds the wait of one statement for a record that somebody's transaction has locked, without a further statement."""


@dataclass(frozen=True, slots=True)
class Start:
    """One attempt that is about to begin.

    ``fence``: when the lease of its claim was to end. ``is_killable``: it runs in a process of its own.
    ``failures``: attempts that failed before, as its message counts. Does a running record have fewer, then the end of
    its attempt could not be written, and this one does not begin.
    """

    id: UUID
    dispatch: int
    token: int
    fence: float
    worker: str
    is_killable: bool = False
    failures: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """What came of an attempt. ``status``: ready for another one, or final. ``return_value``: as JSON.

    ``run_after``: not before then, and this one does not count as an attempt.
    """

    id: UUID
    token: int
    status: str
    errors: list[dict[str, str]]
    failures: int
    progress: dict[str, Any] | None
    metadata: dict[str, Any]
    return_value: str | None = None
    finished_at: datetime | None = None
    kept_until: datetime | None = None
    run_after: datetime | None = None


def begin(start: Start, using: str) -> TaskRecord | None:
    """Write that an attempt begins, and return its record, or ``None`` if it may not begin."""
    return _begun(using)(start)


async def abegin(start: Start, using: str) -> TaskRecord | None:
    """Write that the attempt of a coroutine begins, as ``begin`` does."""
    return await _begun(using).acall(start)


def begin_together(starts: Sequence[Start], using: str) -> list[TaskRecord | None]:
    """Write that attempts begin, as ``begin`` does, in one statement."""
    return _begin(using, True, starts)


def end(outcome: End, using: str, company: Company | None = None) -> bool:
    """Write what came of an attempt. Tells whether that was still its to write.

    ``company``: those that began together with it.
    """
    return _ended(using)(outcome, company)


def end_together(
    outcomes: Sequence[End], using: str, companies: Iterable[Company | None]
) -> list[bool | BaseException]:
    """Write what came of several attempts, and return for each what ``end`` returns, or would raise at once."""
    return _ended(using).write_all(outcomes, companies)


async def aend(outcome: End, using: str) -> bool:
    """Write what came of the attempt of a coroutine, as ``end`` does."""
    return await _ended(using).acall(outcome)


class _Joining(GroupedWrites[Item, Answer]):
    """Write together, but for what would keep the others waiting: an open transaction, or a locked record.

    ``patient``: whether a thread waits for a locked record as long as that takes. Raises ``OperationalError`` for
    such a record otherwise, and always in a coroutine, as these share a thread.
    """

    def __init__(
        self, write: Callable[[str, bool, Sequence[Item]], Sequence[Answer]], using: str, patient: bool
    ) -> None:
        super().__init__(partial(write, using, True))
        self._using = using
        self._write_alone = partial(write, using, not patient)
        self._write_aside = partial(write, using, True)

    def __call__(self, item: Item, company: Company | None = None) -> Answer:
        if is_in_transaction(self._using):
            return self._write_alone([item])[0]
        try:
            return super().__call__(item, company)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
        return self._write_alone([item])[0]

    async def acall(self, item: Item) -> Answer:
        try:
            return await super().acall(item)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
        return (await write_aside(self._write_aside, [item]))[0]


@lru_cache
def _begun(using: str) -> _Joining[Start, TaskRecord | None]:
    return _Joining(_begin, using, patient=False)


@lru_cache
def _ended(using: str) -> _Joining[End, bool]:
    return _Joining(_end, using, patient=True)


# Names of the values differ from those of the columns, so that RETURNING can name these without a table: SQLite knows
# no alias there. LIMIT tells the planner of PostgreSQL how many there are; it takes any JSON for a hundred rows.
# The list of ids keeps it from reading the whole table, and NOT IN from reading the partial index of what is not
# finished. It does so while the statistics are those of an empty table: 4,000 waiting tasks made it ten times as slow.
_BEGIN = f"""
UPDATE {_TABLE} AS r SET
    status = '{RUNNING}', token = i.item_token, fence = i.item_fence, worker_ids = {{workers}},
    is_killable = i.item_is_killable,
    started_at = COALESCE(r.started_at, %(now)s), last_attempted_at = %(now)s
FROM ({{items}} LIMIT %(many)s) AS i{{bound}}
WHERE {{found}}r.id = i.item_id AND r.dispatch = i.item_dispatch AND r.status NOT IN ('{FAILED}', '{SUCCESSFUL}')
    AND (r.fence IS NULL OR r.fence <= i.item_fence)
    AND (r.expires_at IS NULL OR r.expires_at > %(now)s OR r.started_at IS NOT NULL)
    AND (r.run_after IS NULL OR r.run_after <= %(now)s) AND r.cancelled_at IS NULL
    AND (r.status <> '{RUNNING}' OR r.failures >= i.item_failures)
RETURNING {{columns}}
"""
_END = f"""
UPDATE {_TABLE} AS r SET
    status = i.item_status, token = NULL, errors = i.item_errors, failures = i.item_failures,
    return_value = i.item_return_value, progress = i.item_progress, metadata = i.item_metadata,
    finished_at = i.item_finished_at, kept_until = i.item_kept_until,
    run_after = COALESCE(i.item_run_after, r.run_after),
    worker_ids = CASE WHEN i.item_run_after IS NULL THEN r.worker_ids ELSE {{workers}} END
FROM ({{items}} LIMIT %(many)s) AS i{{bound}}
WHERE {{found}}r.id = i.item_id AND r.token = i.item_token
    AND r.status NOT IN ('{READY}', '{FAILED}', '{SUCCESSFUL}')
    AND (r.cancelled_at IS NULL OR i.item_status <> '{READY}')
RETURNING {{columns}}
"""
_START_TYPES = {
    "id": "uuid",
    "dispatch": "int",
    "token": "bigint",
    "fence": "float8",
    "worker": "text",
    "is_killable": "bool",
    "failures": "int",
}
_END_TYPES = {
    "id": "uuid",
    "token": "bigint",
    "status": "text",
    "errors": "text",
    "failures": "int",
    "return_value": "text",
    "progress": "text",
    "metadata": "text",
    "finished_at": "timestamptz",
    "kept_until": "timestamptz",
    "run_after": "timestamptz",
}
_WORKERS = {
    (_BEGIN, "postgresql"): "r.worker_ids || jsonb_build_array(i.item_worker)",
    (_BEGIN, "sqlite"): "json_insert(r.worker_ids, '$[#]', i.item_worker)",
    (_END, "postgresql"): "r.worker_ids - (-1)",
    (_END, "sqlite"): "json_remove(r.worker_ids, '$[#-1]')",
}
"""The workers of a record with the one that begins, or without the one that ends."""


@lru_cache
def _statement(template: str, vendor: str, columns: str, is_bounded: bool = False) -> str:
    types = _START_TYPES if template is _BEGIN else _END_TYPES
    if vendor == "postgresql":
        typed = ", ".join(f"item_{name} {kind}" for name, kind in types.items())
        items = f"SELECT * FROM jsonb_to_recordset(%(items)s::jsonb) AS j ({typed})"
        found = "r.id = ANY (%(ids)s::uuid[]) AND "
    else:
        found = ""
        values = ", ".join(f"json_extract(value, '$.item_{name}') AS item_{name}" for name in types)
        items = f"SELECT {values} FROM json_each(%(items)s)"
    workers = _WORKERS.get((template, vendor), "")
    bound = _LOCK_BOUND if is_bounded and vendor == "postgresql" else ""
    return template.format(items=items, found=found, workers=workers, columns=columns, bound=bound)


def _begin(using: str, is_bounded: bool, starts: Sequence[Start]) -> list[TaskRecord | None]:
    items = [
        {
            "item_id": start.id.hex,
            "item_dispatch": start.dispatch,
            "item_token": start.token,
            "item_fence": start.fence,
            "item_worker": start.worker,
            "item_is_killable": start.is_killable,
            "item_failures": start.failures,
        }
        for start in starts
    ]
    rows = _execute(_BEGIN, items, using, _all_columns(), is_bounded)
    by_id = {record.id: record for record in (_record(row, using) for row in rows)}
    if is_in_transaction(using):
        for record in by_id.values():
            record.began_in_transaction = True
    records = [by_id.get(start.id) for start in starts]
    # Of two claims of one record in a group, one was written: the token says which.
    return [
        record if record is not None and record.token == start.token else None
        for start, record in zip(starts, records, strict=True)
    ]


def _end(using: str, is_bounded: bool, ends: Sequence[End]) -> list[bool]:
    if len({end.id for end in ends}) < len(ends):  # what is returned would not say whose end a record took
        return [_end(using, is_bounded, [end])[0] for end in ends]
    items = [
        {
            "item_id": end.id.hex,
            "item_token": end.token,
            "item_status": end.status,
            "item_errors": dumps(end.errors),
            "item_failures": end.failures,
            "item_return_value": end.return_value,
            "item_progress": None if end.progress is None else dumps(end.progress),
            "item_metadata": dumps(end.metadata),
            "item_finished_at": stored_moment(end.finished_at, using),
            "item_kept_until": stored_moment(end.kept_until, using),
            "item_run_after": stored_moment(end.run_after, using),
        }
        for end in ends
    ]
    rows = _execute(_END, items, using, "id, batch_id", is_bounded)
    written = {str(id).replace("-", ""): batch for id, batch in rows}
    _look_after_batches({written.get(end.id.hex) for end in ends if end.finished_at is not None}, using)
    return [end.id.hex in written for end in ends]


def _look_after_batches(ids: set[Any], using: str) -> None:
    """Do what is due for the batches whose members have ended. ``ids``: as the database has them, with ``None``."""
    ids.discard(None)
    if ids:
        look_after([id if isinstance(id, UUID) else UUID(id) for id in ids], using)


def _execute(
    template: str, items: list[dict[str, Any]], using: str, columns: str, is_bounded: bool
) -> list[Any]:
    """Execute one of the two statements, and return its rows. ``is_bounded``: not waiting for locks.

    The bound would last until the end of a transaction, and so does not apply in one.
    """
    connection = connections[using]
    bounded = is_bounded and not is_in_transaction(using)
    statement = _statement(template, connection.vendor, columns, bounded)
    values: dict[str, Any] = {
        "items": json.dumps(items),
        "many": len(items),
        "now": prepared_moment(timezone.now(), using),
    }
    if connection.vendor == "postgresql":
        values["ids"] = [item["item_id"] for item in items]
        return execute_prepared(connection, statement, values, PLAN_CACHE_S)
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        rows: list[Any] = cursor.fetchall()
        return rows


def _record(row: Sequence[Any], using: str) -> TaskRecord:
    """Make a record as unpickling makes one: the ORM takes several times as long."""
    columns: dict[str, Any] = dict(zip(_names(), row, strict=True))
    for name, convert in _converters(using):
        if (value := columns[name]) is not None:
            columns[name] = convert(value)
    columns["_state"] = state = ModelState()
    state.adding, state.db = False, using
    record = TaskRecord.__new__(TaskRecord)
    record.__dict__ = columns
    return record


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(field.attname for field in TaskRecord._meta.concrete_fields)


def _all_columns() -> str:
    return ", ".join(_names())


@lru_cache
def _converters(using: str) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """Return how columns are read. SQLite has text for ids and moments, and numbers for booleans."""
    vendor = connections[using].vendor
    found: list[tuple[str, Callable[[Any], Any]]] = []
    for field in TaskRecord._meta.concrete_fields:
        if isinstance(field, JsonTextField | models.JSONField):
            found.append((field.attname, loads))
        elif vendor == "postgresql":
            continue
        elif isinstance(field, models.DateTimeField):
            found.append((field.attname, _moment))
        elif isinstance(field, models.UUIDField):
            found.append((field.attname, UUID))
        elif isinstance(field, models.BooleanField):
            found.append((field.attname, bool))
    return tuple(found)


def _moment(value: Any) -> datetime:
    """Return a moment that SQLite has as text in UTC; the driver may have parsed it, as it knows the column's type."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return as_django(moment.replace(tzinfo=UTC))


def save_progress(
    id: UUID, token: int, progress: dict[str, Any] | None, metadata: dict[str, Any], using: str
) -> None:
    """Write how far an attempt is, unless another one has taken its place."""
    running = TaskRecord._base_manager.using(using).filter(pk=id, token=token)
    values: dict[str, Any] = {"progress": progress, "metadata": metadata}
    running.update(**values)


def ask_to_stop(id: UUID, using: str, hard: bool = False) -> bool:
    """Write that a running task is cancelled: its attempt is told, and no other one begins.

    ``hard``: the process of the attempt is to be killed. Tells whether it runs, and was not cancelled so before.
    """
    running = TaskRecord._base_manager.using(using).filter(pk=id, status=RUNNING)
    if not hard:
        return bool(running.filter(cancelled_at=None).update(cancelled_at=timezone.now()))
    killable = running.filter(is_killable=True, is_cancelled_hard=False)
    cancelled_at = Coalesce("cancelled_at", Value(timezone.now()))
    return bool(killable.update(cancelled_at=cancelled_at, is_cancelled_hard=True))


def is_cancelled(id: UUID, token: int, using: str) -> bool:
    """Tell whether the task of this attempt was cancelled while it runs."""
    running = TaskRecord._base_manager.using(using).filter(pk=id, token=token)
    return running.filter(cancelled_at__isnull=False).exists()


# -- records that are not running ------------------------------------------------------------------------------------


def drop_fence(record: TaskRecord, using: str) -> None:
    """Let the next claim begin although its lease ends before that of the claim that began last."""
    TaskRecord._base_manager.using(using).filter(pk=record.pk, token=record.token).update(fence=None)
