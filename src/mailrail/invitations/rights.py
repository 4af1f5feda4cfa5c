"""Check who may invite, when somebody invites and again when the invitation is accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from mailrail.conf import settings

from .errors import SenderRefused

if TYPE_CHECKING:
    from .models import AbstractInvitation


def is_active(sender: Any, invitation: AbstractInvitation) -> bool:
    """Allow whoever can log in to invite (the default of ``MAILRAIL["INVITATION_MAY_INVITE"]``)."""
    return bool(sender.is_active)


def may_invite(sender: Any, invitation: AbstractInvitation) -> bool:
    """Ask the project's function. ``invitation`` may be unsaved; it has its role and payload."""
    return bool(import_string(settings.invitation_may_invite)(sender, invitation))


def check_rights(sender: Any, invitation: AbstractInvitation) -> None:
    """Raise ``SenderRefused`` if the project's function refuses."""
    if not may_invite(sender, invitation):
        raise SenderRefused(_("You may not send this invitation."))
