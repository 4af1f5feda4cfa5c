"""What is written into records, on each database: by one statement on PostgreSQL, row by row elsewhere."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from mailrail.mail.delivery.outcomes import Result, add_event, fail
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.models import Email, Status, Suppression

pytestmark = pytest.mark.django_db(databases=["default", "postgres"])


@pytest.fixture(params=["default", "postgres", "a pooler"])
def using(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "a pooler":
        monkeypatch.setattr("mailrail.prepared_statements.is_pooled", lambda connection: True)
        return "postgres"
    return str(request.param)


def new_email(using: str, **more: object) -> Email:
    recipients = [{"address": "ann@example.com", "status": "queued"}]
    return Email.objects.using(using).create(**{"recipients": recipients, **more})


def test_outcomes_and_intents_are_written_together(using: str) -> None:
    sent, failed, next_one = (new_email(using) for _ in range(3))
    now = timezone.now() + timedelta(microseconds=7)
    sent.recipients[0].update(status="sent", text='250 "Grüße" \\ %s')
    add_event(sent, now, "accepted", mailer="smtp")
    sent.status, sent.changed_at, sent.sent_at, sent.attempts = Status.SENT, now, now, 2
    results = [Result(sent, Status.SENT), fail(failed, now, "it's no use", "smtp")]
    written = store_outcomes(results, [next_one], using)
    assert (written.saved, written.claimed) == ({sent.pk, failed.pk}, {next_one.pk})
    assert next_one.status == Status.SENDING
    for email in (sent, failed, next_one):
        stored = Email.objects.using(using).get(pk=email.pk)
        for name in ("status", "recipients", "attempts", "events", "sent_at", "version"):
            assert getattr(stored, name) == getattr(email, name), name
        assert stored.version == 1
    assert Email.objects.using(using).get(pk=sent.pk).changed_at == now


def test_what_somebody_else_has_changed_is_neither_saved_nor_claimed(using: str) -> None:
    saved, taken, cancelled, claimed = (new_email(using) for _ in range(4))
    Email.objects.using(using).filter(pk__in=[taken.pk, saved.pk]).update(version=5)
    Email.objects.using(using).filter(pk=cancelled.pk).update(status=Status.CANCELLED)
    written = store_outcomes(
        [Result(saved, Status.SENT, suppress={"ann@example.com": "550"})],
        [taken, cancelled, claimed],
        using,
    )
    assert (written.saved, written.claimed) == (set(), {claimed.pk})
    assert not Suppression.objects.using(using).exists()
    assert [each.version for each in (saved, taken, cancelled, claimed)] == [0, 0, 0, 1]


def test_addresses_are_suppressed_with_the_outcome_that_says_so(using: str) -> None:
    email = new_email(using, status=Status.SENDING)
    email.status = Status.FAILED
    store_outcomes(
        [Result(email, Status.FAILED, suppress={"ann@example.com": "550 5.1.1 Nobody"})], [], using
    )
    assert Suppression.objects.using(using).get().note == "550 5.1.1 Nobody"
    assert Email.objects.using(using).get().status == "failed"


def test_nothing_to_write_is_nothing(using: str) -> None:
    assert store_outcomes([], [], using) == (set(), set())
