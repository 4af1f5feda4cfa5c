"""Carry out operations, part by part, so that whoever goes on after a killed worker does nothing twice."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from django.db import router
from django.utils import timezone

from mailrail.log import logger_of
from mailrail.transient import OUTAGES, is_transient
from mailrail.write_transactions import write_transaction

from .models import Operation
from .operation_kinds import KINDS, Part, PartDone

logger = logger_of("mailrail.dashboard")

MAX_ERROR_LENGTH = 1_000


class _Superseded(Exception):
    """Somebody has ended the operation, or another worker has gone on with it."""


def run(id: UUID, seconds: float = float("inf")) -> bool:
    """Go on with an operation for about so many seconds. Returns whether it has ended.

    Each part is stored with its outcome in one transaction where the database is the same. Elsewhere its ids are
    stored first, and whoever goes on asks the layer what has become of them. A worker that was stopped, and whose
    operation another one has gone on with, finds the ``fence`` changed before its next part. Raises what passes by
    itself (``is_transient``); any other error ends the operation.
    """
    using, until = router.db_for_write(Operation), time.monotonic() + seconds
    try:
        operation = _begin(id, using)
        while operation.place[0] < len(operation.units):
            if time.monotonic() > until:
                return False
            _advance(operation, using)
        _end(operation, using)
    except _Superseded:
        pass
    except Exception as error:
        if is_transient(error) or isinstance(error, OUTAGES):
            raise
        logger.exception("operation %s ended by an error", id)
        fail(id, error)
    return True


def fail(id: UUID, error: Exception) -> None:
    """End an operation by an error, if it is open."""
    rows = Operation.objects.using(router.db_for_write(Operation)).filter(pk=id, ended_at=None)
    rows.update(ended_at=timezone.now(), error=f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH])


def _begin(id: UUID, using: str) -> Operation:
    """Take the operation over from whoever had it, and count what that one has done."""
    with write_transaction(using):
        operation = _lock(id, using)
        operation.fence += 1
        operation.begun_at = operation.begun_at or timezone.now()
        operation.place = operation.place or [0, None]
        if operation.doing:
            operation.done += _settled(operation)
            operation.doing = []
        operation.save(using=using)
    return operation


def _settled(operation: Operation) -> int:
    unit, ids = operation.units[operation.place[0]], [UUID(id) for id in operation.doing]
    return KINDS[operation.kind].settled(operation, unit, ids)


def _lock(id: UUID, using: str, fence: int | None = None) -> Operation:
    """Return the row, locked, if it is open and nobody has taken it over."""
    operation = Operation.objects.using(using).select_for_update().filter(pk=id, ended_at=None).first()
    if operation is None or fence not in (None, operation.fence):
        raise _Superseded
    return operation


def _advance(operation: Operation, using: str) -> None:
    """Carry out the next part of an operation, or go on to its next unit."""
    number, behind = operation.place
    unit, kind = operation.units[number], KINDS[operation.kind]
    part = kind.part(operation, unit, behind)
    if part is None:
        _store(operation, using, [number + 1, None], PartDone())
        return
    if kind.using(unit) != using:
        Operation.objects.using(using).filter(pk=operation.pk, fence=operation.fence).update(
            doing=[str(id) for id in part.ids]
        )
    _carry_out(operation, using, unit, part)


def _carry_out(operation: Operation, using: str, unit: Any, part: Part) -> None:
    with write_transaction(using):
        locked = _lock(operation.pk, using, operation.fence)
        done = KINDS[operation.kind].carry_out(locked, unit, part.ids)
        _store(operation, using, [operation.place[0], part.behind], done)


def _store(operation: Operation, using: str, place: list[Any], done: PartDone) -> None:
    operation.place, operation.doing = place, []
    operation.done += done.done
    operation.left += done.left
    rows = Operation.objects.using(using).filter(pk=operation.pk, fence=operation.fence, ended_at=None)
    values = {"place": place, "doing": [], "done": operation.done, "left": operation.left}
    if not rows.update(**values):
        raise _Superseded


def _end(operation: Operation, using: str) -> None:
    rows = Operation.objects.using(using).filter(pk=operation.pk, fence=operation.fence, ended_at=None)
    if rows.update(ended_at=timezone.now()):
        logger.info(
            "operation %s of %s ended: %s done, %s left",
            operation,
            operation.by,
            operation.done,
            operation.left,
        )


def cancel(id: UUID) -> bool:
    """Cancel an operation: what it has done stays done, and no other part begins. Returns whether it was open."""
    rows = Operation.objects.using(router.db_for_write(Operation)).filter(pk=id, ended_at=None)
    return bool(rows.update(ended_at=timezone.now(), is_cancelled=True))
