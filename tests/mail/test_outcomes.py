"""What servers answer, and what becomes of the email: through the whole stack, from ``send()`` to the record."""

from __future__ import annotations

import logging
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import django
import pytest
from django.core import mail as djangos
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.delivery.answers import accept, apply_outcome
from mailrail.mail.mailers.refused_senders import RefusedSenders
from mailrail.mail.models import MailerState, Suppression
from mailrail.mail.smtp import DeliveryOutcome, Fate
from mailrail.mail.smtp.replies import Reply, Stage
from mailrail.storable import storable
from mailrail.testing import advance, drain, sent

from ..smtp_server import EXTENSIONS, USER, Fault, ScriptedServer
from .conftest import work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Queueing = Callable[..., None]
DAY = 86400.0
MAILER_OF_RECORDS = "out" if django.VERSION >= (6, 1) else ""


def message(subject: str = "Hello", *to: str) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", to or ["you@example.com"])


def only() -> Email:
    return Email.objects.get()


def pass_time(seconds: float) -> None:
    """For messages, for records and for mailers."""
    advance(seconds)


def deliver() -> None:
    drain("mailrail.mail")


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("reply", ["450 4.2.1 later", "451 4.7.1 later", "452 4.3.1 later"])
def test_a_refusal_for_now_is_tried_again(queueing: Queueing, stage: str, reply: str) -> None:
    with ScriptedServer([Fault(stage, reply, 0)]) as server:
        queueing(server.port)
        message().send()
        deliver()
        assert (only().status, only().attempts, len(server.mails)) == (Status.QUEUED, 1, 0)
        assert only().events[-1]["code"] == int(reply[:3])
        pass_time(10)
        deliver()
        assert len(server.mails) == 0  # not before a minute, give or take
        pass_time(80)
        deliver()
        assert len(server.mails) == 1
    assert (only().status, only().attempts) == (Status.SENT, 2)


def test_after_its_lifetime_it_is_given_up(queueing: Queueing) -> None:
    with ScriptedServer(refused={"you@example.com": "450 4.2.1 busy"}) as server:
        queueing(server.port)
        message().send()
        for _ in range(40):
            if only().status != Status.QUEUED:
                break
            deliver()
            pass_time(5 * 3600)
        assert server.mails == []
    email = only()
    assert email.status == Status.FAILED and 8 <= email.attempts <= 16
    assert "given up" in email.events[-1]["what"] and email.recipients[0]["code"] == 450
    assert len(email.events) <= 20
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        (stage, reply)
        for stage in ("MAIL", "RCPT", "DATA", "DOT")
        for reply in ("550 5.7.1 policy", "552 5.3.4 too big", "554 5.6.0 no")
        if (stage, reply) != ("MAIL", "550 5.7.1 policy")  # that is about the sender, whose mail is held
    ],
)
def test_a_refusal_for_good_fails_at_once(queueing: Queueing, stage: str, reply: str) -> None:
    with ScriptedServer([Fault(stage, reply, 0)]) as server:
        queueing(server.port)
        mail.queue_many([message("One"), message("Two", "two@example.com")])
        deliver()
        assert len(server.mails) == 1
    failed = Email.objects.get(status=Status.FAILED)
    assert failed.recipients[0]["code"] == int(reply[:3]) and failed.recipients[0]["enhanced"] == reply[4:9]
    assert Email.objects.filter(status=Status.SENT).count() == 1
    assert not Suppression.objects.exists() and sent("mailrail.mail") == []


def test_an_address_that_does_not_exist_is_suppressed_by_its_bare_form(queueing: Queueing) -> None:
    with ScriptedServer(refused={"Gone@example.com": "550 5.1.1 nobody"}) as server:
        queueing(server.port)
        message("Hello", "Somebody <Gone@example.com>").send()
        deliver()
        message("Again", "gone@example.com").send()
        deliver()
        assert server.count("RCPT") == 1
    assert Suppression.objects.get().address == "gone@example.com"
    assert sorted(Email.objects.values_list("status", flat=True)) == [Status.FAILED, Status.SUPPRESSED]


