"""The consumer that delivers. Its module's name is what routing looks for."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import router
from django.db.models import QuerySet
from django.dispatch import receiver
from django.utils import timezone

from mailrail.reconciliation import reconcile
from mailrail.routing import consumer
from mailrail.signals import message_buried
from mailrail.worker import IncomingMessage

from .delivery import Delivery, call_of
from .models import Email, Status
from .queueing import CHANNEL, content_for
from .retention import first_id
from .values import storable

BATCH = 200
CONCURRENCY = 2
"""Batches at once in one process: one waits for the network while another computes."""
ALWAYS = 1_000_000
"""Attempts: how often, and how long, an email is tried is the record's matter."""
LOSSES = 20
"""Workers that may die over an email: most are killed for other reasons, and its record knows whether it was sent."""

LONGEST_DIALOGUE = timedelta(minutes=10)
"""For which the reply to a final dot may be waited for (RFC 5321 4.5.3.2.6), after the others."""


@consumer(CHANNEL, batch=BATCH, concurrency=CONCURRENCY, attempts=ALWAYS, backoff=5.0, losses=LOSSES)
def deliver(messages: list[IncomingMessage]) -> None:
    """Deliver the emails ``{"id": …}``."""
    Delivery(messages).run()


# -- records whose message is missing: two queries, each of which an index answers in the order of the ids -------------


def _content(email: Email) -> dict[str, Any]:
    return content_for(email.pk, email.call)


def _priority(email: Email) -> int:
    return email.priority


def _records(before: datetime, status: Status) -> QuerySet[Email]:
    """Without their contents. By the id, as what was queued just now may be much, and is not read then."""
    found = Email.objects.using(router.db_for_write(Email)).filter(status=status, pk__lt=first_id(before))
    return found.only("id", "call", "priority")


@reconcile(CHANNEL, content=_content, priority=_priority)
def queued(before: datetime) -> QuerySet[Email]:
    return _records(before, Status.QUEUED)


@reconcile(CHANNEL, content=_content, priority=_priority)
def sending(before: datetime) -> QuerySet[Email]:
    """Left behind by a worker that died, on a layer that has lost its messages since. Not what is being sent."""
    return _records(before, Status.SENDING).filter(changed_at__lt=before - LONGEST_DIALOGUE)


@receiver(message_buried, sender=CHANNEL, dispatch_uid="mailrail.mail.buried")
def hold_what_was_buried(*, message: IncomingMessage, error: str, **kwargs: Any) -> None:
    """No record waits for a message that nobody will run: a person decides, and ``release`` sends it again."""
    using = router.db_for_write(Email)
    waiting = Email.objects.using(using).filter(
        pk=message.get("id"), status__in=(Status.QUEUED, Status.SENDING)
    )
    for email in waiting.filter(call__lte=call_of(message)):
        told = {
            "at": timezone.now().isoformat(),
            "what": "held: its message was buried",
            "why": storable(error[:500]),
        }
        waiting.filter(pk=email.pk, turn=email.turn).update(
            status=Status.HELD, turn=email.turn + 1, events=[*email.events, told], changed_at=timezone.now()
        )
