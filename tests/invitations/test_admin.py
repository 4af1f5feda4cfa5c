"""The admin: it shows how far invitations got, and no keys."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.test import Client

from mailrail.invitations.models import Invitation
from mailrail.testing import sent

LIST = "/admin/mailrail_invitations/invitation/"


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


def test_the_list_shows_address_sender_and_status(staff: Client, invitation: Invitation) -> None:
    text = staff.get(LIST).text
    for shown in ("guest@example.com", "sender", "waiting"):
        assert shown in text


def test_no_page_shows_what_keys_are_made_of(staff: Client, invitation: Invitation) -> None:
    for page in ("", f"{invitation.pk}/change/", f"{invitation.pk}/history/", f"{invitation.pk}/delete/"):
        text = staff.get(LIST + page).text
        assert "guest@example.com" in text
        for secret in (invitation.key, invitation.public_id, invitation.salt):
            assert secret not in text


def test_the_admin_leads_nobody_to_the_link_of_the_invited(client: Client, invitation: Invitation) -> None:
    User.objects.create_user("staff", is_staff=True)
    client.force_login(User.objects.get(username="staff"))
    content_type = ContentType.objects.get_for_model(Invitation)
    response = client.get(f"/admin/r/{content_type.pk}/{invitation.pk}/")
    assert response.status_code == 404
    assert invitation.key not in response.text + str(response.headers)


@pytest.mark.parametrize("query", ["guest@", "sender"])
def test_invitations_are_found_by_address_and_by_sender(
    staff: Client, invitation: Invitation, query: str
) -> None:
    assert "guest@example.com" in staff.get(LIST, {"q": query}).text
    assert "guest@example.com" not in staff.get(LIST, {"q": "nobody-else"}).text


@pytest.mark.parametrize("status", ["waiting", "sent", "accepted"])
def test_invitations_are_filtered_by_status(staff: Client, invitation: Invitation, status: str) -> None:
    times = {
        "waiting": {},
        "sent": {"sent": invitation.created},
        "accepted": {"accepted_at": invitation.created},
    }
    Invitation.objects.update(**times[status])
    for choice in times:
        assert ("guest@example.com" in staff.get(LIST, {"status": choice}).text) == (choice == status)


def test_an_invitation_made_in_the_admin_is_sent(staff: Client, admin_user: User) -> None:
    assert f'value="{admin_user.pk}"' in staff.get(LIST + "add/").text
    response = staff.post(LIST + "add/", {"email": "Guest@EXAMPLE.com", "sender": admin_user.pk})
    assert response.status_code == 302
    invitation = Invitation.objects.get()
    assert invitation.email == "Guest@example.com"
    assert [message.content for message in sent("send-invite")] == [{"id": invitation.pk}]


def test_the_address_cannot_be_changed_and_a_change_sends_nothing(
    staff: Client, invitation: Invitation, admin_user: User
) -> None:
    change = {"email": "other@example.com", "sender": admin_user.pk}
    assert staff.post(f"{LIST}{invitation.pk}/change/", change).status_code == 302
    invitation.refresh_from_db()
    assert invitation.email == "guest@example.com"
    assert invitation.sender == admin_user
    assert sent("send-invite") == []


def test_a_bad_address_is_explained(staff: Client, admin_user: User) -> None:
    response = staff.post(LIST + "add/", {"email": "gueſt@example.com", "sender": admin_user.pk})
    assert response.status_code == 200
    assert "errorlist" in response.text
    assert not Invitation.objects.exists()