def test_one_address_under_two_names_is_one_recipient(queueing: Queueing) -> None:
    with ScriptedServer(refused={"b@example.com": "550 5.7.1 no"}) as server:
        queueing(server.port)
        message("Hello", "A <a@example.com>", "a@example.com", "B <b@example.com>", "b@example.com").send()
        deliver()
        assert [each.recipients for each in server.mails] == [("a@example.com",)]
    assert [each["status"] for each in only().recipients] == ["sent", "sent", "failed", "failed"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(stage, what)
        for stage in ("MAIL", "RCPT", "DATA")
        for what in ("disconnect", "421 4.3.2 bye", "garbage")
    ]
    + [Fault("BODY", "disconnect"), Fault("DOT", "421 4.3.2 bye")],
    ids=lambda fault: f"{fault.stage} {fault.what[:8]}",
)
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_a_connection_that_breaks_is_nobodys_fault(
    queueing: Queueing, fault: Fault, pipelining: bool
) -> None:
    with ScriptedServer([fault], pipelining=pipelining) as server:
        queueing(server.port)
        mail.queue_many([message(f"Number {n}", f"to{n}@example.com") for n in range(3)])
        deliver()
        pass_time(20)
        deliver()
        print([(e.status, e.events) for e in Email.objects.all()], MailerState.objects.all())
        assert sorted(each.recipients for each in server.mails) == [(f"to{n}@example.com",) for n in range(3)]
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.SENT, 1)}


def test_an_email_that_breaks_every_connection_is_tried_less_and_less_often(queueing: Queueing) -> None:
    with ScriptedServer([Fault("BODY", "disconnect", n) for n in range(100)]) as server:
        queueing(server.port)
        message().send()
        for _ in range(60):
            deliver()
            pass_time(60)
        assert 5 <= server.count("BODY") <= 30
    assert only().status == Status.QUEUED


@pytest.mark.parametrize("policy", ["resend", "hold"])
def test_a_reply_that_never_came_is_a_doubt(queueing: Queueing, settings: Any, policy: str) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_ON_AMBIGUOUS": policy}
    with ScriptedServer([Fault("DOT", "accept-disconnect")]) as server:
        queueing(server.port)
        message().send()
        deliver()
        assert only().status == (Status.QUEUED if policy == "resend" else Status.HELD)
        pass_time(20)
        deliver()
        copies = [each.content for each in server.mails]
    assert len(copies) == (2 if policy == "resend" else 1)
    assert all(f"Message-ID: {only().message_id}".encode() in each for each in copies)


def test_a_server_that_never_says_whether_gets_few_copies(queueing: Queueing) -> None:
    with ScriptedServer([Fault("DOT", "accept-disconnect", n) for n in range(1000)]) as server:
        queueing(server.port)
        message().send()
        for _ in range(100):
            deliver()
            pass_time(3600)
        assert len(server.mails) <= 40
    assert only().status == Status.HELD


def test_a_refused_login_pauses_the_mailer_and_loses_nothing(
    queueing: Queueing, caplog: pytest.LogCaptureFixture
) -> None:
    extensions = (*EXTENSIONS, "AUTH PLAIN")
    names = ("username", "password") if django.VERSION >= (6, 1) else ("host_user", "host_password")
    with ScriptedServer(extensions=extensions, password="right") as server:
        queueing(server.port, **dict(zip(names, (USER, "wrong"), strict=True)))
        mail.queue_many([message(f"Number {n}") for n in range(5)])
        with caplog.at_level(logging.WARNING, "mailrail.mail"):
            for _ in range(4):
                deliver()
                pass_time(400)
            state = MailerState.objects.get()
            assert state.paused_by == "outage" and "535" in state.reason and state.probes == 4
            assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
            server._password = "wrong"  # what the settings say is right from now on
            deliver()
            pass_time(400)
            deliver()
        assert len(server.mails) == 5
    log_lines = [record.getMessage() for record in caplog.records if record.name == "mailrail.mail"]
    assert ["cannot be used" in each for each in log_lines] == [True, False] and "works again" in log_lines[
        -1
    ]
    assert not MailerState.objects.exists()


def test_a_person_pauses_and_resumes_a_mailer(queueing: Queueing) -> None:
    alias = "out" if django.VERSION >= (6, 1) else ""
    with ScriptedServer() as server:
        queueing(server.port)
        mail.pause(alias, reason="moving house")
        message().send()
        for _ in range(3):
            deliver()
            pass_time(300)
        assert server.connections == 0
        mail.resume(alias)
        deliver()
        assert len(server.mails) == 1


