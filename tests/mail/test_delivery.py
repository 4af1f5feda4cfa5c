"""From ``send()`` through the queue to a server, and what the record says afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage, send_mail
from django.db import connection, transaction
from django.utils import timezone

from mailrail.layers import get_layer
from mailrail.mail import queue, queue_many, unhold
from mailrail.mail.consumers import MAX_LOSSES
from mailrail.mail.delivery import batch, messages, writer
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.models import Email, MailerState, Status, Suppression
from mailrail.routing import Routing
from mailrail.testing import advance, drain, sent
from mailrail.worker import IncomingMessage, Worker

from ..listed import dead_on
from ..smtp_server import Fault, ScriptedServer
from .conftest import CHANNEL, work

pytestmark = pytest.mark.django_db(transaction=True)

Queueing = Callable[..., None]


def message(subject: str = "Hello", to: str = "you@example.com", **more: object) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", [to], **more)  # type: ignore[arg-type]


def only() -> Email:
    return Email.objects.get()


def test_send_mail_arrives_by_a_worker(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        assert send_mail("Hello", "A body.", "me@example.com", ["you@example.com"]) == 1
        assert (server.connections, only().status) == (0, Status.QUEUED)
        drain("mailrail.mail")
        [mail] = server.mails
    email = only()
    assert (mail.sender, mail.recipients) == ("me@example.com", ("you@example.com",))
    assert email.status == Status.SENT and email.sent_at is not None and email.attempts == 1
    assert email.recipients[0]["status"] == "sent" and email.recipients[0]["code"] == 250
    assert f"Message-ID: {email.message_id}".encode() in mail.content
    assert sent("mailrail.mail") == []


def test_what_is_rolled_back_was_never_sent(queueing: Queueing) -> None:
    queueing(1)
    with transaction.atomic():
        message().send()
        transaction.set_rollback(True)
    assert not Email.objects.exists() and sent("mailrail.mail") == []


def test_many_go_over_few_connections(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(message(f"Number {n}", f"to{n}@example.com") for n in range(50))
        drain("mailrail.mail")
        assert len(server.mails) == 50
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}


def test_emails_on_their_way_are_no_more_than_connections(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these alone nobody knows the outcome when the worker is killed."""
    on_their_way: list[int] = []

    def note(*arguments: Any) -> Any:
        lost = store_outcomes(*arguments)
        on_their_way.append(Email.objects.filter(status=Status.SENDING).count())
        return lost

    monkeypatch.setattr(writer, "store_outcomes", note)
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(message(f"Number {n}", f"to{n}@example.com") for n in range(50))
        work()
        assert len(server.mails) == 50 and 1 < max(on_their_way) <= server.most_connections
    assert on_their_way[-1] == 0


def test_a_refused_recipient_is_final_and_the_others_have_it(queueing: Queueing) -> None:
    with ScriptedServer(refused={"gone@example.com": "550 5.1.1 no such user"}) as server:
        queueing(server.port)
        EmailMessage("Hello", "A body.", "me@example.com", ["you@example.com", "gone@example.com"]).send()
        drain("mailrail.mail")
        assert [mail.recipients for mail in server.mails] == [("you@example.com",)]
    email = only()
    assert (email.status, email.failed_recipients) == (Status.PARTIAL, ["gone@example.com"])
    assert email.sent_at is not None
    assert [each["status"] for each in email.recipients] == ["sent", "failed"]
    assert email.recipients[1]["enhanced"] == "5.1.1"
    assert Suppression.objects.get().address == "gone@example.com"


def test_who_was_refused_before_the_connection_broke_is_not_tried_again(queueing: Queueing) -> None:
    """Servers close after so many errors (Postfix: smtpd_hard_error_limit), which the next attempt would repeat."""
    closing = [Fault("RCPT", "421 4.7.0 Too many errors", nth) for nth in (1, 3, 5)]
    with ScriptedServer(closing, refused={"gone@example.com": "550 5.1.1 no such user"}) as server:
        queueing(server.port)
        EmailMessage("Hello", "A body.", "me@example.com", ["gone@example.com", "you@example.com"]).send()
        drain("mailrail.mail")
        assert (only().status, only().attempts) == (Status.QUEUED, 0)
        assert [each["status"] for each in only().recipients] == ["failed", "queued"]
        assert Suppression.objects.get().address == "gone@example.com"
        advance(60)
        drain("mailrail.mail")
        assert [mail.recipients for mail in server.mails] == [("you@example.com",)]
    assert only().status == Status.PARTIAL


def test_a_suppressed_address_gets_nothing(queueing: Queueing) -> None:
    Suppression.objects.create(address="you@example.com", reason="complaint")
    with ScriptedServer() as server:
        queueing(server.port)
        message(to="You@example.com").send()
        drain("mailrail.mail")
        assert server.connections == 0
    assert only().status == Status.SUPPRESSED


