"""Email invitations, sent in the background: the app ``"mailrail.invitations"``.

    from mailrail.invitations import invite

    invite("guest@example.com", request.user, role="editor")

The names below are imported at first use: Django imports this package, as an app, before there can be models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InvitationClosed, InvitationRefused, RecipientRefused, SenderRefused
    from .inviting import invite, invite_many, resend, revoke
    from .models import get_invitation_model
    from .signals import invitation_accepted, invitation_revoked, invitation_sent

__all__ = [
    "InvitationClosed",
    "InvitationRefused",
    "RecipientRefused",
    "SenderRefused",
    "get_invitation_model",
    "invitation_accepted",
    "invitation_revoked",
    "invitation_sent",
    "invite",
    "invite_many",
    "resend",
    "revoke",
]

_HOMES = {
    "errors": ("InvitationClosed", "InvitationRefused", "RecipientRefused", "SenderRefused"),
    "inviting": ("invite", "invite_many", "resend", "revoke"),
    "models": ("get_invitation_model",),
    "signals": ("invitation_accepted", "invitation_revoked", "invitation_sent"),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_home_of[name]}", __name__), name)
