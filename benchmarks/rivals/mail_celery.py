"""Celery on Valkey: one task for each email; the database's connection is kept, which takes a setting of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery import Celery

if TYPE_CHECKING:
    from ..mail.models import Invitation

app = Celery("rival", broker=os.environ["BENCHMARKS_VALKEY"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    CELERY_DB_REUSE_MAX=1_000_000,
)


@app.task
def send_invite(id: int) -> None:
    from ..mail.models import invite

    invite(id, "smtp")


def fill(invitations: Sequence[Invitation]) -> None:
    for each in invitations:
        send_invite.delay(each.pk)