def test_more_recipients_than_sqlite_takes_values_are_looked_up_together(queueing: Queueing) -> None:
    Suppression.objects.create(address="to7@example.com", reason="complaint")
    connection.ensure_connection()
    most = connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    try:
        with ScriptedServer() as server:
            queueing(server.port)
            message(to="to7@example.com", bcc=[f"to{n}@example.com" for n in range(1000)]).send()
            drain("mailrail.mail")
            assert [len(mail.recipients) for mail in server.mails] == [999]
    finally:
        connection.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, most)


def test_a_transient_refusal_is_tried_again_later_and_only_for_whom_it_concerned(queueing: Queueing) -> None:
    with ScriptedServer([Fault("RCPT", "451 4.7.1 greylisted", 1)]) as server:
        queueing(server.port)
        EmailMessage("Hello", "A body.", "me@example.com", ["a@example.com", "b@example.com"]).send()
        drain("mailrail.mail")
        assert only().status == Status.QUEUED
        advance(120)
        drain("mailrail.mail")
        assert [mail.recipients for mail in server.mails] == [("a@example.com",), ("b@example.com",)]
    assert only().status == Status.SENT and only().attempts == 2


def test_a_server_that_is_away_costs_no_attempt_and_is_said_once(
    queueing: Queueing, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server:
        port = server.port
    queueing(port)
    queue_many([message("One"), message("Two")])
    drain("mailrail.mail")
    state = MailerState.objects.get()
    assert state.paused_by == "outage" and "cannot be reached" in state.reason
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    assert len([r for r in caplog.records if "cannot be used" in r.getMessage()]) == 1


def test_a_mistake_that_shows_behind_one_that_was_mended_is_said_too(
    queueing: Queueing, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server:
        port = server.port
    queueing(port)
    queue(message())
    drain("mailrail.mail")
    with ScriptedServer(implicit_tls=False) as server:
        queueing(server.port, use_tls=True)
        for _ in range(2):
            advance(600)
            drain("mailrail.mail")
    log_lines = [each.getMessage() for each in caplog.records if "cannot be used" in each.getMessage()]
    assert len(log_lines) == 2 and "cannot be reached" in log_lines[0] and "STARTTLS" in log_lines[1]


def test_the_worker_that_died_in_mid_send_leaves_a_doubt(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue(message())
        Email.objects.update(status=Status.SENDING, changed_at=timezone.now() - timedelta(minutes=2))
        drain("mailrail.mail")
        assert server.mails == []  # it waits a moment
        advance(10)
        drain("mailrail.mail")
        assert len(server.mails) == 1
    assert "it may have been sent; sending again" in [event["what"] for event in only().events]


@pytest.mark.parametrize("within", [60.0, 0.0])
def test_messages_of_final_emails_end_together_and_within_a_time(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch, within: float
) -> None:
    """Each question for the layer costs as much as several emails."""
    monkeypatch.setattr(messages, "FINISH_INTERVAL_S", within)
    final_by_then: list[int] = []

    def told(finished: Sequence[IncomingMessage]) -> None:
        assert {m.outcome and m.outcome.kind for m in finished} == {"finished"}
        final_by_then.extend([Email.objects.filter(status=Status.SENT).count()] * len(finished))

    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(message(f"Number {n}", f"to{n}@example.com") for n in range(100))
        batch.Delivery([IncomingMessage(each, None, told) for each in sent("mailrail.mail")]).run()
        assert len(server.mails) == len(final_by_then) == 100
    assert (final_by_then[0] == 100) == (within > 0) and final_by_then[-1] == 100


def test_a_message_that_outlives_its_email_sends_nothing(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a worker dies between the two."""
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(message(f"Number {n}", f"to{n}@example.com") for n in range(3))
        with monkeypatch.context() as patch:
            patch.setattr(messages.ClaimedMessages, "finish_final", lambda self: None)
            drain("mailrail.mail")
        assert len(sent("mailrail.mail")) == len(server.mails) == 3
        advance(60)
        drain("mailrail.mail")
        assert len(server.mails) == 3
    assert sent("mailrail.mail") == []
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.SENT, 1)}


def test_it_waits_for_its_time_and_not_beyond_its_end(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue(message(), send_at=3600, expires_at=timezone.now() + timedelta(hours=2))
        assert drain("mailrail.mail") == []
        Email.objects.update(send_at=None, expires_at=timezone.now() - timedelta(seconds=1))
        advance(3700)
        drain("mailrail.mail")
        assert server.connections == 0
    assert only().status == Status.EXPIRED


def test_the_record_of_a_buried_message_is_held_for_a_person(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        email = queue(message())
        layer = get_layer()
        for _ in range(MAX_LOSSES):
            layer.renew(layer.claim("dying", {CHANNEL: 1}, 60.0).claims, 0.0)
        Worker(layer, Routing.of_layer(), ["mailrail.mail"], drain=True).run()
        assert dead_on(layer, CHANNEL) and server.connections == 0
        email.refresh_from_db()
        assert email.status == Status.HELD and "buried" in email.events[-1]["what"]
        assert unhold(email).done == [email.pk]
        drain("mailrail.mail")
        assert len(server.mails) == 1
