"""django-post_office, filled by its own call for many emails."""

from __future__ import annotations

from collections.abc import Sequence

from post_office import mail

from ..mail.models import Invitation


def fill(invitations: Sequence[Invitation]) -> None:
    messages = [each.message() for each in invitations]
    mail.send_many(
        [
            {
                "recipients": message.to,
                "sender": message.from_email,
                "subject": message.subject,
                "message": message.body,
            }
            for message in messages
        ]
    )
