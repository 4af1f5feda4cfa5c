"""What people may decide about queued email, and who wins when a worker is at it, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from email import message_from_bytes
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.delivery.batch import Delivery
from mailrail.mail.delivery.outcomes import fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.testing import advance, drain, sent
from mailrail.worker import IncomingMessage

from ..smtp_server import Fault, ScriptedServer

pytestmark = pytest.mark.django_db(transaction=True)

Queueing = Callable[..., None]


def message(subject: str = "Hello", *to: str) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", to or ["you@example.com"])


def status_of(email: Email) -> str:
    return Email.objects.get(pk=email.pk).status


def test_a_cancelled_email_is_never_sent(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        email = mail.queue(message())
        assert mail.cancel(email) == mail.Changed([email.pk])
        drain("mailrail.mail")
        assert server.connections == 0
    assert status_of(email) == Status.CANCELLED and sent("mailrail.mail") == []


def test_one_that_is_being_sent_or_is_sent_cannot_be_cancelled(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        email = mail.queue(message())
        store_outcomes((), [email], "default")
        assert mail.cancel(email.pk).refused == {email.pk: "it is being sent just now"}
        advance(60)
        drain("mailrail.mail")
        advance(60)
        drain("mailrail.mail")
        assert mail.cancel(str(email.pk)).refused == {email.pk: "it is sent"}
        assert len(server.mails) == 1


def test_a_held_email_waits_until_it_is_unheld(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        email = mail.queue(message())
        assert mail.hold([email]).done == [email.pk]
        drain("mailrail.mail")
        assert (server.connections, status_of(email)) == (0, Status.HELD)
        assert mail.unhold([email]).done == [email.pk]
        assert mail.unhold([email]).refused == {email.pk: "it waits to be sent already"}
        drain("mailrail.mail")
        assert len(server.mails) == 1
    assert status_of(email) == Status.SENT


def test_what_was_held_for_longer_than_its_lifetime_is_tried_for_all_of_it(queueing: Queueing) -> None:
    with ScriptedServer([Fault("RCPT", "450 4.2.1 greylisted")]) as server:
        queueing(server.port)
        emails = mail.queue_many([message(), message()])
        mail.hold(emails)
        advance(4 * 86400)
        assert len(mail.unhold(emails).done) == 2
        drain("mailrail.mail")
        assert sorted(Email.objects.values_list("status", flat=True)) == [Status.QUEUED, Status.SENT]
        advance(120)
        drain("mailrail.mail")
        assert len(server.mails) == 2


def test_a_deferred_email_is_sent_at_once_and_only_once(queueing: Queueing) -> None:
    with ScriptedServer([Fault("RCPT", "450 4.2.1 greylisted")]) as server:
        queueing(server.port)
        email = mail.queue(message())
        assert mail.send_now(email).refused == {email.pk: "it does not wait for a next attempt"}
        drain("mailrail.mail")
        drain("mailrail.mail")
        assert not server.mails
        assert async_to_sync(mail.asend_now)([email]) == mail.Changed([email.pk])
        drain("mailrail.mail")
        assert len(server.mails) == 1
        advance(3600)
        drain("mailrail.mail")  # the message that waited for the next attempt
        assert len(server.mails) == 1
        assert mail.send_now(email).refused == {email.pk: "it is sent"}
    told = [event["what"] for event in Email.objects.get().events]
    assert told == ["refused for now", "tried at once", "accepted"]


def test_what_is_for_later_is_not_sent_now(queueing: Queueing) -> None:
    queueing(1)
    email = mail.queue(message(), send_at=3600)
    Email.objects.update(next_try_at=timezone.now() + timedelta(hours=1))
    assert mail.send_now(email).refused == {email.pk: "its time has not come"}


def test_unhold_does_not_hasten_what_is_for_later(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        email = mail.queue(message(), send_at=3600)
        mail.hold(email)
        mail.unhold(email)
        drain("mailrail.mail")
        assert not server.mails
        advance(3600)
        drain("mailrail.mail")
        assert len(server.mails) == 1


def test_to_resend_a_failed_one_goes_to_those_who_do_not_have_it(queueing: Queueing) -> None:
    with ScriptedServer(refused={"b@example.com": "550 5.7.1 no"}) as server:
        queueing(server.port)
        email = mail.queue(message("Hello", "a@example.com", "b@example.com"))
        drain("mailrail.mail")
        server._refused.clear()
        assert mail.resend(email) == mail.Changed([email.pk])
        drain("mailrail.mail")
        assert [each.recipients for each in server.mails] == [("a@example.com",), ("b@example.com",)]
        assert all(email.message_id.encode() in each.content for each in server.mails)
    assert Email.objects.get().status == Status.SENT


def test_to_resend_a_sent_one_makes_a_copy(queueing: Queueing) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        big = message()
        big.attach("a.bin", b"\0" * 100_000, "application/octet-stream")
        email = mail.queue(big, key="once")
        drain("mailrail.mail")
        [copied] = mail.resend(email).copies.values()
        drain("mailrail.mail")
        assert len(server.mails) == 2
    first, second = Email.objects.get(pk=email.pk), Email.objects.get(pk=copied)
    assert first.message_id != second.message_id and second.key is None
    assert first.events[-1]["why"] == str(copied) and second.events[0]["why"] == str(email.pk)
    assert (first.attempts, second.attempts, second.status) == (1, 1, Status.SENT)


def test_what_is_open_cannot_be_sent_again(queueing: Queueing) -> None:
    queueing(1)
    email = mail.queue(message())
    assert mail.resend(email).refused == {email.pk: "it waits to be sent already"}
    assert mail.resend(mail.Email().pk).done == []


def test_an_email_cancelled_between_its_loading_and_its_dot_does_not_leave(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailrail.mail.delivery import batch
    from mailrail.mail.delivery.load import load_messages

    load = load_messages

    def load_and_cancel(emails: Sequence[Email], using: str) -> Any:
        loaded = load(emails, using)
        first, second, _ = sorted(emails, key=lambda email: email.pk)
        assert mail.cancel(first).done and mail.hold(second).done
        return loaded

    with ScriptedServer() as server:
        queueing(server.port)
        emails = mail.queue_many([message("One"), message("Two"), message("Three")])
        monkeypatch.setattr(batch, "load_messages", load_and_cancel)
        messages = [IncomingMessage(each) for each in sent("mailrail.mail")]
        Delivery(messages).run()
        assert [b"Subject: Three" in each.content for each in server.mails] == [True]
    assert [status_of(email) for email in emails] == [Status.CANCELLED, Status.HELD, Status.SENT]
    kinds = {message["id"]: message.outcome and message.outcome.kind for message in messages}
    assert [kinds[str(email.pk)] for email in emails] == ["released", "released", "finished"]


def test_of_two_workers_with_the_same_email_one_sends_it(queueing: Queueing) -> None:
    queueing(1)
    id = mail.queue(message()).pk
    first, second = Email.objects.get(pk=id), Email.objects.get(pk=id)
    assert store_outcomes((), [first], "default") == set()
    assert store_outcomes((), [second], "default") == {id}
    assert store_outcomes([fail(second, timezone.now(), "late")], (), "default") == {id}
    assert status_of(first) == Status.SENDING


def test_an_outcome_does_not_overwrite_a_later_decision(queueing: Queueing) -> None:
    queueing(1)
    email = mail.queue(message())
    loaded = Email.objects.get()
    mail.cancel(email)
    assert store_outcomes([fail(loaded, timezone.now(), "late")], (), "default") == {loaded.pk}
    assert status_of(email) == Status.CANCELLED


def test_a_decision_that_is_rolled_back_was_never_taken(queueing: Queueing) -> None:
    from django.db import transaction

    queueing(1)
    email = mail.queue(message())
    with transaction.atomic():
        mail.cancel(email)
        transaction.set_rollback(True)
    assert status_of(email) == Status.QUEUED


def test_the_async_twins(queueing: Queueing) -> None:
    queueing(1)

    async def all_of_them() -> list[mail.Changed]:
        email = await mail.aqueue(message())
        await mail.aqueue_many([message()])
        return [
            await mail.ahold(email),
            await mail.aunhold(email),
            await mail.acancel(email),
            await mail.aresend(email),
        ]

    assert all(changed.done for changed in async_to_sync(all_of_them)())
    assert Email.objects.count() == 2


def test_a_key_stands_for_one_email(queueing: Queueing) -> None:
    queueing(1)
    first = mail.queue(message(), key="receipt-1")
    assert mail.queue(message(), key="receipt-1").pk == first.pk
    with pytest.raises(mail.KeyConflict, match="receipt-1"):
        mail.queue(message("Another"), key="receipt-1")
    assert Email.objects.count() == len(sent("mailrail.mail")) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"send_at": timezone.now().replace(tzinfo=None)},
        {"send_at": "tomorrow"},
        {"send_at": float("inf")},
        {"expires_at": timedelta(seconds=-1)},
        {"priority": 101},
        {"key": ""},
        {"tags": "one"},
        {"about": User(username="unsaved")},
        {"about": Session(session_key="s" * 300)},
        {"mailer": "nowhere"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_wrong_options_are_refused_by_name(
    queueing: Queueing, options: dict[str, Any], settings: Any
) -> None:
    queueing(1)
    settings.USE_TZ = True
    if "mailer" in options:
        pytest.importorskip("django", minversion="6.1")
    with pytest.raises(Exception, match=next(iter(options))) as caught:
        mail.queue(message(), **options)
    assert isinstance(caught.value, (TypeError, ValueError, mail.CannotQueue)) or "mailer" in options
    assert not Email.objects.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"recipients": "x"},
        {"recipients": []},
        {"recipients": [{"address": 3}]},
        {"content": [1]},
        {"events": 7},
    ],
    ids=str,
)
def test_a_record_of_other_hands_is_refused_or_stopped_and_the_others_are_done(
    queueing: Queueing, odd: dict[str, Any]
) -> None:
    """Of all that somebody has chosen in the admin."""
    queueing(1)
    first, second, third = mail.queue_many(message(str(n)) for n in range(3))
    Email.objects.exclude(pk=third.pk).update(status=Status.FAILED)
    Email.objects.filter(pk__in=(first.pk, third.pk)).update(**odd)
    again = mail.resend([first, second])
    assert again.done == [second.pk] and list(again.refused) == [first.pk]
    assert again.refused[first.pk] == "its record cannot be read"
    assert mail.hold(third).done == mail.cancel(third).done == [third.pk]
    assert status_of(first) == "failed" and status_of(third) == "cancelled"


class _Own(EmailMessage):
    """A class that writes its own message: it is stored as finished bytes."""

    signature = ""

    def message(self, **kwargs: Any) -> Any:
        made = super().message(**kwargs)
        if self.signature:
            made["DKIM-Signature"] = self.signature
        return made


def _chosen(kind: type[EmailMessage] = EmailMessage, **headers: str) -> EmailMessage:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return kind("Hello", "A body.", "me@example.com", ["a@example.com"], headers=headers)


def _sent_twice(email: EmailMessage, queueing: Queueing) -> tuple[Email, Any, Any]:
    """The record of the copy, and what a reader finds in the first email and in the copy."""
    with ScriptedServer() as server:
        queueing(server.port)
        first = mail.queue(email)
        drain("mailrail.mail")
        [copied] = mail.resend(first).copies.values()
        drain("mailrail.mail")
        one, two = (message_from_bytes(each.content) for each in server.mails)
    return Email.objects.get(pk=copied), one, two


RENEWED = "given a Message-ID of its own; the old one is in References"


@pytest.mark.parametrize("kind", [EmailMessage, _Own])
@pytest.mark.parametrize("name", ["Message_ID", "message_id"])
@pytest.mark.parametrize("before", [{}, {"References": "<a@x.de> <b@x.de>"}, {"references": "<a@x.de>"}])
def test_a_copy_has_a_message_id_of_its_own_and_refers_to_the_one_that_was_chosen(
    kind: type[EmailMessage], name: str, before: dict[str, str], queueing: Queueing
) -> None:
    record, one, two = _sent_twice(_chosen(kind, **{name: "<mine@x.de>"}, **before), queueing)
    assert one.get_all("Message-ID") == ["<mine@x.de>"]
    assert two.get_all("Message-ID") == [record.message_id] != ["<mine@x.de>"]
    [references] = two.get_all("References")
    assert references.split() == [*"".join(before.values()).split(), "<mine@x.de>"]
    assert [(each["what"], each.get("why")) for each in record.events][1] == (RENEWED, "<mine@x.de>")
    assert one.get_payload() == two.get_payload()


def test_a_large_finished_email_is_copied_with_its_own_file(queueing: Queueing) -> None:
    email = _chosen(_Own, Message_ID="<mine@x.de>")
    email.body = "line\n" * 20_000
    record, one, two = _sent_twice(email, queueing)
    assert two["References"] == "<mine@x.de>" and one.get_payload() == two.get_payload()
    assert record.content["large"] == [record.content["data"]]


def test_the_copy_of_an_email_whose_message_id_was_ours_refers_to_nothing(queueing: Queueing) -> None:
    record, one, two = _sent_twice(_chosen(), queueing)
    assert two["Message-ID"] == record.message_id != one["Message-ID"]
    assert "References" not in two and RENEWED not in str(record.events)


def test_a_signature_over_the_message_id_is_not_broken(queueing: Queueing) -> None:
    email = _chosen(_Own, Message_ID="<mine@x.de>")
    email.signature = "v=1; h=from:subject:message-id; b=abc"  # type: ignore[attr-defined]
    record, one, two = _sent_twice(email, queueing)
    assert one["Message-ID"] == two["Message-ID"] == record.message_id
    assert "its Message-ID is kept, as it is signed" in str(record.events)
    assert one.as_bytes() == two.as_bytes()


# -- what a server may have taken without an answer --------------------------------------------------------------------


@pytest.fixture(params=["resend", "hold"])
def ambiguous(request: pytest.FixtureRequest, queueing: Queueing, settings: Any) -> Iterator[Email]:
    """An email whose final dot was never answered: it waits for its second attempt, or is held."""
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_ON_AMBIGUOUS": request.param}
    with ScriptedServer([Fault("DOT", "accept-disconnect")]) as server:
        queueing(server.port)
        email = mail.queue(message(), expires_at=3600)
        drain("mailrail.mail")
        email.refresh_from_db()
        assert email.status == (Status.QUEUED if request.param == "resend" else Status.HELD)
        assert len(server.mails) == 1
        yield email


def test_one_that_may_have_been_sent_is_not_cancelled_unless_it_is_forced(ambiguous: Email) -> None:
    refused = mail.cancel(ambiguous).refused
    assert "may have been sent already" in refused[ambiguous.pk]
    assert status_of(ambiguous) == ambiguous.status
    assert async_to_sync(mail.acancel)(ambiguous, force=True).done == [ambiguous.pk]
    ambiguous.refresh_from_db()
    assert ambiguous.status == Status.CANCELLED and ambiguous.recipients[0]["ambiguous"]
    assert ambiguous.events[-1]["what"] == "cancelled, though it may have been sent"
    advance(3600)
    drain("mailrail.mail")
    assert status_of(ambiguous) == Status.CANCELLED and sent("mailrail.mail") == []


def test_force_cancels_no_more_than_may_be_cancelled(queueing: Queueing) -> None:
    queueing(1)
    first, second = mail.queue_many([message(), message()])
    store_outcomes((), [first], "default")
    assert mail.cancel([first, second], force=True) == mail.Changed(
        [second.pk], {first.pk: "it is being sent just now"}
    )
    assert Email.objects.get(pk=second.pk).events[-1]["what"] == "cancelled"


def test_one_that_may_have_been_sent_does_not_expire_but_waits_for_a_person(ambiguous: Email) -> None:
    Email.objects.filter(pk=ambiguous.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    advance(60)
    drain("mailrail.mail")
    ambiguous.refresh_from_db()
    assert ambiguous.status == Status.HELD
    assert ambiguous.events[-1]["what"] == "held: it may have been sent"
    assert mail.unhold(ambiguous).done == [ambiguous.pk]
    advance(60)
    drain("mailrail.mail")
    assert status_of(ambiguous) == Status.SENT


def test_a_record_that_cannot_be_read_can_be_cancelled(queueing: Queueing) -> None:
    queueing(1)
    email = mail.queue(message())
    Email.objects.filter(pk=email.pk).update(recipients=[{"ambiguous": True}])
    assert mail.cancel(email).done == [email.pk]


def test_the_admin_cancels_it_by_a_decision_of_its_own(ambiguous: Email, admin_client: Any) -> None:
    page = f"/admin/mailrail_mail/email/{ambiguous.pk}/"
    shown = admin_client.get(f"{page}change/").content.decode()
    assert 'value="cancel_anyway"' in shown and "(may have it)" in shown
    refused = admin_client.post(f"{page}decide/", {"decision": "cancel"}, follow=True).content.decode()
    assert "it may have been sent already" in refused and status_of(ambiguous) == ambiguous.status
    admin_client.post(f"{page}decide/", {"decision": "cancel_anyway"})
    assert status_of(ambiguous) == Status.CANCELLED


def test_the_admin_offers_it_for_no_other_email(queueing: Queueing, admin_client: Any) -> None:
    queueing(1)
    one, other = mail.queue_many([message(), message()])
    shown = admin_client.get(f"/admin/mailrail_mail/email/{one.pk}/change/").content.decode()
    assert 'value="cancel"' in shown and 'value="cancel_anyway"' not in shown
    chosen = {"action": "cancel_anyway", "_selected_action": [one.pk, other.pk]}
    admin_client.post("/admin/mailrail_mail/email/", chosen)
    assert (status_of(one), status_of(other)) == (Status.CANCELLED, Status.CANCELLED)
