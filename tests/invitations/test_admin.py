"""The admin: it shows how far invitations got, and no keys."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connections
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailrail import keyset_admin
from mailrail.invitations import resend
from mailrail.invitations.admin import DECISIONS, InvitationAdmin
from mailrail.invitations.models import Invitation, InvitationStatus
from mailrail.mail.models import Suppression
from mailrail.testing import sent

from ..plans import plan_of, rows

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


@pytest.mark.parametrize("query", ["GUEST@Example.com ", "sender"])
def test_invitations_are_found_by_address_and_by_sender(
    staff: Client, invitation: Invitation, query: str
) -> None:
    assert "guest@example.com" in staff.get(LIST, {"q": query}).text
    for other in ("nobody-else", "other@example.com", "x@" + "ü" * 70):
        assert "guest@example.com" not in staff.get(LIST, {"q": other}).text


@pytest.mark.parametrize("status", ["waiting", "sent", "accepted", "revoked", "expired"])
def test_invitations_are_filtered_by_status(staff: Client, invitation: Invitation, status: str) -> None:
    times = {
        "waiting": {},
        "sent": {"sent": invitation.created},
        "accepted": {"accepted_at": invitation.created},
        "revoked": {"revoked_at": invitation.created},
        "expired": {"expires_at": invitation.created},
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


def test_a_change_takes_back_nothing_that_is_decided_at_the_same_moment(
    staff: Client, invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = InvitationAdmin.save_model

    def overtaken(self: InvitationAdmin, request: Any, obj: Any, *rest: Any) -> None:
        resend(Invitation.objects.get())
        Invitation.objects.get().accept(obj.sender)
        save(self, request, obj, *rest)

    monkeypatch.setattr(InvitationAdmin, "save_model", overtaken)
    change = {"sender": invitation.sender_id, "role": "editor"}
    assert staff.post(f"{LIST}{invitation.pk}/change/", change).status_code == 302
    found = Invitation.objects.get()
    assert (found.role, found.status, found.generation) == ("editor", "accepted", 2)


def test_one_that_may_not_be_sent_is_not_made_in_the_admin_either(
    staff: Client, admin_user: User, sender: User, with_settings: Any
) -> None:
    with_settings(INVITATIONS_PER_RECIPIENT=1, INVITATIONS_PER_SENDER=3)
    User.objects.filter(pk=sender.pk).update(is_active=False)
    Suppression.objects.create(address="gone@example.com", reason="asked")
    Invitation.objects.create(email="guest@example.com", sender=sender)
    for email, by, why in (
        ("other@example.com", sender, "You may not send this invitation."),
        ("GUEST@example.com", admin_user, "GUEST@example.com has received many invitations recently."),
        ("gone@example.com", admin_user, "gone@example.com gets no email from this site"),
    ):
        response = staff.post(LIST + "add/", {"email": email, "sender": by.pk})
        assert response.status_code == 200 and why in response.text
    assert Invitation.objects.count() == 1 and sent("send-invite") == []


def test_filters_of_other_hands_do_no_harm(staff: Client) -> None:
    for name in ("role", "status", "q", "behind", "email__contains"):
        assert staff.get(LIST, {name: "\0"}, follow=True).status_code == 200


def test_a_bad_address_is_explained(staff: Client, admin_user: User) -> None:
    response = staff.post(LIST + "add/", {"email": "gueſt@example.com", "sender": admin_user.pk})
    assert response.status_code == 200
    assert "errorlist" in response.text
    assert not Invitation.objects.exists()


def member(*codenames: str) -> Client:
    """Somebody who may see invitations, and these things more."""
    user = User.objects.create_user("member", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_invitation", *codenames]))
    client = Client()
    client.force_login(user)
    return client


def act(client: Client, action: str, *invitations: Invitation) -> str:
    """Choose them, and say yes."""
    chosen = {
        "action": action,
        "_selected_action": [invitation.pk for invitation in invitations],
        "post": "yes",
    }
    return client.post(LIST, chosen, follow=True).text


def test_who_may_sends_again_with_a_new_link(invitation: Invitation) -> None:
    key = invitation.key
    assert "Done for 1 invitation." in act(member("resend_invitation"), "resend_selected", invitation)
    invitation.refresh_from_db()
    assert invitation.key != key
    assert [message.content for message in sent("send-invite")] == [invitation.content]
    assert LogEntry.objects.get().change_message == "Send again, with a new link"


def test_who_may_revokes_and_is_told_what_cannot_be(invitation: Invitation, sender: User) -> None:
    other = Invitation.objects.create(email="other@example.com", sender=sender)
    other.accept()
    text = act(member("revoke_invitation"), "revoke_selected", invitation, other)
    assert "Done for 1 invitation." in text
    assert "The invitation of other@example.com was accepted already." in text
    invitation.refresh_from_db()
    assert invitation.status == "revoked"


def test_who_may_only_change_neither_sends_again_nor_revokes(invitation: Invitation) -> None:
    client = member("change_invitation", "delete_invitation")
    before = Invitation.objects.values().get()
    for action in ("resend_selected", "revoke_selected"):
        assert f'value="{action}"' not in client.get(LIST).text
        act(client, action, invitation)
        client.get(LIST, {"action": action, "_selected_action": invitation.pk})
    assert Invitation.objects.values().get() == before


@pytest.mark.parametrize("what", ["resend", "revoke"])
def test_nothing_is_done_before_the_answer(staff: Client, invitation: Invitation, what: str) -> None:
    before = Invitation.objects.values().get()
    asked = staff.post(
        LIST, {"action": f"{what}_selected", "_selected_action": [invitation.pk], "index": "0"}
    )
    assert "sure" in asked.text and "guest@example.com" in asked.text and "csrfmiddlewaretoken" in asked.text
    assert "sure" in staff.post(f"{LIST}{invitation.pk}/decide/", {"decision": what}).text
    assert Invitation.objects.values().get() == before and not LogEntry.objects.exists()


@pytest.mark.parametrize("what", ["resend", "revoke"])
def test_a_button_of_an_invitations_page_decides(staff: Client, invitation: Invitation, what: str) -> None:
    page = f"{LIST}{invitation.pk}/"
    assert f'value="{what}"' in staff.get(page + "change/").text
    key = invitation.key
    answer = {"decision": what, "post": "yes"}
    assert "Done for 1 invitation." in staff.post(page + "decide/", answer, follow=True).text
    invitation.refresh_from_db()
    assert (invitation.key != key) == (what == "resend")
    assert (invitation.status == "revoked") == (what == "revoke")
    assert staff.get(page + "decide/").status_code == 405
    assert staff.post(page + "decide/", {"decision": "burn"}).status_code == 404
    assert staff.post(f"{LIST}0/decide/", answer).status_code == 404
    assert LogEntry.objects.get().change_message == str(DECISIONS[what].label)


def test_enter_in_a_field_presses_save_and_no_decision(staff: Client, invitation: Invitation) -> None:
    """Browsers take the first submit button of the field's form (HTML, 4.10.21.2)."""
    text = staff.get(f"{LIST}{invitation.pk}/change/").text
    assert 'name="decision"' in text
    form = text.partition('id="invitation_form"')[2].partition("</form>")[0]
    first = re.search(r'<(?:input|button)[^>]* ?type="submit"[^>]*>', form)
    assert first and 'name="_save"' in first[0]


