"""Carry out operations of the live page in workers. This module's name is what routing looks for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import router
from django.db.models import QuerySet
from django.dispatch import receiver
from django.utils import timezone

from mailrail.conf import settings
from mailrail.reconciliation import reconcile
from mailrail.routing import consumer
from mailrail.signals import worker_maintenance
from mailrail.worker import IncomingMessage

from .models import Operation
from .operation_runs import run
from .operation_words import CHANNEL

SECONDS_AT_ONCE = 5.0
"""Seconds after which a worker gives an operation back: so one that stops does not wait for a long one."""


@consumer(CHANNEL, attempts=1_000_000, backoff=5.0, losses=20)
def carry_out(message: IncomingMessage) -> None:
    """Go on with the operation ``{"id": …}``."""
    if not run(UUID(message.content["id"]), SECONDS_AT_ONCE):
        message.release(why="it goes on")


@receiver(worker_maintenance, sender=CHANNEL, dispatch_uid="mailrail.dashboard.operations")
def prune_operations(**kwargs: Any) -> None:
    """Delete the records of operations that ended longer ago than ``MAILRAIL["HISTORY"]``."""
    rows = Operation.objects.using(router.db_for_write(Operation))
    rows.filter(ended_at__lt=timezone.now() - timedelta(seconds=settings.history)).delete()


@reconcile(CHANNEL)
def open_operations(before: datetime) -> QuerySet[Operation]:
    """Return the operations that a message should be about, as a layer may lose its messages."""
    rows = Operation.objects.using(router.db_for_write(Operation))
    return rows.filter(ended_at=None, until__lt=before)
