"""A sender that the server refuses holds up its own mail, and nobody else's."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as djangos
from django.core.management import call_command
from django.test import Client

from mailrail import mail
from mailrail.mail import Email, Status, queue, queue_many
from mailrail.mail.delivery.record import SENDER_REFUSED
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState, RefusedSender
from mailrail.mail.smtp import close_pools
from mailrail.testing import advance

from ..smtp_server import ScriptedServer
from ..visible import texts
from .conftest import MAILER, SMTP, work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]
BAD, GOOD = "shop@example.com", "Service <service@example.com>"
NO = "550 5.7.1 not your address"


class AsItIs(djangos.EmailBackend):
    """Django's SMTP backend, called as it is: our client delivers for no other class than Django's own."""


@pytest.fixture(
    params=[pytest.param(SMTP, id="our client"), pytest.param(f"{__name__}.AsItIs", id="Django's")]
)
def backend(request: pytest.FixtureRequest) -> str:
    path: str = request.param
    return path


@pytest.fixture
def refusing(queueing: Configure, backend: str) -> Iterator[Callable[..., ScriptedServer]]:
    """``refusing("shop@example.com", reply=…)``: a server that lets these senders send nothing."""
    servers: list[ScriptedServer] = []

    def start(*senders: str, reply: str = NO) -> ScriptedServer:
        server = ScriptedServer(refused_senders=dict.fromkeys(senders, reply)).__enter__()
        servers.append(server)
        queueing(server.port, backend)
        return server

    yield start
    close_pools()
    for server in servers:
        server.__exit__()


def message(sender: str, subject: str = "Hello") -> EmailMessage:
    return EmailMessage(subject, "A body.\n", sender, ["you@example.com"])


def mails(sender: str, count: int = 1) -> list[Email]:
    return queue_many(message(sender, f"Number {n}") for n in range(count))


def statuses(sender: str) -> set[str]:
    return set(Email.objects.filter(sender=sender).values_list("status", flat=True))


@pytest.mark.parametrize("reply", [NO, "553 5.7.1 not owned by user", "554 rejected"])
def test_mail_of_a_refused_sender_is_held_with_the_reason_and_others_mail_goes_on(
    refusing: Callable[..., ScriptedServer], reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = refusing(BAD, reply=reply)
    mails(BAD, 30)
    mails(GOOD, 30)
    with caplog.at_level(logging.WARNING, "mailrail.mail"):
        work()
    assert statuses(BAD) == {Status.HELD} and statuses(GOOD) == {Status.SENT}
    assert {mail.sender for mail in server.mails} == {"service@example.com"}
    assert set(Email.objects.filter(sender=BAD).values_list("attempts", flat=True)) == {0}
    [row] = RefusedSender.objects.all()
    assert (row.mailer, row.sender, row.reason) == (alias_of(MAILER), BAD, reply)
    last = {email.events[-1]["what"] for email in Email.objects.filter(sender=BAD)}
    assert last == {SENDER_REFUSED}
    assert not MailerState.objects.exists()
    log_lines = [record.getMessage() for record in caplog.records if record.name == "mailrail.mail"]
    assert len(log_lines) == 1 and f"refuses the sender {BAD}" in log_lines[0] and reply in log_lines[0]


def test_what_comes_later_from_a_refused_sender_is_held_untried(
    refusing: Callable[..., ScriptedServer],
) -> None:
    server = refusing(BAD)
    mails(BAD)
    work()
    asked = server.count("MAIL")
    [email] = mails(BAD)
    work()
    email.refresh_from_db()
    assert (email.status, server.count("MAIL")) == (Status.HELD, asked)
    assert NO in email.events[-1]["why"] and email.events[-1].get("mailer", "") == alias_of(MAILER)


@pytest.mark.parametrize("reply", ["501 5.1.7 bad syntax", "552 5.3.4 too big", "555 what?"])
def test_what_is_about_the_email_fails_it(refusing: Callable[..., ScriptedServer], reply: str) -> None:
    refusing(BAD, reply=reply)
    mails(BAD)
    work()
    assert statuses(BAD) == {Status.FAILED} and not RefusedSender.objects.exists()


def test_a_refused_default_sender_puts_the_mailer_out_and_all_mail_waits(
    refusing: Callable[..., ScriptedServer], settings: Any
) -> None:
    """One wrong setting: no email fails, and none needs a person once it is mended."""
    settings.DEFAULT_FROM_EMAIL = f"The shop <{BAD}>"
    refusing(BAD)
    mails(BAD, 40)
    work()
    assert statuses(BAD) == {Status.QUEUED} and not RefusedSender.objects.exists()
    state = MailerState.objects.get()
    assert state.paused_by == "outage" and "refuses the default sender" in state.reason and NO in state.reason
    mended = refusing()
    mail.resume(MAILER)
    advance(600)
    work()
    assert len(mended.mails) == 40 and statuses(BAD) == {Status.SENT}


def test_three_refused_senders_in_a_row_put_the_mailer_out(refusing: Callable[..., ScriptedServer]) -> None:
    senders = [f"{name}@example.com" for name in ("a", "b", "c", "d")]
    refusing(*senders)
    for sender in senders[:3]:
        mails(sender)
        work()
    assert [statuses(sender) for sender in senders[:3]] == [{Status.HELD}, {Status.HELD}, {Status.QUEUED}]
    assert "one sender after the other, c@example.com the last" in MailerState.objects.get().reason
    assert {row.sender for row in RefusedSender.objects.all()} == set(senders[:2])
    mails("d@example.com")
    work()
    assert statuses("d@example.com") == {Status.QUEUED}


def test_a_sender_that_is_let_through_in_between_makes_it_no_row(
    refusing: Callable[..., ScriptedServer],
) -> None:
    senders = [f"{name}@example.com" for name in ("a", "b", "c", "d")]
    refusing(*senders)
    for sender in [*senders[:2], GOOD, *senders[2:]]:
        mails(sender)
        work()
    assert {statuses(sender).pop() for sender in senders} == {Status.HELD}
    assert not MailerState.objects.exists() and RefusedSender.objects.count() == 4


def test_allowing_a_sender_unholds_what_was_held_for_it_and_nothing_else(
    refusing: Callable[..., ScriptedServer],
) -> None:
    refusing(BAD, "other@example.com")
    mails(BAD, 3)
    mails("other@example.com")
    work()
    [kept] = mails(BAD)
    mail.hold(kept)
    mended = refusing()
    assert mail.allow_sender(MAILER, f"Shop <{BAD.upper()}>") == 3
    work()
    assert len(mended.mails) == 3
    assert set(Email.objects.filter(status=Status.HELD).values_list("sender", flat=True)) == {
        BAD,
        "other@example.com",
    }
    assert [row.sender for row in RefusedSender.objects.all()] == ["other@example.com"]


def test_a_sender_that_is_let_go_too_early_is_held_again(refusing: Callable[..., ScriptedServer]) -> None:
    refusing(BAD)
    mails(BAD, 2)
    work()
    assert mail.allow_sender(MAILER, BAD) == 2
    work()
    assert statuses(BAD) == {Status.HELD} and RefusedSender.objects.count() == 1


def test_one_email_that_a_person_unholds_is_tried_and_finds_out(
    refusing: Callable[..., ScriptedServer],
) -> None:
    server = refusing(BAD)
    first, _second = mails(BAD, 2)
    work()
    asked = server.count("MAIL")
    mail.unhold(first)
    work()
    assert server.count("MAIL") == asked + 1 and statuses(BAD) == {Status.HELD}
    mended = refusing()
    mail.unhold(first)
    work()
    assert len(mended.mails) == 1 and not RefusedSender.objects.exists()
    mails(BAD)
    work()
    assert len(mended.mails) == 2


def test_a_stand_in_that_refuses_the_sender_holds_nothing(
    refusing: Callable[..., ScriptedServer], queueing: Configure, policy: Configure, second: Configure
) -> None:
    """The email belongs to a mailer that may take it: it waits for that one."""
    with ScriptedServer() as away:
        pass
    backup = refusing(BAD)
    queueing(away.port)
    policy(FAILOVER=["backup"])
    second("backup", backup.port)
    mails(BAD)
    mails(GOOD)
    work()
    assert statuses(BAD) == {Status.QUEUED} and statuses(GOOD) == {Status.SENT}
    asked = backup.count("MAIL")
    advance(10)
    work()
    assert backup.count("MAIL") == asked and statuses(BAD) == {Status.QUEUED}
    assert RefusedSender.objects.get().mailer == "backup"


def told(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def refused(queueing: Configure) -> Email:
    """Held, with a reason that would steer a terminal."""
    with ScriptedServer(refused_senders={BAD: f"{NO} \x1b[2J"}) as server:
        queueing(server.port)
        [email] = mails(BAD)
        work()
    email.refresh_from_db()
    return email


def test_commands_tell_and_let_go(refused: Email) -> None:
    assert f"holds mail from {BAD} ({NO}" in told("mailers")
    text = told("mailq")
    assert f"holds mail from {BAD} since" in text and f"manage.py mailers allow {MAILER} '{BAD}'" in text
    assert "\x1b" not in text + told("mailers")
    [row] = json.loads(told("mailq", "--json"))["refused_senders"]
    assert (row["mailer"], row["sender"]) == (alias_of(MAILER), BAD)
    assert told("mailers", "allow", MAILER, BAD) == f"1 held email taken off hold.\n{MAILER}: works\n"
    refused.refresh_from_db()
    assert refused.status == Status.QUEUED


MAILERS = "/admin/mailrail_mail/mailerstate/"


def test_the_admin_tells_and_lets_go(refused: Email, admin_client: Client) -> None:
    assert BAD in (text := admin_client.get(MAILERS).text) and NO in text and "Allow sender" in text
    row = RefusedSender.objects.get()
    response = admin_client.post(MAILERS + "allow/", {"id": row.pk}, follow=True)
    assert f"1 held email from {BAD} is sent now." in response.text
    refused.refresh_from_db()
    assert refused.status == Status.QUEUED and not RefusedSender.objects.exists()
    assert BAD in LogEntry.objects.get().change_message
    assert admin_client.post(MAILERS + "allow/", {"id": row.pk}).status_code == 404
    assert admin_client.get(MAILERS + "allow/").status_code == 405


def test_letting_go_needs_the_permission_to_unhold(refused: Email, client: Client) -> None:
    user = User.objects.create_user("colleague", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=("view_mailerstate", "pause_mailerstate"))
    )
    client.force_login(user)
    assert BAD in (text := client.get(MAILERS).text) and "Allow sender" not in text
    assert client.post(MAILERS + "allow/", {"id": RefusedSender.objects.get().pk}).status_code == 403
    assert RefusedSender.objects.exists()


def test_the_page_of_the_email_says_why_it_is_held(refused: Email, admin_client: Client) -> None:
    page = admin_client.get(f"/admin/mailrail_mail/email/{refused.pk}/change/").text
    text = " ".join(" ".join(texts(page)).split())
    assert "held: the server refuses its sender" in text and NO in text


def test_an_erased_sender_is_forgotten(refused: Email) -> None:
    mail.cancel(refused)
    told("prunemail", "--address", BAD)
    assert not RefusedSender.objects.exists()


def test_it_works_where_the_records_are(queueing: Configure, on: str) -> None:
    with ScriptedServer(refused_senders={BAD: NO}) as server:
        queueing(server.port)
        mails(BAD, 5)
        queue(message(GOOD))
        work()
        assert len(server.mails) == 1
    assert RefusedSender.objects.using(on).get().sender == BAD
    assert mail.allow_sender(MAILER, BAD) == 5
