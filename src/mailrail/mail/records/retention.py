"""How long emails are kept: their content for so long, their records for longer.

Only what is final is touched, a chunk in a transaction, and a chunk that somebody else holds is passed by. What is done
is no longer found, so a run that was stopped is taken up by the next one. Both find their rows by an index.
``mailrail_mail_has_content`` lists emails that still have content, by the time they became final. Records are found by
status and id, and an id begins with its creation time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from uuid import UUID

from django.db import models
from django.db.models import QuerySet
from django.utils import timezone

from mailrail.moments import aware, seconds_between
from mailrail.write_transactions import write_transaction

from ..models import FINAL, Email, EmailFile
from ..queueing.files import drop_unneeded

CHUNK_SIZE = 500
"""Emails in one transaction."""
EMPTIED: dict[str, object] = {}
"""The content of an email that has none any more."""


def with_content(before: datetime, using: str) -> QuerySet[Email]:
    """Final since before that moment, and not emptied."""
    return Email.objects.using(using).filter(status__in=FINAL, emptied_at=None, changed_at__lt=before)


def ended(before: datetime, using: str) -> QuerySet[Email]:
    """Made before that moment, and final since before it."""
    old = Email.objects.using(using).filter(pk__lt=first_id(before))
    return old.filter(status__in=FINAL, changed_at__lt=before)


def prune_bodies(before: datetime, using: str) -> Iterator[int]:
    """Remove the content of emails that are final since before that moment. Yields how many after each chunk."""
    waiting = with_content(before, using).order_by("changed_at").select_for_update(skip_locked=True)
    while True:
        with write_transaction(using):
            ids = list(waiting.values_list("pk", flat=True)[:CHUNK_SIZE])
            digests = empty(ids, using)
        drop_unneeded(digests, using)
        if not ids:
            return
        yield len(ids)


def prune_records(before: datetime, using: str) -> Iterator[int]:
    """Delete emails that were made, and are final, since before that moment. Yields how many after each chunk."""
    for status in FINAL:
        last = UUID(int=0)
        emails = Email.objects.using(using).filter(status=status, pk__lt=first_id(before)).order_by("pk")
        while page := list(emails.filter(pk__gt=last).values_list("pk", "changed_at")[:CHUNK_SIZE]):
            last = page[-1][0]
            # queued long before it was to be sent: its time counts from its end
            deleted = delete_final(
                [id for id, changed_at in page if seconds_between(changed_at, before) > 0], using, before
            )
            yield len(deleted)


def delete_final(ids: Collection[UUID], using: str, before: datetime | None = None) -> list[UUID]:
    """Delete those of these emails that are final (since before that moment), with the files only they have."""
    emails = Email.objects.using(using).filter(pk__in=ids, status__in=FINAL)
    if before is not None:
        emails = emails.filter(changed_at__lt=before)
    with write_transaction(using):
        locked = list(emails.order_by("pk").select_for_update(skip_locked=True).values_list("pk", flat=True))
        digests = delete(locked, using)
    drop_unneeded(digests, using)
    return locked


def delete(ids: Collection[UUID], using: str) -> set[str]:
    """Delete these emails, which the caller has locked. Returns the files they had."""
    digests = _unlink(ids, using)
    Email.objects.using(using).filter(pk__in=ids).only("pk").delete()
    return digests


def empty(ids: Collection[UUID], using: str) -> set[str]:
    """Remove the content of these emails, which the caller has locked. Returns the files they had."""
    digests = _unlink(ids, using)
    Email.objects.using(using).filter(pk__in=ids).update(
        content=EMPTIED, emptied_at=timezone.now(), version=models.F("version") + 1
    )
    return digests


def first_id(moment: datetime) -> UUID:
    """Return the lowest id of emails that were made at that moment: a UUIDv7 begins with milliseconds (RFC 9562
    5.7)."""
    return UUID(int=int(aware(moment).timestamp() * 1000) << 80)


def _unlink(ids: Collection[UUID], using: str) -> set[str]:
    links = EmailFile.objects.using(using).filter(email__in=ids)
    digests = set(links.values_list("file_id", flat=True))
    if digests:
        links.delete()
    return digests
