"""Decide who may accept an invitation, without revealing whether an address is registered.

A page shows the state of its link and nothing else. That state depends on the link, the invitation and the user who is
logged in. It never depends on whether the address has an account.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest
from django.utils.module_loading import import_string

from mailrail.addresses import normal_form
from mailrail.conf import settings

from .models import InvitationStatus, written_invitations
from .rights import may_invite

STASHED = "mailrail_invitation"
"""Session key of the link from which somebody went to log in or sign up."""
ACCEPTED = "mailrail_invitations_accepted"
"""Session key of the primary keys of the last 20 invitations accepted without an account."""


class LinkState(Enum):
    """Name the state of a link; the value has the HTTP status of its page."""

    FORGED = "forged", 404
    REPLACED = "replaced", 410
    REVOKED = "revoked", 410
    EXPIRED = "expired", 410
    USED = "used", 410
    """Somebody else has accepted it, as far as is known."""
    WITHDRAWN = "withdrawn", 410
    """Its sender may not invite any more."""
    DONE = "done", 200
    """Accepted by this person."""
    LOG_IN = "log in", 200
    OTHER_ACCOUNT = "other account", 403
    """The logged-in account does not have this address."""
    WELCOME = "welcome", 200
    """This person may accept it."""

    @property
    def status(self) -> int:
        """Return the HTTP status of the page that shows this state."""
        return self.value[1]


class CheckedLink(NamedTuple):
    """Hold the state of a link. ``invitation`` is ``None`` if the link opens none."""

    link_state: LinkState
    invitation: Any = None


def email_of(user: Any) -> list[str]:
    """Return the user's email (the default of ``MAILRAIL["INVITATION_EMAILS_OF"]``).

    Django does not verify it. The link does: whoever has the link reads the mail of the invited address.
    """
    return [getattr(user, get_user_model().get_email_field_name())]


def check_link(request: HttpRequest, key: str) -> CheckedLink:
    """Return the state of a link for the person who opens it. Changes nothing."""
    try:
        invitation = written_invitations().select_related("sender").get_by_key(key)
    except ObjectDoesNotExist:
        return CheckedLink(LinkState.REPLACED if written_invitations().was_key(key) else LinkState.FORGED)
    return CheckedLink(_state_of(request, invitation), invitation)


def _state_of(request: HttpRequest, invitation: Any) -> LinkState:
    match invitation.status:
        case InvitationStatus.ACCEPTED:
            return LinkState.DONE if _is_theirs(request, invitation) else LinkState.USED
        case InvitationStatus.REVOKED:
            return LinkState.REVOKED
        case InvitationStatus.EXPIRED:
            return LinkState.EXPIRED
    if not may_invite(invitation.sender, invitation):
        return LinkState.WITHDRAWN
    if settings.invitation_accept == "link":
        return LinkState.WELCOME
    if not request.user.is_authenticated:
        return LinkState.LOG_IN
    return LinkState.WELCOME if has_address(request.user, invitation.email) else LinkState.OTHER_ACCOUNT


def has_address(user: Any, email: str) -> bool:
    """Tell whether this is one of the user's addresses, in any spelling."""
    users_addresses: Iterable[str] = import_string(settings.invitation_emails_of)(user)
    return normal_form(email) in {
        normal_form(address) for address in users_addresses if address
    }  # a user may have none


def accept(request: HttpRequest, invitation: Any) -> bool:
    """Accept the invitation for the logged-in user, or else this session; return whether this call did it."""
    user = request.user if request.user.is_authenticated else None
    if not invitation.accept(user):
        return False
    if user is None and hasattr(request, "session"):
        request.session[ACCEPTED] = [*request.session.get(ACCEPTED, []), str(invitation.pk)][-20:]
    return True


def _is_theirs(request: HttpRequest, invitation: Any) -> bool:
    if request.user.is_authenticated and invitation.accepted_by_id == request.user.pk:
        return True
    return hasattr(request, "session") and str(invitation.pk) in request.session.get(ACCEPTED, [])


def stash(request: HttpRequest, key: str) -> None:
    """Remember the link while its owner logs in or signs up."""
    request.session[STASHED] = key


def stashed(request: HttpRequest) -> CheckedLink:
    """Return the state of the remembered link, if any."""
    return check_link(request, request.session.get(STASHED, ""))
