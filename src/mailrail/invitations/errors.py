"""Define the reasons why an invitation is refused.

    mailrail.MailrailError
    └── InvitationRefused
        ├── SenderRefused       the sender may not invite, or has used up a quota
        ├── RecipientRefused    the address gets no more invitations for now, or is suppressed
        └── InvitationClosed    it was accepted or revoked: it can be neither sent again nor revoked

Their texts are written for the sender and translated. An address that can get no mail is Django's ``ValidationError``.
"""

from __future__ import annotations

from collections.abc import Iterable

from mailrail import MailrailError


class InvitationRefused(MailrailError):
    """Report a refusal: nothing was saved and nothing was sent. The text says why."""


class SenderRefused(InvitationRefused):
    """Report that the sender may not invite, or has used up a quota."""


class RecipientRefused(InvitationRefused):
    """Report that nobody may invite these ``addresses`` for now."""

    def __init__(self, text: str, addresses: Iterable[str]) -> None:
        super().__init__(text)
        self.addresses = list(addresses)


class InvitationClosed(InvitationRefused):
    """Report that the invitation was accepted or revoked."""
