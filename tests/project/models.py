from typing import ClassVar

from django.db import models

from mailrail.invitations.models import AbstractInvitation, invitation_indexes


class TeamInvitation(AbstractInvitation):
    """A project's own invitation."""

    team = models.CharField(max_length=50)

    class Meta(AbstractInvitation.Meta):
        indexes: ClassVar = invitation_indexes("project")
