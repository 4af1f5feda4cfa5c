"""Consume ``send-invite``: mail each invitation."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime
from typing import Any, Protocol

from django.core.mail import EmailMultiAlternatives
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.utils import timezone, translation

from mailrail import Discard
from mailrail.addresses import with_ascii_domains
from mailrail.reconciliation import reconcile
from mailrail.routing import consumer

from .models import InvitationStatus, get_invitation_model, written_invitations
from .signals import invitation_sent


class SendInvite(Protocol):
    """Describe a message on ``send-invite``."""

    @property
    def content(self) -> dict[str, Any]:
        """Return ``{"id": …}``, the primary key of an invitation."""


@consumer("send-invite")
def send_invite(message: SendInvite) -> None:
    """Mail the invitation ``{"id": …}`` unless it was mailed before, and store the time.

    Raises the errors of mailing, so that the worker retries. After a crash between mailing and storing, the invitation
    arrives twice; SMTP offers no way to rule that out.
    """
    model, invitations = get_invitation_model(), written_invitations()
    try:
        invitation = invitations.select_related("sender").get(pk=message.content["id"])
    except model.DoesNotExist:
        raise Discard(f"invitation {message.content['id']} no longer exists") from None
    if message.content.get("generation", 1) != invitation.generation:
        raise Discard(f"invitation {invitation.pk} was sent again with a new link, by a message of its own")
    if not invitation.is_open:
        raise Discard(f"invitation {invitation.pk} is {invitation.status.value}")
    if invitation.sent:
        return
    compose(invitation).send()
    now = timezone.now()
    as_mailed = invitations.filter(pk=invitation.pk, sent=None, generation=invitation.generation)
    if as_mailed.update(sent=now):
        invitation.sent = now
        invitation_sent.send_robust(model, invitation=invitation)


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
    return email