def test_eight_bits_are_written_in_seven_where_the_server_wants_it(queueing: Queueing) -> None:
    with ScriptedServer(extensions=("SIZE 1000000",)) as server:
        queueing(server.port)
        EmailMessage("Grüße", "Käse.\n", "me@example.com", ["you@example.com"]).send()
        deliver()
        [arrived] = server.mails
    assert arrived.content.isascii() and only().status == Status.SENT


def test_what_the_server_cannot_take_fails_with_the_reason(queueing: Queueing) -> None:
    with ScriptedServer(extensions=("SIZE 400", "8BITMIME")) as server:
        queueing(server.port)
        EmailMessage("Hi", "x\n" * 500, "me@example.com", ["you@example.com"]).send()
        deliver()
        assert server.mails == []
    assert only().status == Status.FAILED and "takes 400 at most" in str(only().events)


# -- backends of Django's API -----------------------------------------------------------------------------------------


class Failing(BaseEmailBackend):
    """Fails as often as it is told, then takes everything."""

    error: Exception | None = None
    taken: ClassVar[list[EmailMessage]] = []

    def send_messages(self, email_messages: Any) -> int:
        if Failing.error is not None:
            raise Failing.error
        Failing.taken += email_messages
        return len(email_messages)


class Looking(BaseEmailBackend):
    is_out: ClassVar[list[bool]] = []

    def send_messages(self, email_messages: Any) -> int:
        self.is_out.append(MailerState.objects.exists())
        return 1


class Handshaking(BaseEmailBackend):
    port = 0

    def send_messages(self, email_messages: Any) -> int:
        with socket.create_connection(("127.0.0.1", self.port)) as plain:
            try:
                ssl.create_default_context().wrap_socket(plain, server_hostname="localhost").close()
            except ssl.SSLError as error:
                raise OSError("no TLS") from error
        raise AssertionError


@pytest.fixture
def failing() -> type[Failing]:
    Failing.error = None
    Failing.taken.clear()
    return Failing


FAILING = f"{__name__}.Failing"


def test_the_locmem_backend_delivers(queueing: Queueing) -> None:
    queueing(0, "django.core.mail.backends.locmem.EmailBackend")
    message().send()
    deliver()
    [taken] = djangos.outbox
    assert taken.extra_headers["Message-ID"] == only().message_id
    assert only().status == Status.SENT and "locmem" in only().recipients[0]["text"]


def test_the_file_backend_delivers(queueing: Queueing, tmp_path: Path, settings: Any) -> None:
    path = "django.core.mail.backends.filebased.EmailBackend"
    if django.VERSION >= (6, 1):
        queueing(0, path, file_path=str(tmp_path))
    else:
        queueing(0, path)
        settings.EMAIL_FILE_PATH = str(tmp_path)
    message().send()
    deliver()
    assert only().message_id in "".join(each.read_text() for each in tmp_path.iterdir())


def test_an_exception_that_nobody_knows_is_tried_again(queueing: Queueing, failing: type[Failing]) -> None:
    queueing(0, FAILING)
    mail.queue_many([message("One"), message("Two")])
    failing.error = RuntimeError("quota")
    deliver()
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 1)}
    assert "RuntimeError: quota" in str(Email.objects.first().events)  # type: ignore[union-attr]
    failing.error = None
    pass_time(100)
    deliver()
    assert len(failing.taken) == 2 and set(Email.objects.values_list("status", flat=True)) == {Status.SENT}


def test_an_outage_ends_with_the_first_email_that_is_taken(queueing: Queueing) -> None:
    queueing(0, f"{__name__}.Looking")
    mail.queue_many([message("One"), message("Two")])
    MailerState.objects.create(mailer=MAILER_OF_RECORDS, paused_by="outage", probe_at=timezone.now())
    work()
    assert Looking.is_out == [True, False]


def test_a_connection_that_broke_behind_the_handshake_of_tls_is_a_doubt(
    queueing: Queueing, failing: type[Failing]
) -> None:
    queueing(0, FAILING)
    mail.queue(message())
    failing.error = ssl.SSLEOFError("EOF occurred in violation of protocol")
    deliver()
    assert only().recipients[0]["ambiguous"] and only().attempts == 0


