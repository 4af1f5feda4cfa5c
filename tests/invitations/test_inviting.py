"""Inviting from Python: what is saved and sent, what is refused and why, and what becomes of links."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.dispatch import Signal
from django.test import Client
from django.utils import timezone

from mailrail import Channel
from mailrail.invitations import (
    InvitationClosed,
    RecipientRefused,
    SenderRefused,
    get_invitation_model,
    invitation_accepted,
    invitation_revoked,
    invitation_sent,
    invite,
    invite_many,
    resend,
    revoke,
)
from mailrail.invitations.consumers import compose, unsent
from mailrail.invitations.models import Invitation, InvitationStatus
from mailrail.mail.models import Suppression
from mailrail.moments import as_django
from mailrail.testing import drain, sent
from tests.project.models import TeamInvitation

DAY = 86400.0


def contents() -> list[dict[str, Any]]:
    return [message.content for message in sent("send-invite")]


@pytest.fixture
def heard() -> Any:
    """What the signals said, by their names."""
    calls: list[tuple[str, dict[str, Any]]] = []
    signals = {"sent": invitation_sent, "accepted": invitation_accepted, "revoked": invitation_revoked}
    receivers = []
    for name, signal in signals.items():

        def receive(sender: Any, signal: Signal, name: str = name, **said: Any) -> None:
            calls.append((name, {"sender": sender, **said}))

        signal.connect(receive)
        receivers.append((signal, receive))
    yield calls
    for signal, receive in receivers:
        signal.disconnect(receive)


def test_an_invitation_is_saved_and_its_id_is_sent(sender: User) -> None:
    invitation = invite(
        " Guest@EXAMPLE.com", sender, role="editor", payload={"project": 7}, message="Come and see."
    )
    invitation.refresh_from_db()
    assert (invitation.email, invitation.role, invitation.payload) == (
        "Guest@example.com",
        "editor",
        {"project": 7},
    )
    assert contents() == [{"id": invitation.pk}]
    drain()
    [email] = mail.outbox
    assert email.to == ["Guest@example.com"]
    assert "\nsender writes:\n\nCome and see.\n" in email.body
    assert f"/invites/accept/{invitation.key}/" in email.body
    assert "The link is good until" in email.body


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "Nov. 29, 2026, 3:52 p.m. (UTC)"), ("America/Chicago", "Nov. 29, 2026, 9:52 a.m. (CST)")],
)
def test_an_email_says_in_which_zone_its_time_is(
    sender: User, settings: LazySettings, zone: str, shown: str
) -> None:
    settings.TIME_ZONE = zone
    invitation = invite("guest@example.com", sender)
    invitation.expires_at = as_django(datetime(2026, 11, 29, 15, 52, tzinfo=UTC))
    email = compose(invitation)
    for body in (email.body, email.alternatives[0][0]):
        assert f"The link is good until {shown}." in str(body)


def test_it_expires_after_seven_days_or_as_said(sender: User, with_settings: Any) -> None:
    now = timezone.now()
    later = now + timedelta(days=400)
    assert abs(invite("a@example.com", sender).expires_at - now - timedelta(days=7)) < timedelta(minutes=1)
    assert abs(invite("b@example.com", sender, expires=60).expires_at - now) < timedelta(minutes=2)
    assert invite("c@example.com", sender, expires=later).expires_at == later
    with_settings(INVITATION_LIFETIME=None)
    assert invite("d@example.com", sender).expires_at is None
    assert Invitation.objects.create(email="e@example.com", sender=sender).expires_at is None


@pytest.mark.parametrize(
    ("expires", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), ("7 days", TypeError), (float("nan"), ValueError)],
)
def test_an_expiry_that_cannot_be_is_refused_by_name(sender: User, expires: Any, error: Any) -> None:
    with pytest.raises(error, match="expires must be"):
        invite("guest@example.com", sender, expires=expires)
    assert not Invitation.objects.exists()


@pytest.mark.parametrize(
    ("email", "options", "field"),
    [
        ("guest", {}, "email"),
        ("guest@example.com", {"role": "x" * 101}, "role"),
        ("guest@example.com", {"payload": {"what": object()}}, "payload"),
    ],
)
def test_what_cannot_be_saved_is_named(sender: User, email: str, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        invite(email, sender, **options)
    assert list(caught.value.message_dict) == [field]
    assert contents() == []


@pytest.mark.django_db(transaction=True)
def test_a_rollback_takes_back_the_invitation_its_message_and_what_it_used_of_the_quota(
    sender: User, with_settings: Any
) -> None:
    with_settings(INVITATIONS_PER_SENDER=1)
    with transaction.atomic():
        invite("guest@example.com", sender)
        transaction.set_rollback(True)
    assert contents() == [] and not Invitation.objects.exists()
    invite("guest@example.com", sender)


def test_many_are_invited_in_order_each_once_all_or_none(sender: User) -> None:
    invitations = invite_many(["b@example.com", "a@example.com", "B@EXAMPLE.com"], sender, role="reader")
    assert [(invitation.email, invitation.role) for invitation in invitations] == [
        ("b@example.com", "reader"),
        ("a@example.com", "reader"),
    ]
    assert sorted(content["id"] for content in contents()) == sorted(
        invitation.pk for invitation in invitations
    )
    assert invite_many([], sender) == []
    with pytest.raises(ValidationError) as caught:
        invite_many(["c@example.com", "bad", "worse"], sender)
    assert [text.partition(":")[0] for text in caught.value.messages] == ["'bad'", "'worse'"]
    assert Invitation.objects.count() == 2


def test_a_sender_has_a_quota_of_24_hours(sender: User, with_settings: Any) -> None:
    with_settings(INVITATIONS_PER_SENDER=3)
    invite_many(["a@example.com", "b@example.com"], sender)
    with pytest.raises(SenderRefused, match="You can send 3 invitations within 24 hours; 1 are left"):
        invite_many(["c@example.com", "d@example.com"], sender)
    invite("c@example.com", sender)
    with pytest.raises(SenderRefused, match="0 are left"):
        invite("d@example.com", sender)
    invite("d@example.com", User.objects.create_user("other"))
    Invitation.objects.update(queued_at=timezone.now() - timedelta(hours=24))
    invite("e@example.com", sender)


def test_the_site_has_a_quota_of_all_senders_together(sender: User, with_settings: Any) -> None:
    with_settings(INVITATIONS_PER_DAY=1)
    invite("a@example.com", User.objects.create_user("other"))
    with pytest.raises(SenderRefused, match="This site sends 1 invitations within 24 hours"):
        invite("b@example.com", sender)


def test_a_recipient_gets_so_many_from_all_senders_in_whatever_spelling(
    sender: User, with_settings: Any
) -> None:
    with_settings(INVITATIONS_PER_RECIPIENT=2)
    invite("guest@bücher.example", sender)
    invite("GUEST@xn--bcher-kva.example", User.objects.create_user("other"))
    with pytest.raises(RecipientRefused, match="guest@Bücher.example".lower()) as caught:
        invite_many(["free@example.com", "guest@Bücher.example"], sender)
    assert caught.value.addresses == ["guest@bücher.example"]
    Invitation.objects.update(queued_at=timezone.now() - timedelta(hours=24))
    invite("guest@bücher.example", sender)


def test_who_gets_no_email_is_not_invited(sender: User) -> None:
    Suppression.objects.create(address="guest@xn--bcher-kva.example", reason="complaint")
    with pytest.raises(RecipientRefused, match="gets no email from this site"):
        invite("Guest@bücher.example", sender)


@pytest.mark.django_db(transaction=True, databases=["postgres", "default"])
def test_two_transactions_of_one_sender_never_exceed_the_quota_together(
    elsewhere: Any, with_settings: Any, settings: LazySettings
) -> None:
    """On PostgreSQL: the second waits until it can count what the first one added."""
    settings.DATABASE_ROUTERS = ["tests.routers.InvitationsOnPostgres"]
    with_settings(LAYER="postgres", INVITATIONS_PER_SENDER=1)
    settings.CHANNEL_LAYERS = {
        "postgres": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    }
    sender = User.objects.using("postgres").create(username="sender")

    with transaction.atomic("postgres"):
        invite("a@example.com", sender)
        second: Future[Any] = elsewhere.submit(invite, "b@example.com", sender)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
    with pytest.raises(SenderRefused):
        second.result(timeout=30)
    assert Invitation.objects.using("postgres").count() == 1


def nobody(sender: Any, invitation: Any) -> bool:
    return bool(invitation.role == "reader")


def test_the_project_decides_who_may_invite(sender: User, with_settings: Any) -> None:
    with_settings(INVITATION_MAY_INVITE=f"{__name__}.nobody")
    invite("guest@example.com", sender, role="reader")
    for act in (
        lambda: invite("guest@example.com", sender, role="owner"),
        lambda: invite_many(["guest@example.com"], sender, role="owner"),
    ):
        with pytest.raises(SenderRefused, match="You may not send this invitation"):
            act()


def test_a_sender_who_cannot_log_in_may_not_invite(sender: User) -> None:
    sender.is_active = False
    with pytest.raises(SenderRefused):
        invite("guest@example.com", sender)


def test_sending_again_rotates_the_link(sender: User) -> None:
    invitation = invite("guest@example.com", sender, message="Hello")
    drain()
    old = invitation.key
    Invitation.objects.update(expires_at=timezone.now())
    invitation = Invitation.objects.get()
    resend(invitation)
    assert invitation.status is InvitationStatus.WAITING and invitation.key != old
    assert contents() == [{"id": invitation.pk, "generation": 2}]
    drain()
    first, second = (email.body for email in mail.outbox)
    assert old in first and invitation.key in second and old not in second
    assert Invitation.objects.get().status is InvitationStatus.SENT
    assert Invitation.objects.get_by_key(invitation.key) == invitation
    with pytest.raises(Invitation.DoesNotExist):
        Invitation.objects.get_by_key(old)
    assert Invitation.objects.was_key(old)
    assert not Invitation.objects.was_key(invitation.key)
    assert not Invitation.objects.was_key(invitation.public_id + "A" * 32)


@pytest.fixture
def behind(sender: User, settings: LazySettings) -> Any:
    """A replica that has an invitation, and hears of nothing that becomes of it."""
    invitation = invite("guest@example.com", sender)
    sender.save(using="postgres", force_insert=True)
    Invitation.objects.get().save(using="postgres", force_insert=True)
    settings.DATABASE_ROUTERS = ["tests.routers.ReadsOnPostgres"]
    before = Invitation.objects.using("postgres").values().get()
    yield invitation
    assert Invitation.objects.using("postgres").values().get() == before


@pytest.mark.django_db(databases=["default", "postgres"])
def test_what_a_replica_has_is_changed_where_it_is_written(behind: Invitation, sender: User) -> None:
    invitation = Invitation.objects.get()
    assert invitation._state.db == "postgres"
    resend(invitation)
    assert invitation.generation == 2 and invitation.key != behind.key
    assert not Invitation.objects.get().accept(sender)  # by the first link
    assert revoke(Invitation.objects.get())
    assert not revoke(Invitation.objects.get())
    assert Invitation.objects.using("default").get().status is InvitationStatus.REVOKED


@pytest.mark.django_db(databases=["default", "postgres"])
def test_a_replica_that_is_behind_is_not_believed_about_links(
    behind: Invitation, client: Client, with_settings: Any
) -> None:
    with_settings(INVITATION_ACCEPT="link")
    assert client.post(behind.accept_path(), follow=True).status_code == 200
    assert client.get(behind.accept_path()).status_code == 200
    assert Client().get(behind.accept_path()).status_code == 410
    Invitation.objects.using("default").update(accepted_at=None, generation=2)
    assert client.get(behind.accept_path()).status_code == 410


def test_sent_again_before_it_was_mailed_one_email_goes_out_with_the_new_link(sender: User) -> None:
    invitation = invite("guest@example.com", sender)
    resend(invitation)
    ran = drain(raise_errors=False)
    assert [run.outcome for run in ran] == ["discarded", "finished"]
    [email] = mail.outbox
    assert invitation.key in email.body


def test_sent_again_while_it_is_mailed_both_emails_go_out_and_the_second_counts(
    sender: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation = invite("guest@example.com", sender)
    send = mail.EmailMessage.send

    def overtaken(self: mail.EmailMessage) -> int:
        if Invitation.objects.get().generation == 1:
            resend(Invitation.objects.get())
        return send(self)

    monkeypatch.setattr(mail.EmailMessage, "send", overtaken)
    drain()
    assert len(mail.outbox) == 2
    invitation.refresh_from_db()
    assert invitation.generation == 2 and invitation.sent
    assert invitation.key in mail.outbox[1].body


def test_sending_again_counts_for_the_quotas(sender: User, with_settings: Any) -> None:
    with_settings(INVITATIONS_PER_RECIPIENT=2)
    invitation = invite("guest@example.com", sender)
    resend(invitation)
    with pytest.raises(RecipientRefused):
        resend(invitation)
    assert invitation.generation == 2
    Invitation.objects.update(queued_at=timezone.now() - timedelta(hours=25))
    resend(invitation)
    assert (invitation.generation, invitation.mails) == (3, 1)


def test_what_was_accepted_or_revoked_is_not_sent_again(sender: User) -> None:
    invitation = invite("guest@example.com", sender)
    assert revoke(invitation) is True
    assert revoke(invitation) is False
    with pytest.raises(InvitationClosed, match=r"guest@example\.com was revoked\. Invite again instead"):
        resend(invitation)
    other = invite("guest@example.com", sender)
    assert other.accept(sender)
    for act in (resend, revoke):
        with pytest.raises(InvitationClosed, match="was accepted already"):
            act(other)
    assert other.accepted_by == sender


def test_the_message_of_a_revoked_invitation_mails_nothing(sender: User) -> None:
    revoke(invite("guest@example.com", sender))
    [ran] = drain(raise_errors=False)
    assert ran.outcome == "discarded" and ran.error.endswith("is revoked")
    assert mail.outbox == []


def test_what_is_revoked_or_expired_cannot_be_accepted(sender: User) -> None:
    revoked, expired = invite("a@example.com", sender), invite("b@example.com", sender)
    revoke(Invitation.objects.get(pk=revoked.pk))
    Invitation.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    assert revoked.accept() is expired.accept() is False
    assert [revoked.status, expired.status] == [InvitationStatus.REVOKED, InvitationStatus.EXPIRED]


def test_a_link_from_before_it_was_sent_again_accepts_nothing(sender: User) -> None:
    before = invite("guest@example.com", sender)
    resend(Invitation.objects.get())
    assert before.accept() is False
    assert Invitation.objects.get().accepted_at is None


def test_signals_tell_what_happened_each_once(sender: User, heard: list[Any]) -> None:
    accepted, revoked = invite("a@example.com", sender), invite("b@example.com", sender)
    drain()
    accepted.accept(sender), accepted.accept(sender)
    revoke(revoked), revoke(revoked)
    assert [(name, said["invitation"]) for name, said in heard] == [
        ("sent", accepted),
        ("sent", revoked),
        ("accepted", accepted),
        ("revoked", revoked),
    ]
    assert heard[2][1] == {"sender": Invitation, "invitation": accepted, "user": sender}
    assert all(said["invitation"].sent for name, said in heard[:2])


def test_a_receiver_that_fails_takes_the_acceptance_back(sender: User) -> None:
    invitation = invite("guest@example.com", sender)

    def fail(**said: Any) -> None:
        raise RuntimeError("the team is full")

    invitation_accepted.connect(fail)
    try:
        with pytest.raises(RuntimeError, match="the team is full"):
            invitation.accept(sender)
    finally:
        invitation_accepted.disconnect(fail)
    assert Invitation.objects.get().accepted_at is None


def test_invitations_are_found_by_their_status(sender: User) -> None:
    times: dict[str, dict[str, Any]] = {
        "waiting": {},
        "sent": {"sent": timezone.now()},
        "accepted": {"accepted_at": timezone.now(), "expires_at": timezone.now()},
        "revoked": {"revoked_at": timezone.now()},
        "expired": {"expires_at": timezone.now()},
    }
    for status, values in times.items():
        row = Invitation.objects.create(email=f"{status}@example.com", sender=sender)
        Invitation.objects.filter(pk=row.pk).update(**values)
    for status in InvitationStatus:
        [invitation] = Invitation.objects.with_status(status)
        assert invitation.email == f"{status.value}@example.com"
        assert invitation.status is status


def test_reconciliation_looks_only_for_what_should_be_mailed(sender: User) -> None:
    waiting, revoked, again = (invite(f"{name}@example.com", sender) for name in "abc")
    revoke(revoked)
    resend(again)
    found = unsent(timezone.now())
    assert {it.pk for it in found} == {waiting.pk, again.pk}


def test_a_project_may_have_a_model_of_its_own(sender: User, with_settings: Any) -> None:
    with_settings(INVITATION_MODEL="project.TeamInvitation")
    assert get_invitation_model() is TeamInvitation
    invitation = invite("guest@example.com", sender, team="blue")
    assert isinstance(invitation, TeamInvitation) and not Invitation.objects.exists()
    drain()
    [email] = mail.outbox
    assert invitation.key in email.body
    assert TeamInvitation.objects.get().status is InvitationStatus.SENT


def test_the_pages_use_the_projects_model(browser: Client, with_settings: Any) -> None:
    with_settings(INVITATION_MODEL="project.TeamInvitation")
    assert browser.post("/invites/new/", {"email": "guest@example.com"}).status_code == 302
    invitation = TeamInvitation.objects.get()
    assert contents() == [{"id": invitation.pk}] and not Invitation.objects.exists()
    assert "guest@example.com" in browser.get("/invites/").text
    assert Client().get(invitation.accept_path()).status_code == 200


@pytest.mark.parametrize("name", ["nowhere.Invitation", "auth.User", "Invitation", ""])
def test_a_model_that_cannot_be_is_named_with_its_setting(with_settings: Any, name: str) -> None:
    with_settings(INVITATION_MODEL=name)
    with pytest.raises(ImproperlyConfigured, match=r"MAILRAIL\['INVITATION_MODEL'\] is '.*', which is no"):
        get_invitation_model()


def test_a_message_without_a_generation_is_of_the_first(sender: User) -> None:
    invitation = invite("guest@example.com", sender)
    resend(invitation)
    drain()
    Channel("send-invite").send({"id": invitation.pk})
    assert [run.outcome for run in drain(raise_errors=False)] == ["discarded"]
    assert len(mail.outbox) == 1


@pytest.mark.parametrize("address", ["guest@localhost", "guest@[127.0.0.1]", "guest@db.internal"])
def test_nobody_at_a_local_network_is_invited_from_anywhere(
    address: str, sender: User, browser: Client, admin_client: Client
) -> None:
    """By code, by either form, as a file, or in the admin."""
    with pytest.raises(ValidationError, match="local network"):
        invite(address, sender)
    with pytest.raises(ValidationError, match="local network"):
        invite_many(["good@example.com", address], sender)
    assert "local network" in browser.post("/invites/new/", {"email": address}).text
    file = SimpleUploadedFile("list.csv", f"email\n{address}\n".encode())
    for pasted in ({"addresses": address}, {"file": file}):
        page = browser.post("/invites/bulk/", pasted, follow=True).text
        assert "0 addresses will be invited." in page and "local network" in page
    page = admin_client.post("/admin/mailrail_invitations/invitation/add/", {"email": address}).text
    assert "local network" in page
    assert not Invitation.objects.exists() and sent("send-invite") == []
