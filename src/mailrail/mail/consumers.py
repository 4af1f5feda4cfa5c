"""The consumer that delivers. Its module's name is what routing looks for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import InterfaceError, OperationalError, router
from django.db.models import QuerySet
from django.dispatch import receiver
from django.utils import timezone

from mailrail import Channel
from mailrail.moments import after
from mailrail.reconciliation import reconcile
from mailrail.routing import consumer
from mailrail.signals import channel_paused, channel_resumed, message_buried, worker_maintenance
from mailrail.worker import IncomingMessage

from .delivery.batch import Delivery
from .delivery.messages import dispatch_of, id_of
from .delivery.record import add_event
from .mailers import circuit
from .mailers.channels import PATTERN, all_channels, channel_of, is_mail, known_channels, mailer_of
from .mailers.limiter import BATCH_SIZE, MailerLimiter
from .models import Email, Status
from .queueing.accept import content_for
from .records.retention import first_id

CONCURRENCY = 2
"""Batches of a mailer at once in one process: one waits for the network while another computes."""
MAX_ATTEMPTS = 1_000_000
"""Attempts: how often, and how long, an email is tried is the record's matter."""
MAX_LOSSES = 20
"""Workers that may die over an email: most are killed for other reasons, and its record knows whether it was sent."""

MAX_ERROR_LENGTH = 2000
"""Characters of the error of a buried message that the record keeps: its end, which names the exception."""
DEAD_PER_RUN = 500
"""Dead messages that are looked at together."""
MAX_DIALOGUE_DURATION = timedelta(minutes=10)
"""For which the reply to a final dot may be waited for (RFC 5321 4.5.3.2.6), after the others."""


@consumer(
    PATTERN,
    known_channels=known_channels,
    limiter=MailerLimiter,
    batch=BATCH_SIZE,
    concurrency=CONCURRENCY,
    attempts=MAX_ATTEMPTS,
    backoff=5.0,
    losses=MAX_LOSSES,
)
def deliver(messages: list[IncomingMessage]) -> None:
    """Deliver the emails ``{"id": …}``."""
    Delivery(messages).run()


# -- records whose message is missing: two queries, each of which an index answers in the order of the ids -------------


def _content(email: Email) -> dict[str, Any]:
    return content_for(email.pk, email.dispatch)


def _priority(email: Email) -> int:
    return email.priority


def _channel(email: Email) -> str:
    return channel_of(email.mailer)


def _records(before: datetime, status: Status) -> QuerySet[Email]:
    """Return records without their contents. They are selected by id, as many may have been queued just now."""
    emails = Email.objects.using(router.db_for_write(Email)).filter(status=status, pk__lt=first_id(before))
    return emails.only("id", "dispatch", "priority", "mailer")


@reconcile(PATTERN, content=_content, priority=_priority, channel_of=_channel)
def queued(before: datetime) -> QuerySet[Email]:
    hold_what_is_dead()  # for reconciliation, a record whose message is dead has one
    return _records(before, Status.QUEUED)


@reconcile(PATTERN, content=_content, priority=_priority, channel_of=_channel)
def sending(before: datetime) -> QuerySet[Email]:
    """Left behind by a worker that died, on a layer that has lost its messages since. Not what is being sent."""
    return _records(before, Status.SENDING).filter(
        changed_at__lt=after(before, -MAX_DIALOGUE_DURATION.total_seconds())
    )


# -- `channels pause` and `resume` ------------------------------------------------------------------------------------


@receiver(channel_paused, dispatch_uid="mailrail.mail.paused")
def note_pause(*, sender: str, by: str = "", reason: str = "", **kwargs: Any) -> None:
    """Record that a person has paused the channel of a mailer."""
    if is_mail(sender) and (mailer := mailer_of(sender)) is not None:
        circuit.note_pause(mailer, reason=reason, by=by)


@receiver(channel_resumed, dispatch_uid="mailrail.mail.resumed")
def note_resume(*, sender: str, **kwargs: Any) -> None:
    if is_mail(sender) and (mailer := mailer_of(sender)) is not None:
        circuit.note_resume(mailer)


# -- records whose message is dead: nobody will run it, so a person decides, and ``unhold`` sends another one -------


MIN_S_BETWEEN_LOOKS = 0.5
"""Seconds in which the signals of all channels of a worker come."""
_told_at = float("-inf")  # time.monotonic()


@receiver(worker_maintenance, dispatch_uid="mailrail.mail.circuit")
def tell_outages(*, sender: str, **kwargs: Any) -> None:
    """Tell of outages also in the log of a worker that began, or had no mail, while they lasted."""
    global _told_at
    now = time.monotonic()
    if not is_mail(sender) or now < _told_at + MIN_S_BETWEEN_LOOKS:  # once for all mailers
        return
    _told_at = now
    with suppress(OperationalError, InterfaceError):  # delivery says that the database is away
        circuit.log_changes(router.db_for_write(Email))


@receiver(message_buried, dispatch_uid="mailrail.mail.buried")
def hold_what_was_buried(*, sender: str, message: IncomingMessage, error: str, **kwargs: Any) -> None:
    if not is_mail(sender):
        return
    for email in _waiting([id_of(message.content)]):
        if email.dispatch <= dispatch_of(message.content):
            _hold(email, error)


def hold_what_is_dead() -> None:
    """Hold the emails whose messages are dead and whose worker did not hold them: it was killed, or its database was
    away."""
    for channel in all_channels():
        _hold_what_is_dead_on(channel)


def _hold_what_is_dead_on(channel: str) -> None:
    layer, last = Channel(channel).layer, None
    while listed := layer.list_messages([channel], DEAD_PER_RUN, "dead", last):
        last = listed[-1].cursor
        page = layer.get(channel, [summary.id for summary in listed], dead=True)
        waiting: dict[UUID | None, Email]
        waiting = {email.pk: email for email in _waiting(id_of(dead.content) for dead in page)}
        for dead in page:
            email = waiting.get(id_of(dead.content))
            if email is None or email.dispatch > dispatch_of(dead.content):
                continue
            # Once more, after the record was read: somebody may have sent the message again.
            if layer.get(channel, [dead.id], dead=True) and not layer.get(channel, [dead.id]):
                _hold(email, dead.error)


def _waiting(ids: Iterable[UUID | None]) -> list[Email]:
    """Return those that have not ended, found by their ids alone: by the status, all that waits would be read."""
    emails = Email._base_manager.using(router.db_for_write(Email))
    rows = emails.filter(pk__in=[id for id in ids if id is not None])
    return [
        email
        for email in rows.only("id", "status", "dispatch", "version", "events")
        if email.status in (Status.QUEUED, Status.SENDING)
    ]


def _hold(email: Email, error: str) -> None:
    add_event(email, now := timezone.now(), "held: its message was buried", why=error[-MAX_ERROR_LENGTH:])
    Email.objects.using(router.db_for_write(Email)).filter(pk=email.pk, version=email.version).update(
        status=Status.HELD, version=email.version + 1, events=email.events, changed_at=now, next_try_at=None
    )