def test_buttons_are_those_of_its_status_and_of_who_may(staff: Client, invitation: Invitation) -> None:
    invitation.accept()
    assert 'name="decision"' not in staff.get(f"{LIST}{invitation.pk}/change/").text
    page = f"{LIST}{invitation.pk}/decide/"
    text = staff.post(page, {"decision": "revoke", "post": "yes"}, follow=True).text
    assert "was accepted already" in text
    client = member("change_invitation")
    assert client.post(page, {"decision": "revoke", "post": "yes"}).status_code == 403
    User.objects.get(username="member").user_permissions.set(
        Permission.objects.filter(codename="revoke_invitation")
    )
    assert client.post(page, {"decision": "revoke", "post": "yes"}).status_code == 403  # may not view


def test_pages_follow_by_key_and_searches_go_on(
    staff: Client, sender: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyset_admin, "SCAN_WINDOW_ROWS", 4)
    monkeypatch.setattr("mailrail.invitations.admin.InvitationAdmin.list_per_page", 2)
    for n in range(7):
        Invitation.objects.create(email=f"g{n}@example.com", sender=sender, role="editor" if n < 2 else "")

    def pages(query: str) -> list[list[str]]:
        seen, url = [], LIST + query
        while True:
            shown = staff.get(url).context["cl"]
            seen.append([row.email.partition("@")[0] for row in shown.result_list])
            if shown.next_page is None:
                return seen
            url = LIST + shown.next_page

    assert pages("") == [["g6", "g5"], ["g4", "g3"], ["g2", "g1"], ["g0"]]
    assert pages("?role=editor") == [[], ["g1", "g0"]]
    assert pages("?status=accepted") == [[]]
    monkeypatch.setattr(keyset_admin, "MAX_SORTED_ROWS", 3)
    assert pages("?q=sender") == [["g6", "g5"], ["g4", "g3"], ["g2", "g1"], ["g0"]]
    answer = {"action": "revoke_selected", "_selected_action": ["1"], "select_across": "1", "post": "yes"}
    assert "Select rows of this page." in staff.post(LIST, answer, follow=True).text


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_no_page_of_the_list_counts_or_sorts_all_there_is(
    admin_user: User, postgres_rows: None, rf: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20,000 rows, on PostgreSQL, each filter and search; the plans of what the page really asks."""
    window, many = 2000, 50
    monkeypatch.setattr(keyset_admin, "SCAN_WINDOW_ROWS", window)
    monkeypatch.setattr(keyset_admin, "MAX_SORTED_ROWS", many)
    model_admin = admin.site.get_model_admin(Invitation)
    middle = Invitation.objects.using("postgres").order_by("pk")[10_000].pk
    statuses: list[dict[str, str]] = [{"status": status} for status in InvitationStatus.values]
    further: list[dict[str, str]] = [{"behind": str(middle), **query} for query in [{}, *statuses]]
    searches: list[dict[str, str]] = [{"q": "guest-7@example.com"}, {"q": "many"}, {"role": "editor"}]
    for query in ({}, *statuses, *further, *searches):
        request = rf.get(LIST, query)
        request.user = admin_user
        with CaptureQueriesContext(connections["postgres"]) as asked:
            list(model_admin.get_changelist_instance(request).result_list)
        statements = [it["sql"] for it in asked if "mailrail_invitations_invitation" in it["sql"]]
        assert statements and not any("COUNT(" in statement for statement in statements)
        with connections["postgres"].cursor() as cursor:
            nodes = [node for statement in statements for node in plan_of(cursor, statement)]
        read = [n for n in nodes if n.get("Relation Name") == "mailrail_invitations_invitation"]
        assert not [n for n in read if n["Node Type"] == "Seq Scan" and n["Actual Loops"]], query
        most = 2 * window if query.keys() & {"status", "role", "q"} else 0
        if query.get("status") in ("accepted", "revoked"):
            most = 0
        assert sum(map(rows, read)) <= most + 2 * many + 200, (query, read)
        sorts = [n for n in nodes if n["Node Type"] in ("Sort", "Incremental Sort")]
        assert all(n["Actual Rows"] * n["Actual Loops"] <= many + 1 for n in sorts), (query, sorts)


@pytest.fixture
def postgres_rows(settings: LazySettings, db: None) -> None:
    settings.DATABASE_ROUTERS = ["tests.routers.InvitationsOnPostgres"]
    sender = User.objects.using("postgres").create(username="many")
    now = timezone.now()
    Invitation.objects.using("postgres").bulk_create(
        (
            Invitation(
                email=f"guest-{n}@example.com",
                sender=sender,
                sent=None if n % 1000 == 1 else now,
                accepted_at=now if n % 1000 == 2 else None,
                revoked_at=now if n % 1000 == 3 else None,
                expires_at=now if n % 3 == 0 else now + timedelta(days=7),
            )
            for n in range(20_000)
        ),
        batch_size=5000,
    )
    with connections["postgres"].cursor() as cursor:
        cursor.execute("VACUUM ANALYZE mailrail_invitations_invitation")
