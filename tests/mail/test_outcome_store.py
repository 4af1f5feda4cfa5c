"""What is written into records, on each database: by one statement on PostgreSQL, row by row elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from django.db import connections
from django.utils import timezone

from mailrail.mail.delivery.outcomes import Result, fail
from mailrail.mail.delivery.record import add_event
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers import failover
from mailrail.mail.models import Email, Status, Suppression
from mailrail.mail.records import control, erasure, moving
from mailrail.moments import aware

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
    assert store_outcomes(results, [next_one], using) == set(), "nothing was changed meanwhile"
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
    lost = store_outcomes(
        [Result(saved, Status.SENT, suppress={"ann@example.com": "550"})],
        [taken, cancelled, claimed],
        using,
    )
    assert lost == {saved.pk, taken.pk, cancelled.pk}
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
    assert store_outcomes([], [], using) == set()


ROUNDS = int(os.environ.get("MAILRAIL_RACE_ROUNDS", "40"))


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("using", ["default", "postgres"])
def test_of_an_intent_and_a_person_who_cancels_one_wins(
    using: str, elsewhere: Callable[..., Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round after round: an email that may leave is not cancelled, and one that is cancelled is not sent."""
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", using)
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    emails = [new_email(using) for _ in range(ROUNDS)]
    for email in emails:
        together = Barrier(2)
        cancelling = elsewhere.submit(cancel_with, together, email.pk)  # type: ignore[attr-defined]
        together.wait()
        may_leave = not store_outcomes([], [email], using)
        is_cancelled = bool(cancelling.result(timeout=30).done)
        assert may_leave is not is_cancelled
        stored = Email.objects.using(using).get(pk=email.pk)
        assert stored.status == (Status.SENDING if may_leave else Status.CANCELLED)
        assert stored.version == 1


def cancel_with(together: Barrier, id: UUID) -> control.Changed:
    together.wait()
    return control.cancel(id)


DECISIONS: dict[str, Callable[[Email, str], bool]] = {
    "cancel": lambda email, using: bool(control.cancel(email).done),
    "hold": lambda email, using: bool(control.hold(email).done),
    "erase": lambda email, using: not erasure.erase("ann@example.com", using).left,
    "resend": lambda email, using: bool(control.resend(email).done),
    "fail over": lambda email, using: not failover.move([email], "standby", using),
    "move": lambda email, using: bool(moving._move_page([email.pk], "standby", using, False).moved),
}
"""What else changes an email. Each says whether it did."""


@pytest.fixture
def decisions_on(using: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if using != "default":
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", using)
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
        layer = {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": using}}
        settings.CHANNEL_LAYERS = {"default": layer}
    return using


@pytest.mark.parametrize("decide", DECISIONS)
@pytest.mark.parametrize("intends_first", [True, False])
def test_of_an_intent_and_whatever_else_changes_an_email_the_first_counts(
    decisions_on: str, decide: str, intends_first: bool
) -> None:
    """A worker and somebody else have read the same record."""
    status = Status.FAILED if decide == "resend" and not intends_first else Status.QUEUED
    email = new_email(decisions_on, status=status)
    of_worker, of_other = (Email.objects.using(decisions_on).get(pk=email.pk) for _ in range(2))
    changed = None if intends_first else DECISIONS[decide](of_other, decisions_on)
    lost = store_outcomes([], [of_worker], decisions_on)
    if intends_first:
        changed = DECISIONS[decide](of_other, decisions_on)
        assert Email.objects.using(decisions_on).values_list("status", "version").get() == ("sending", 1)
    assert (changed, lost) == ((False, set()) if intends_first else (True, {email.pk}))


def test_an_intent_is_refused_to_a_worker_that_was_overtaken(using: str) -> None:
    """One was stopped between loading an email and its final dot, until another one had sent it, or had begun to."""
    begun, ended = new_email(using), new_email(using)
    stopped = [Email.objects.using(using).get(pk=email.pk) for email in (begun, ended)]
    assert store_outcomes([], [begun, ended], using) == set()
    now = timezone.now()
    ended.status, ended.sent_at = Status.SENT, now
    assert store_outcomes([Result(ended, Status.SENT)], [], using) == set()
    overtaken = {begun.pk, ended.pk}
    assert store_outcomes([], stopped, using) == overtaken
    assert store_outcomes([fail(email, now, "late", "smtp") for email in stopped], [], using) == overtaken
    assert [Email.objects.using(using).get(pk=email.pk).status for email in stopped] == ["sending", "sent"]


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_versions_of_an_email_stay_on_its_page() -> None:
    """PostgreSQL logs the whole of a version that moves to another page, and locks the one before."""
    content = {"v": 1, "fields": {"body": "Hello. " * 64}}
    emails = [new_email("postgres", content=content) for _ in range(40)]
    first = pages_of(emails)
    assert store_outcomes([], emails, "postgres") == set()
    assert pages_of(emails) == first
    now = timezone.now()
    for email in emails:
        answer = {"code": 250, "enhanced": "2.0.0", "text": "Ok: queued as 1DBE5C2F3", "at": now.isoformat()}
        email.recipients[0].update(status="sent", **answer)
        add_event(email, now, "accepted", mailer="smtp", stage="final dot", code=250, text=answer["text"])
        email.status, email.sent_at, email.changed_at = Status.SENT, now, now
    assert store_outcomes([Result(email, Status.SENT) for email in emails], [], "postgres") == set()
    assert pages_of(emails) == first


def pages_of(emails: list[Email]) -> dict[UUID, int]:
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT id, (ctid::text::point)[0]::int FROM mailrail_mail_email WHERE id = ANY (%s)",
            [[email.pk for email in emails]],
        )
        return dict(cursor.fetchall())


def test_moments_are_stored_with_all_their_digits(using: str) -> None:
    email = new_email(using)
    changed, sent, next_try = (
        datetime(2026, 11, 30, 21, 52, 9, n, tzinfo=UTC) for n in (999_999, 416_421, 1)
    )
    email.changed_at, email.sent_at, email.next_try_at = changed, sent, next_try
    assert store_outcomes([Result(email, Status.QUEUED)], [], using) == set()
    stored = Email.objects.using(using).get(pk=email.pk)
    moments = (stored.changed_at, stored.sent_at, stored.next_try_at)
    assert [at and aware(at) for at in moments] == [changed, sent, next_try]


@pytest.mark.parametrize("table", ["mailrail_mail_email", "mailrail_message"])
def test_versions_of_a_row_are_not_merged_in_the_index_of_its_key(table: str) -> None:
    """It would take PostgreSQL more time than removing them does."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE oid = %s::regclass", [f"{table}_pkey"])
        assert cursor.fetchone() == (["deduplicate_items=off"],)
