"""The consumer: one email per invitation, however often its message comes."""

from __future__ import annotations

from pathlib import Path

import django
import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import mail
from django.core.mail import EmailMessage
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from mailrail import Channel, Discard
from mailrail import mail as mail_errors
from mailrail.invitations import consumers
from mailrail.invitations.consumers import compose, send_invite
from mailrail.invitations.forms import InvitationForm
from mailrail.invitations.models import Invitation
from mailrail.invitations.signals import invitation_sent
from mailrail.layers import get_layer
from mailrail.mail.models import Email
from mailrail.testing import drain, sent
from mailrail.worker import IncomingMessage


def send(invitation: Invitation) -> None:
    Channel("send-invite").send({"id": invitation.pk})


@pytest.fixture
def queueing(settings: LazySettings) -> None:
    """Email is queued, and delivered to Django's outbox."""
    queues, delivers = "mailrail.mail.backend.EmailBackend", "django.core.mail.backends.locmem.EmailBackend"
    if django.VERSION >= (6, 1):
        out = {"BACKEND": delivers}
        settings.MAILERS = {"default": {"BACKEND": queues, "OPTIONS": {"deliver_with": "out"}}, "out": out}
    else:
        settings.EMAIL_BACKEND = queues
        settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": delivers}


@pytest.fixture
def claimed(sender: User) -> list[IncomingMessage]:
    """The messages of four invitations, on their way."""
    for n in range(4):
        send(Invitation.objects.create(email=f"guest{n}@example.com", sender=sender))
    claims = get_layer().claim("w", {"send-invite": 10}, 15.0).claims
    return [IncomingMessage(claim) for claim in claims]


def kinds(messages: list[IncomingMessage]) -> list[str | None]:
    return [str(message.outcome.kind) if message.outcome else None for message in messages]


