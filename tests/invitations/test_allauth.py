"""With the real django-allauth: its pages, its verified addresses."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client

from mailrail.invitations import revoke
from mailrail.invitations.models import Invitation

SIGN_UP = "/allauth/signup/"
NEW = {"username": "newcomer", "password1": "a long word 17", "password2": "a long word 17"}


@pytest.fixture(autouse=True)
def with_allauth(settings: LazySettings) -> None:
    settings.MAILRAIL = {
        **settings.MAILRAIL,
        "INVITATION_SIGNUP": "account_signup",
        "INVITATION_EMAILS_OF": "mailrail.invitations.allauth.verified_emails_of",
    }
    settings.ACCOUNT_ADAPTER = "mailrail.invitations.allauth.InvitationAdapter"
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    settings.ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*", "password2*"]
    settings.ACCOUNT_RATE_LIMITS = False


def sign_up(client: Client, email: str) -> Any:
    return client.post(SIGN_UP, {**NEW, "email": email, "next": "/invites/accept/"})


def test_who_signs_up_through_an_invitation_is_verified_and_accepts(
    client: Client, invitation: Invitation
) -> None:
    url = invitation.accept_path()
    assert client.post(url, {"go": "sign-up"})["Location"] == f"{SIGN_UP}?next=/invites/accept/"
    assert sign_up(client, "Guest@example.com")["Location"] == "/invites/accept/"
    address = EmailAddress.objects.get()
    assert address.verified and mail.outbox == []
    response = client.post(client.get("/invites/accept/")["Location"], follow=True)
    assert "The invitation was accepted on" in response.text
    assert Invitation.objects.get().accepted_by == address.user


@pytest.mark.parametrize("through", [True, False])
def test_every_other_address_has_to_be_confirmed(
    client: Client, invitation: Invitation, through: bool
) -> None:
    if through:
        client.post(invitation.accept_path(), {"go": "sign-up"})
    sign_up(client, "other@example.com" if through else "guest@example.com")
    assert not EmailAddress.objects.get().verified
    assert [email.to for email in mail.outbox] == [[EmailAddress.objects.get().email]]


def test_a_link_that_died_verifies_nothing(client: Client, invitation: Invitation) -> None:
    client.post(invitation.accept_path(), {"go": "sign-up"})
    revoke(invitation)
    sign_up(client, "guest@example.com")
    assert not EmailAddress.objects.get().verified


def test_an_address_that_is_not_verified_accepts_nothing(client: Client, invitation: Invitation) -> None:
    user = User.objects.create_user("guest", "guest@example.com")
    client.force_login(user)
    assert client.post(invitation.accept_path()).status_code == 403
    EmailAddress.objects.create(user=user, email="guest@example.com", verified=False)
    assert client.post(invitation.accept_path()).status_code == 403
    EmailAddress.objects.update(verified=True)
    assert client.post(invitation.accept_path()).status_code == 302
    assert Invitation.objects.get().accepted_by == user


def test_where_only_the_invited_sign_up_the_page_is_closed_to_others(
    client: Client, invitation: Invitation, settings: LazySettings
) -> None:
    settings.ACCOUNT_ADAPTER = "mailrail.invitations.allauth.InvitedOnlyAdapter"
    assert "password1" not in client.get(SIGN_UP).text
    sign_up(client, "guest@example.com")
    assert not EmailAddress.objects.exists()
    client.post(invitation.accept_path(), {"go": "sign-up"})
    assert "password1" in client.get(SIGN_UP).text
