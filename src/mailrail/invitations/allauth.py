"""Integrate django-allauth: whoever signs up through an invitation has a verified address.

ACCOUNT_ADAPTER = "mailrail.invitations.allauth.InvitationAdapter"
MAILRAIL = {
    "INVITATION_SIGNUP": "account_signup",
    "INVITATION_EMAILS_OF": "mailrail.invitations.allauth.verified_emails_of",
}
"""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from django.http import HttpRequest

from mailrail.addresses import normal_form

from . import accepting
from .accepting import LinkState

_OPEN = (LinkState.LOG_IN, LinkState.WELCOME, LinkState.OTHER_ACCOUNT)


def verified_emails_of(user: Any) -> list[str]:
    """Return the addresses that allauth has verified."""
    return list(EmailAddress.objects.filter(user=user, verified=True).values_list("email", flat=True))


def invited_address(request: HttpRequest) -> str | None:
    """Return the address of the open invitation whose link this session remembers, if any."""
    link_state, invitation = accepting.stashed(request)
    return invitation.email if link_state in _OPEN else None


class InvitationAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth is not typed
    """Treat the invited address as verified, because the link was mailed to it."""

    def is_email_verified(self, request: HttpRequest, email: str) -> bool:
        """Tell whether this address needs no confirmation."""
        address = invited_address(request)
        if address is not None and normal_form(email) == normal_form(address):
            return True
        return bool(super().is_email_verified(request, email))


class InvitedOnlyAdapter(InvitationAdapter):
    """Also refuse sign-ups without an invitation."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Tell whether this person may sign up."""
        return invited_address(request) is not None