def test_a_batch_is_queued_and_marked_in_one_transaction(
    queueing: None, claimed: list[IncomingMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("mailrail.invitations.consumers._mark", broken_disk)
        with pytest.raises(OperationalError, match="disk"):
            send_invite(claimed)
    assert not Email.objects.exists() and not Invitation.objects.exclude(sent=None).exists()
    assert kinds(claimed) == [None, "released", "released", "released"]  # one by one, until the first error
    tell = lambda invitation, **kwargs: told.append(invitation.email)  # noqa: E731
    invitation_sent.connect(tell)
    send_invite(claimed)
    invitation_sent.disconnect(tell)
    assert sorted(told) == [f"guest{n}@example.com" for n in range(4)]
    assert Email.objects.count() == 4 and not Invitation.objects.filter(sent=None).exists()
    send_invite(claimed)
    assert Email.objects.count() == 4


def broken_disk(*args: object) -> None:
    raise OperationalError("disk is full")


def test_one_that_cannot_be_mailed_keeps_no_other_from_being_mailed(
    queueing: None, claimed: list[IncomingMessage], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Invitation.objects.get(pk=claimed[1].content["id"])
    Invitation.objects.filter(pk=second.pk).update(email="no address")
    with pytest.raises(mail_errors.CannotQueue, match="no address"):
        send_invite(claimed)
    assert kinds(claimed) == ["finished", None, "released", "released"]
    assert Email.objects.count() == Invitation.objects.exclude(sent=None).count() == 1
    again = [claimed[0], *claimed[2:]]
    send_invite(again)
    assert Email.objects.count() == Invitation.objects.exclude(sent=None).count() == 3


def test_of_a_batch_those_that_are_not_to_be_mailed_are_discarded(
    queueing: None, claimed: list[IncomingMessage]
) -> None:
    gone, revoked = (message.content["id"] for message in claimed[:2])
    Invitation.objects.filter(pk=gone).delete()
    Invitation.objects.filter(pk=revoked).update(generation=2)
    with pytest.raises(Discard, match=f"{gone} no longer exists; invitation {revoked} was sent again"):
        send_invite(claimed)
    assert kinds(claimed) == [None, None, "finished", "finished"]
    assert Email.objects.count() == 2


def test_invitations_come_in_batches_where_one_transaction_stores_all_of_it(
    queueing: None, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert consumers._batch_size() == consumers.BATCH_SIZE
    redis = {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}}
    settings.CHANNEL_LAYERS = {"default": redis}
    assert consumers._batch_size() is None
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    assert consumers._batch_size() is None


def test_invitations_that_are_not_queued_are_mailed_one_at_a_time() -> None:
    assert consumers._batch_size() is None


def test_the_form_leads_to_an_email_with_the_link(sender: User) -> None:
    form = InvitationForm({"email": "guest@example.com"})
    form.instance.sender = sender
    invitation = form.save()
    drain()
    [email] = mail.outbox
    assert email.to == ["guest@example.com"]
    assert email.from_email == "Invites <invites@example.com>"
    assert email.subject == "You have been invited!"
    assert "sender has invited you" in email.body
    assert f"\nhttps://testserver.example/invites/accept/{invitation.key}/\n" in email.body
    invitation.refresh_from_db()
    assert invitation.sent is not None


def test_a_message_that_comes_twice_sends_one_email(invitation: Invitation) -> None:
    send(invitation)
    send(invitation)
    drain()
    assert len(mail.outbox) == 1


def test_the_time_of_sending_is_not_changed_by_a_second_message(invitation: Invitation) -> None:
    send(invitation)
    drain()
    before = Invitation.objects.get().sent
    send(invitation)
    drain()
    assert Invitation.objects.get().sent == before


def test_of_two_runs_at_once_the_first_to_be_done_sets_the_time(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that lost its lease may still be mailing when another one has done so."""
    first_done = timezone.now()

    def overtaken(self: EmailMessage) -> int:
        Invitation.objects.update(sent=first_done)
        return 1

    monkeypatch.setattr(EmailMessage, "send", overtaken)
    send(invitation)
    drain()
    assert Invitation.objects.get().sent == first_done


def test_the_message_of_a_deleted_invitation_is_discarded(invitation: Invitation) -> None:
    send(invitation)
    invitation.delete()
    [ran] = drain(raise_errors=False)
    assert ran.outcome == "discarded"
    assert "no longer exists" in ran.error
    assert mail.outbox == []
    assert sent("send-invite") == []


def test_an_email_that_cannot_be_sent_is_tried_again(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: EmailMessage, *args: object, **kwargs: object) -> int:
        raise ConnectionRefusedError("no mail server")

    with monkeypatch.context() as patch:
        patch.setattr(EmailMessage, "send", refuse)
        send(invitation)
        [ran] = drain(raise_errors=False)
    assert ran.outcome == "retried"
    assert Invitation.objects.get().sent is None
    assert len(sent("send-invite")) == 1


@pytest.mark.parametrize("name", ['<b>&amp;</b> "O\'Neil"', "{{ accept_url }}", "{% load x %}"])
def test_names_are_put_into_the_text_as_they_are(invitation: Invitation, name: str) -> None:
    invitation.sender.username = name
    assert f"{name} has invited you" in compose(invitation).body


@pytest.mark.parametrize(
    ("first", "last", "shown"),
    [
        ("Ada", "Lovelace", "Ada Lovelace"),
        ("", "", "sender"),
        (" ", "\n", "sender"),
        ("Ada\n\nPay here:", "", "Ada Pay here:"),
    ],
)
def test_the_sender_is_named_by_the_full_name_on_one_line_or_else_by_the_username(
    invitation: Invitation, client: Client, first: str, last: str, shown: str
) -> None:
    invitation.sender.first_name, invitation.sender.last_name = first, last
    invitation.sender.save()
    email = compose(invitation)
    [(html, _)] = email.alternatives
    assert email.body.startswith(f"{shown} has invited you.") and f"<p>{shown} has invited you." in str(html)
    page = client.get(invitation.accept_path()).content.decode()
    assert f"{shown} has invited guest@example.com." in page


def test_a_user_model_without_full_names_will_do(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(invitation.sender).__mro__[1], "get_full_name")  # as AbstractBaseUser has none
    assert compose(invitation).body.startswith("sender has invited you.")


def test_the_subject_is_one_line_whatever_the_template_holds(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailrail.invitations.consumers.render_to_string", lambda *args: "one\r\nBcc: two\n")
    assert compose(invitation).subject == "one Bcc: two"


def test_the_email_has_an_html_part_in_which_nothing_is_taken_for_markup(invitation: Invitation) -> None:
    invitation.sender.username, invitation.message = "<b>Ada</b>", "Come & see\n<script>"
    [(html, kind)] = compose(invitation).alternatives
    assert kind == "text/html"
    html = str(html)
    assert "&lt;b&gt;Ada&lt;/b&gt; has invited you." in html
    assert "Come &amp; see<br>&lt;script&gt;" in html
    assert f'href="https://testserver.example/invites/accept/{invitation.key}/"' in html


def test_a_project_with_an_empty_html_template_sends_text_alone(
    invitation: Invitation, settings: LazySettings, tmp_path: Path
) -> None:
    (tmp_path / "mailrail_invitations/email").mkdir(parents=True)
    (tmp_path / "mailrail_invitations/email/body.html").write_text("\n")
    (tmp_path / "mailrail_invitations/email/body.txt").write_text("Ours: {{ accept_url }}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    email = compose(invitation)
    assert email.body == f"Ours: {invitation.accept_url()}"
    assert email.alternatives == []
