"""The consumer: turns a message on ``send-invite`` into an email."""

from __future__ import annotations

from typing import Any, Protocol

from django.core.mail import EmailMessage
from django.db import router
from django.template.loader import render_to_string
from django.utils import timezone

from mailrail import Discard
from mailrail.routing import consumer

from .models import Invitation


class SendInvite(Protocol):
    """A message on ``send-invite``."""

    @property
    def content(self) -> dict[str, Any]:
        """``{"id": …}``, the primary key of an invitation."""


@consumer("send-invite")
def send_invite(message: SendInvite) -> None:
    """Mail the invitation ``{"id": …}`` unless that was done before, and note when.

    What goes wrong while mailing is raised: the worker tries again later. A crash between the mail and the note
    makes the invitation arrive twice; nothing over SMTP can rule that out.
    """
    invitations = Invitation.objects.using(router.db_for_write(Invitation))  # a replica may not have it yet
    try:
        invitation = invitations.select_related("sender").get(pk=message.content["id"])
    except Invitation.DoesNotExist:
        raise Discard(f"invitation {message.content['id']} no longer exists") from None
    if invitation.sent:
        return
    compose(invitation).send()
    invitations.filter(pk=invitation.pk, sent=None).update(sent=timezone.now())


def compose(invitation: Invitation) -> EmailMessage:
    """Make the email, from ``DEFAULT_FROM_EMAIL`` and the templates in ``mailrail_invitations/email/``."""
    context = {"invitation": invitation, "sender": invitation.sender, "accept_url": invitation.accept_url()}
    subject = render_to_string("mailrail_invitations/email/subject.txt", context)
    body = render_to_string("mailrail_invitations/email/body.txt", context)
    return EmailMessage(subject=" ".join(subject.split()), body=body, to=[invitation.email])