@pytest.mark.parametrize("hears", [0, 65536], ids=["reset", "closed"])
def test_a_connection_that_broke_in_the_handshake_of_tls_is_none(queueing: Queueing, hears: int) -> None:
    def close_one(listening: socket.socket) -> None:
        client, _ = listening.accept()
        client.recv(hears or 1)
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Handshaking.port = listening.getsockname()[1]
        closing = threading.Thread(target=close_one, args=(listening,))
        closing.start()
        queueing(0, f"{__name__}.Handshaking")
        mail.queue(message())
        deliver()
        closing.join()
    assert "ambiguous" not in only().recipients[0]


def test_a_backend_that_is_away_pauses_the_mailer(queueing: Queueing, failing: type[Failing]) -> None:
    queueing(0, FAILING)
    mail.queue_many([message("One"), message("Two")])
    failing.error = ConnectionRefusedError("no")
    deliver()
    assert MailerState.objects.get().paused_by == "outage"
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    assert [each.events[0]["why"] for each in Email.objects.all() if each.events] == [
        "ConnectionRefusedError: no."
    ]
    failing.error = None
    for _ in range(3):
        pass_time(400)
        deliver()
    assert len(failing.taken) == 2


@pytest.mark.parametrize(
    "what", ["STARTTLS extension not supported by server.", "SMTP AUTH extension not supported"]
)
def test_what_smtplib_finds_missing_before_the_first_email_is_no_emails_fault(
    queueing: Queueing, failing: type[Failing], what: str
) -> None:
    queueing(0, FAILING)
    mail.queue(message())
    failing.error = smtplib.SMTPNotSupportedError(what)
    deliver()
    assert (only().status, MailerState.objects.get().paused_by) == (Status.QUEUED, "outage")


def test_a_backend_is_not_given_those_who_must_not_get_it(queueing: Queueing, failing: type[Failing]) -> None:
    Suppression.objects.create(address="b@example.com", reason="complaint")
    queueing(0, FAILING)
    message("Hello", "a@example.com", "B <b@example.com>").send()
    deliver()
    assert [each.recipients() for each in failing.taken] == [["a@example.com"]]


def test_the_storage_of_outcomes_is_exact_about_times(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        before = timezone.now()
        message().send()
        deliver()
        assert before < only().sent_at < timezone.now()  # type: ignore[operator]


RECIPIENTS = st.lists(
    st.fixed_dictionaries(
        {"status": st.sampled_from(["queued", "sent", "failed", "suppressed"])},
        optional={"under_way": st.just(True), "ambiguous": st.just(True), "text": st.just("from before")},
    ),
    max_size=3,
)
ACCEPTING = st.builds(
    Reply, st.integers(200, 299), st.text(max_size=600).map(storable), st.sampled_from(["", "2.0.0", "2.1.5"])
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECIPIENTS, ACCEPTING, st.integers(0, 30), st.sampled_from(["", "out", "a\0b"]))
def test_the_short_way_of_an_accepted_email_comes_to_the_same_as_the_usual_one(
    others: list[dict[str, Any]], reply: Reply, count: int, mailer: str
) -> None:
    """``accept`` is what ``apply_outcome`` does in the most common case: somebody waits for the email, and all who do
    get it."""
    now = timezone.now()
    recipients = [
        {"address": f"{n}@example.com", **it} for n, it in enumerate([*others, {"status": "queued"}])
    ]
    events = [{"what": str(n)} for n in range(count)]
    emails = [Email(recipients=deepcopy(recipients), events=[*events], attempts=count) for _ in range(2)]
    senders = RefusedSenders("out", "default")
    usual = apply_outcome(emails[0], DeliveryOutcome(Fate.ACCEPTED, Stage.DOT, reply), now, mailer, senders)
    short = accept(emails[1], reply, now, mailer, senders)
    for name in ("status", "recipients", "events", "attempts", "sent_at", "changed_at", "next_try_at"):
        assert getattr(emails[0], name) == getattr(emails[1], name)
    usual.email = short.email
    assert usual == short
