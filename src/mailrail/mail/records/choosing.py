"""Choose a mailer's emails by how they stand, part by part, for operations on all of them."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import router

from ..models import Email, Status
from .retention import first_id

DEFERRED = "deferred"
"""Queued, and waiting for the next attempt after one that failed."""


def ids_of(mailer: str, status: str, until: datetime, after: UUID | None, limit: int) -> list[UUID]:
    """Return ids of emails that had this status at that moment, the oldest first, behind ``after``.

    ``status``: ``"deferred"``, or one of ``Status``. Emails that were queued, or have changed, later are left out.
    """
    rows = Email.objects.using(router.db_for_write(Email)).filter(mailer=mailer, changed_at__lte=until)
    if after is not None:
        rows = rows.filter(pk__gt=after)
    if status == DEFERRED:
        rows = rows.filter(status=Status.QUEUED, next_try_at__gt=until)
    else:
        rows = rows.filter(status=status)
    return list(rows.filter(pk__lt=first_id(until)).order_by("pk").values_list("pk", flat=True)[:limit])
