"""What the work is about: an invitation that is to be sent by email."""

from __future__ import annotations

from typing import ClassVar

from django.core.mail import EmailMessage
from django.db import models
from django.utils import timezone

TEXT = """\
Hello,

Ann Example has invited you to join the group of people who water the plants on the third floor.
Follow this link to accept, or ignore this message:

https://example.com/invitations/{key}/

The third floor
"""
"""224 octets with a key."""


class Invitation(models.Model):
    """Has no migrations; ``run`` creates its table."""

    email = models.EmailField()
    key = models.CharField(max_length=32, unique=True)
    sent = models.DateTimeField(null=True)

    objects: ClassVar[models.Manager[Invitation]] = models.Manager()

    def __str__(self) -> str:
        return self.email

    def message(self) -> EmailMessage:
        return EmailMessage(
            "An invitation from Ann Example",
            TEXT.format(key=self.key),
            "Plants <plants@example.com>",
            [self.email],
        )


def invite(id: int, using: str) -> None:
    """The work that is measured: load the row, build one email, ``send()``, save. ``using``: a mailer's alias."""
    invitation = Invitation.objects.get(pk=id)
    invitation.message().send(using=using)
    invitation.sent = timezone.now()
    invitation.save()


def new_invitations(count: int) -> list[Invitation]:
    """These, and no others."""
    Invitation.objects.all().delete()
    return Invitation.objects.bulk_create(
        [Invitation(email=f"guest{n}@example.com", key=f"{n:010d}") for n in range(count)]
    )
