"""One mailbox in two spellings: invited, limited, suppressed and accepted as one."""

from __future__ import annotations

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import mail

from mailrail.invitations import RecipientRefused, invite, invite_many
from mailrail.invitations.accepting import has_address
from mailrail.invitations.addresses import Entry
from mailrail.invitations.bulk import sort_out
from mailrail.invitations.models import Invitation
from mailrail.mail.models import Suppression
from mailrail.mail.records.suppressions import hash_address
from mailrail.testing import drain

pytestmark = pytest.mark.django_db
PAIRS = [
    ("gone@exämple.com", "Gone@XN--EXMPLE-CUA.com"),
    ("gone@xn--exmple-cua.com", "gone@EXÄMPLE。com"),
    ("gone@faß.de", "gone@xn--fa-hia.de"),
]
spelt = pytest.mark.parametrize(("one", "other"), PAIRS)


@spelt
def test_a_mailbox_that_is_invited_is_found_in_its_other_spelling(sender: User, one: str, other: str) -> None:
    invitation = invite(one, sender)
    [problem] = sort_out([Entry(1, other)], sender)[1]
    assert problem.kind == "invited"
    assert list(Invitation.objects.all().to_mailboxes([other])) == [invitation]
    assert has_address(User(email=other), invitation.email)


@spelt
def test_of_two_spellings_one_is_invited(sender: User, one: str, other: str) -> None:
    assert len(invite_many([one, other], sender)) == 1


@spelt
def test_the_limit_of_a_recipient_counts_both(
    sender: User, settings: LazySettings, one: str, other: str
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "INVITATIONS_PER_RECIPIENT": 1}
    invite(one, sender)
    with pytest.raises(RecipientRefused, match="many invitations recently"):
        invite(other, sender)


@pytest.mark.parametrize("name", [lambda address: address, hash_address], ids=["named", "erased"])
def test_a_suppressed_mailbox_is_invited_in_no_spelling(sender: User, name: object) -> None:
    assert callable(name)
    Suppression.objects.create(address=name("gone@xn--exmple-cua.com"))
    for address in ("gone@exämple.com", "GONE@xn--exmple-cua.com"):
        with pytest.raises(RecipientRefused, match="gets no email from this site"):
            invite(address, sender)


def test_a_sharp_s_is_somebody_elses_double_s(sender: User) -> None:
    invitation = invite("x@faß.de", sender)
    assert not has_address(User(email="x@fass.de"), invitation.email)
    assert len(invite_many(["x@fass.de"], sender)) == 1


def test_the_email_of_an_invitation_goes_to_the_domain_by_idna_2008_past_any_queue(sender: User) -> None:
    invite("x@faß.de", sender)
    drain()
    assert [each.to for each in mail.outbox] == [["x@xn--fa-hia.de"]]
