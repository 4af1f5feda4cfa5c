"""How far the mailing of a list is: what became of each invitation, and of its email."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import django
import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.db import router
from django.utils import timezone

from mailrail import Channel
from mailrail.invitations import resend, revoke, work
from mailrail.invitations.models import Invitation, InvitationBatch
from mailrail.mail.models import Email
from mailrail.monitoring import Count, FailedItem
from mailrail.testing import drain

QUEUES, OUT = "mailrail.mail.backend.EmailBackend", "django.core.mail.backends.locmem.EmailBackend"
REPLY = {"address": "guest@example.com", "status": "failed", "code": 550, "text": "5.1.1 No such mailbox"}
NOT_SENT = "The site could not send it. Its administrators see why."


@pytest.fixture
def queueing(settings: LazySettings) -> None:
    if django.VERSION >= (6, 1):
        out = {"BACKEND": OUT}
        settings.MAILERS = {"default": {"BACKEND": QUEUES, "OPTIONS": {"deliver_with": "out"}}, "out": out}
    else:
        settings.EMAIL_BACKEND = QUEUES
        settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": OUT}


def a_list(*statuses: str | None, **fields: Any) -> tuple[InvitationBatch, list[Invitation]]:
    """Return a list of invitations, whose emails have these statuses; ``None``: there is no email yet."""
    using, now = router.db_for_write(Invitation), timezone.now()
    sender = User.objects.using(using).create(username="ada")
    batch = InvitationBatch.objects.using(using).create(sender=sender, confirmed_at=now, total=len(statuses))
    invitations = [
        Invitation(email=f"guest-{n}@example.com", sender=sender, batch=batch, sent=status and now, **fields)
        for n, status in enumerate(statuses)
    ]
    Invitation.objects.using(using).bulk_create(invitations)
    for invitation, status in zip(invitations, statuses, strict=True):
        if status is not None:
            an_email(invitation, status)
    return batch, invitations


def an_email(invitation: Invitation, status: str) -> None:
    about = f"mailrail_invitations.invitation:{invitation.pk}"
    recipients = [REPLY] if status == "failed" else []
    Email.objects.create(related_object=about, status=status, recipients=recipients)


ALL = ("sent", "partial", "queued", "sending", "held", "failed", "cancelled", "expired", "suppressed", None)


@pytest.mark.parametrize("on", ["default", "postgres"])
@pytest.mark.django_db(databases=["default", "postgres"])
def test_an_invitation_stands_as_its_email_stands(on: str, settings: LazySettings) -> None:
    if on == "postgres":
        settings.DATABASE_ROUTERS = ["tests.routers.InvitationsOnPostgres"]
    batch, _ = a_list(*ALL)
    a_list_of_somebody_else = InvitationBatch.objects.create(sender=batch.sender)
    progress = batch.mailrail_progress()
    assert (progress.done, progress.failed, progress.waiting, progress.total) == (2, 4, 4, 10)
    assert progress.failures == [
        FailedItem("guest-5@example.com", "failed, 550 5.1.1 No such mailbox"),
        FailedItem("guest-6@example.com", "cancelled"),
        FailedItem("guest-7@example.com", "expired"),
        FailedItem("guest-8@example.com", "suppressed"),
    ]
    assert a_list_of_somebody_else.mailrail_progress().total == 0


def test_an_email_whose_record_is_gone_was_sent_and_the_newest_one_counts(db: None) -> None:
    batch, [first, second] = a_list("failed", "sent")
    Email.objects.filter(related_object__endswith=f":{second.pk}").delete()
    an_email(first, "sent")
    assert (batch.mailrail_progress().done, batch.mailrail_progress().failed) == (2, 0)


def test_where_email_has_another_database_what_was_handed_over_is_sent(
    db: None, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, _ = a_list("failed")
    monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
    settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    assert batch.mailrail_progress().done == 1


def test_an_accepted_invitation_has_arrived_and_a_revoked_one_is_not_waited_for(db: None) -> None:
    batch, [accepted, revoked, expired, _] = a_list("failed", None, None, None)
    accepted.accept()
    revoke(revoked)
    Invitation.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    progress = batch.mailrail_progress()
    assert (progress.done, progress.failed, progress.waiting, progress.total) == (1, 0, 1, 2)


def test_a_page_names_the_first_failures_only(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailrail.invitations.progress.MAX_FAILURES", 2)
    batch, _ = a_list("failed", "failed", "failed")
    progress = batch.mailrail_progress()
    assert progress.failed == 3 and [name for name, *_ in progress.failures] == [
        "guest-0@example.com",
        "guest-1@example.com",
    ]


def test_the_number_of_queries_does_not_grow_with_the_list(db: None, django_assert_num_queries: Any) -> None:
    batch, _ = a_list(*ALL * 3)
    with django_assert_num_queries(3):
        batch.mailrail_progress()


def test_an_invitation_whose_message_is_buried_has_failed_until_it_is_sent_again(
    queueing: None, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, [invitation] = a_list(None)
    with monkeypatch.context() as broken:
        broken.setattr("mailrail.invitations.consumers.compose", without_a_template)
        Channel("send-invite").send(invitation.content, attempts=1)
        drain(raise_errors=False)
    progress = batch.mailrail_progress()
    assert (progress.failed, progress.failures) == (1, [FailedItem("guest-0@example.com", NOT_SENT)])
    resend(invitation)
    assert batch.mailrail_progress().waiting == 1
    drain()
    assert batch.mailrail_progress().done == 1


def without_a_template(invitation: Invitation) -> EmailMessage:
    raise LookupError("no template")


def test_the_email_of_an_invitation_says_what_it_is_about(queueing: None, db: None) -> None:
    batch, [invitation] = a_list(None)
    resend(invitation)
    drain()
    email = Email.objects.get()
    assert email.related_object == f"mailrail_invitations.invitation:{invitation.pk}"
    assert "mailrail_about" not in str(email.content)
    Email.objects.update(status="queued")
    assert batch.mailrail_progress().waiting == 1


# -- what people on call see of it ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_people_on_call_see_the_lists_of_which_something_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailrail.monitoring.tally.BUDGET_S", 60.0)  # however slow this machine is
    work._ended.clear()
    work._progress.values([])
    batch, _ = a_list("sent", "sent", "failed", "queued", None)
    done = InvitationBatch.objects.create(sender=batch.sender, confirmed_at=timezone.now(), total=1)
    Invitation.objects.create(email="guest@example.com", sender=batch.sender, batch=done, sent=timezone.now())
    InvitationBatch.objects.create(sender=batch.sender, total=1)  # nobody has confirmed it
    old = timezone.now() - timedelta(seconds=work.RECENT_S + 60)
    InvitationBatch.objects.create(sender=batch.sender, total=1, confirmed_at=old)
    [facts] = work.invitation_lists()
    assert (facts.pk, facts.title, facts.model) == (
        str(batch.pk),
        "ada",
        "mailrail_invitations.invitationbatch",
    )
    assert (facts.done, facts.failed, facts.total) == (Count(2), Count(1), Count(5))
    assert set(work._ended) == {done.pk}, "it is not counted again soon"
    Invitation.objects.filter(batch=batch, sent=None).update(revoked_at=timezone.now())
    Email.objects.update(status="sent")
    work._progress.values([])
    assert list(work.invitation_lists()) == []
