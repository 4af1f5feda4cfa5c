"""Consume ``send-invite``: mail invitations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import django
from django.apps import apps
from django.core import mail as django_mail
from django.core.mail import EmailMultiAlternatives
from django.db import router
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.utils import timezone, translation

from mailrail import Channel, Discard
from mailrail.addresses import with_ascii_domains
from mailrail.reconciliation import reconcile
from mailrail.routing import consumer
from mailrail.signals import message_buried
from mailrail.write_transactions import write_transaction

from .models import InvitationStatus, get_invitation_model, written_invitations
from .signals import invitation_sent

BATCH_SIZE = 50
"""Invitations that are mailed together: a commit for each would cost several times as much as the rest."""


class SendInvite(Protocol):
    """Describe a message on ``send-invite``."""

    @property
    def content(self) -> dict[str, Any]:
        """Return ``{"id": …}``, the primary key of an invitation."""

    def finish(self) -> None:
        """Be done with the message, whatever becomes of the others."""

    def release(self, after: float = 0, why: str = "") -> None:
        """Give the message back untouched."""


Ready: TypeAlias = list[tuple[SendInvite, Any]]
"""Messages, each with its invitation."""


def send_invite(messages: SendInvite | Sequence[SendInvite]) -> None:
    """Mail the invitations ``{"id": …}`` unless they were mailed before, and store the time.

    Messages come in batches where one transaction stores emails, messages and times, else one at a time. Then an
    invitation may arrive twice after a crash between mailing and storing; SMTP offers no way to rule that out. Raises
    the errors of mailing, so that the worker retries.
    """
    if not isinstance(messages, Sequence):
        _send_one(messages)
        return
    ready, refused = _triage(messages)
    try:
        _queue_together([invitation for _, invitation in ready])
    except Exception:
        if len(ready) < 2:
            raise
        _queue_each(ready)  # of which one is at fault
    if refused:
        for message, _ in ready:
            message.finish()
        raise Discard("; ".join(refused))


def _send_one(message: SendInvite) -> None:
    ready, refused = _triage([message])
    if refused:
        raise Discard(refused[0])
    for _, invitation in ready:
        compose(invitation).send()
        rows = written_invitations().filter(pk=invitation.pk, sent=None, generation=invitation.generation)
        now = timezone.now()
        if rows.update(sent=now):
            _tell([invitation], now)


def _triage(messages: Sequence[SendInvite]) -> tuple[Ready, list[str]]:
    """Return what is to be mailed, and why others are not."""
    ids = [message.content["id"] for message in messages]
    found = written_invitations().select_related("sender").in_bulk(ids)
    ready: dict[Any, tuple[SendInvite, Any]] = {}
    refused = []
    for message, id in zip(messages, ids, strict=True):
        invitation = found.get(id)
        if invitation is None:
            refused.append(f"invitation {id} no longer exists")
        elif message.content.get("generation", 1) != invitation.generation:
            refused.append(f"invitation {id} was sent again with a new link, by a message of its own")
        elif not invitation.is_open:
            refused.append(f"invitation {id} is {invitation.status.value}")
        elif not invitation.sent:
            ready.setdefault(id, (message, invitation))
    return list(ready.values()), refused


def _queue_each(ready: Ready) -> None:
    """Mail one after the other. After an error, those before it are done, and those behind it are given back."""
    for place, (_, invitation) in enumerate(ready):
        try:
            _queue_together([invitation])
        except Exception:
            for message, _ in ready[:place]:
                message.finish()
            for message, _ in ready[place + 1 :]:
                message.release(why="an invitation before it could not be mailed")
            raise


def _queue_together(invitations: Sequence[Any]) -> None:
    """Queue the emails and store the time in one transaction, without those that another worker has mailed."""
    emails = {invitation.pk: compose(invitation) for invitation in invitations}
    rows = written_invitations().filter(pk__in=emails, sent=None)
    with write_transaction(rows.db):
        generations = dict(rows.order_by("pk").select_for_update().values_list("pk", "generation"))
        left = [each for each in invitations if generations.get(each.pk) == each.generation]
        _mailer().send_messages([emails[invitation.pk] for invitation in left])
        now = _mark(rows, left)
    _tell(left, now)


def _mark(rows: QuerySet[Any], invitations: Sequence[Any]) -> datetime:
    now = timezone.now()
    rows.filter(pk__in=[invitation.pk for invitation in invitations]).update(sent=now)
    return now


def _tell(invitations: Sequence[Any], now: datetime) -> None:
    for invitation in invitations:
        invitation.sent = now
        invitation_sent.send_robust(type(invitation), invitation=invitation)


def _mailer() -> Any:
    """Return what ``EmailMessage.send()`` hands the email to."""
    return django_mail.mailers.default if django.VERSION >= (6, 1) else django_mail.get_connection()


def _batch_size() -> int | None:
    """Return how many invitations are mailed together; ``None``: each is mailed by a run of its own.

    A later run for the same message knows what such a run has queued.
    """
    try:
        return BATCH_SIZE if _is_one_transaction() else None
    except Exception:  # whatever is wrong with the settings, the checks report it
        return None


def _is_one_transaction() -> bool:
    """Tell whether one transaction can store emails, their messages and invitations."""
    if not apps.is_installed("mailrail.mail"):
        return False
    from mailrail.mail import Email
    from mailrail.mail.backend import EmailBackend

    using, layer = router.db_for_write(Email), Channel("mailrail.mail").layer
    is_beside = using == layer.using == router.db_for_write(get_invitation_model())
    return is_beside and layer.joins_transactions and isinstance(_mailer(), EmailBackend)


consumer("send-invite", batch=_batch_size())(send_invite)


def note_buried(*, message: SendInvite, **kwargs: Any) -> None:
    """Store on the invitation that its message was buried, for those who look at their list."""
    content = message.content
    rows = written_invitations().filter(pk=content.get("id"), generation=content.get("generation", 1))
    rows.filter(sent=None).update(failed_at=timezone.now())


message_buried.connect(note_buried, sender="send-invite", dispatch_uid="mailrail.invitations.buried")


@reconcile("send-invite", content=lambda invitation: invitation.content)
def unsent(before: datetime) -> QuerySet[Any]:
    """Return the invitations that have not been mailed: each should have a message."""
    return written_invitations().with_status(InvitationStatus.WAITING).filter(created__lt=before)


def compose(invitation: Any) -> EmailMultiAlternatives:
    """Make the email, from ``DEFAULT_FROM_EMAIL`` and the templates in ``mailrail_invitations/email/``.

    Its language is that of the invitation, else the active one: in a worker, ``LANGUAGE_CODE``. If the HTML template
    renders to nothing, the email has the text only.
    """
    with translation.override(invitation.language) if invitation.language else nullcontext():
        return _compose(invitation)


def _compose(invitation: Any) -> EmailMultiAlternatives:
    context = {"invitation": invitation, "sender": invitation.sender, "accept_url": invitation.accept_url()}
    subject = render_to_string("mailrail_invitations/email/subject.txt", context)
    body = render_to_string("mailrail_invitations/email/body.txt", context)
    html = render_to_string("mailrail_invitations/email/body.html", context)
    email = EmailMultiAlternatives(
        subject=" ".join(subject.split()), body=body, to=[with_ascii_domains(invitation.email)]
    )
    if html.strip():
        email.attach_alternative(html, "text/html")
    email.mailrail_sensitive = True  # type: ignore[attr-defined]  # its link opens the invitation
    email.mailrail_about = invitation  # type: ignore[attr-defined]  # its record says what became of it
    return email
