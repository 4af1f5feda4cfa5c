"""The lists of invitations that are being mailed, for people on call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast
from uuid import UUID

from django.db import router

from mailrail.moments import aware, from_now
from mailrail.monitoring import Count, WorkFacts, register_work
from mailrail.monitoring.progress import WorkProgress
from mailrail.monitoring.tally import Tally
from mailrail.terminal import single_line

from .models import InvitationBatch

MAX_SHOWN = 50
"""Lists that are looked at: the newest."""
RECENT_S = 7 * 86400.0
"""Seconds after its confirmation for which a list is looked at."""
ENDED_FOR_S = 600.0
"""Seconds for which a list that has ended is not counted again: somebody may requeue what has failed."""

_ended: dict[UUID, float] = {}
"""Lists that had ended, and when each may be counted again (monotonic)."""


@register_work
def invitation_lists() -> Iterator[WorkFacts]:
    """Yield the lists of which an invitation still waits, as their own pages count that; the newest first."""
    now = time.monotonic()
    batches = [batch for batch in _newest() if _ended.get(batch.pk, 0.0) <= now]
    progress = _progress.values([batch.pk for batch in batches])
    for batch in batches:
        if (known := progress.get(batch.pk)) is None:
            continue
        if known.has_ended:
            _ended[batch.pk] = now + ENDED_FOR_S
        else:
            yield _facts_of(batch, known)


def _newest() -> list[InvitationBatch]:
    """Return the newest lists that were confirmed lately, and forget what is known of others."""
    batches = InvitationBatch.objects.using(router.db_for_read(InvitationBatch))
    recent = batches.filter(confirmed_at__gt=from_now(-RECENT_S)).select_related("sender").order_by("-pk")
    newest = list(recent.defer("message", "addresses", "understood", "problems")[:MAX_SHOWN])
    for id in _ended.keys() - {batch.pk for batch in newest}:
        del _ended[id]
    return newest


def _progress_of(id: UUID) -> WorkProgress:
    return InvitationBatch(pk=id).mailrail_progress()


_progress: Tally[UUID, WorkProgress] = Tally(_progress_of)
"""To count a list reads each of its invitations, up to 10,000."""


def _facts_of(batch: InvitationBatch, progress: WorkProgress) -> WorkFacts:
    return WorkFacts(
        kind=cast(str, batch._meta.verbose_name),
        title=single_line(str(batch.sender)),
        model=batch._meta.label_lower,
        pk=str(batch.pk),
        done=Count(int(progress.done)),
        failed=Count(int(progress.failed)),
        total=None if progress.total is None else Count(int(progress.total)),
        since=None if batch.confirmed_at is None else aware(batch.confirmed_at).timestamp(),
    )
