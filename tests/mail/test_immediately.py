"""``mail.queue(…, immediately=True)``: queued, and sent, though the caller's transaction is rolled back."""

from __future__ import annotations

import pytest
from django.core import mail as djangos
from django.core.mail import EmailMessage
from django.db import transaction

from mailrail import WouldDeadlock, mail
from mailrail.mail import CannotQueue, Email
from mailrail.mail.models import EmailFile, File

from .conftest import work

needs_both = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


def message(subject: str = "Somebody tried to pay") -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", ["you@example.com"])


def with_a_file() -> EmailMessage:
    made = message("With a file")
    made.attach("a.bin", b"\0" * 100_000, "application/octet-stream")
    return made


@needs_both
@pytest.mark.parametrize("each_layer", ["postgres"], indirect=True)
def test_on_postgresql_it_is_queued_and_the_rest_is_rolled_back(each_layer: None) -> None:
    with transaction.atomic("postgres"):
        mail.queue(message("Rolled back"))
        queued = mail.queue(message(), immediately=True)
        more = mail.queue_many([with_a_file(), message("Another")], immediately=True)
        keyed = mail.queue(message("Once"), key="once", immediately=True)
        again = mail.queue(message("Once"), key="once", immediately=True)
        transaction.set_rollback(True, "postgres")
    kept = {email.pk for email in Email.objects.using("postgres").all()}
    assert kept == {queued.pk, keyed.pk, *(email.pk for email in more)} and again.pk == keyed.pk
    assert File.objects.using("postgres").count() == EmailFile.objects.using("postgres").count() == 1
    work()
    subjects = [each.subject for each in djangos.outbox]
    assert sorted(subjects) == ["Another", "Once", "Somebody tried to pay", "With a file"]


@needs_both
@pytest.mark.parametrize("each_layer", ["postgres"], indirect=True)
def test_on_postgresql_the_callers_transaction_goes_on_after_a_refusal(
    each_layer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailrail.second_connection.LOCK_TIMEOUT_S", 0.1)
    with transaction.atomic("postgres"):
        held = mail.queue(message(), key="mine")
        with pytest.raises(WouldDeadlock, match=r"same key.*queue before atomic\(\)"):
            mail.queue(message(), key="mine", immediately=True)
        with pytest.raises(CannotQueue):
            mail.queue(EmailMessage("Hi", "Text.", "me@example.com", ["a\0b@example.com"]), immediately=True)
        other = mail.queue(message("Other"))
    assert {email.pk for email in Email.objects.using("postgres").all()} == {held.pk, other.pk}


@needs_both
@pytest.mark.parametrize("each_layer", ["redis", "redis with an outbox"], indirect=True)
def test_records_on_sqlite_are_refused_inside_a_transaction(each_layer: None) -> None:
    with transaction.atomic():
        with pytest.raises(
            WouldDeadlock, match=r"immediately=True inside a transaction.*queue before atomic\(\)"
        ):
            mail.queue(message(), immediately=True)
        with pytest.raises(WouldDeadlock):
            mail.queue_many([message()], immediately=True)
        kept = mail.queue(message("Kept"))
    assert Email.objects.get().pk == kept.pk


@needs_both
def test_outside_a_transaction_it_changes_nothing(each_layer: None) -> None:
    queued = mail.queue(message(), immediately=True)
    work()
    assert Email.objects.get(pk=queued.pk).status == "sent" and len(djangos.outbox) == 1


@needs_both
@pytest.mark.parametrize("each_layer", ["redis", "redis with an outbox"], indirect=True)
def test_with_messages_on_redis_the_message_follows_its_record(
    each_layer: None, monkeypatch: pytest.MonkeyPatch, settings: object
) -> None:
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]  # type: ignore[attr-defined]
    with transaction.atomic("postgres"):
        queued = mail.queue(message(), immediately=True)
        transaction.set_rollback(True, "postgres")
    relay_and_work()
    assert Email.objects.using("postgres").get(pk=queued.pk).status == "sent"


def relay_and_work() -> None:
    from mailrail.layers import get_layer

    if get_layer().outbox is not None:
        from django.core.management import call_command

        call_command("channels", "relay", verbosity=0)
    work()
