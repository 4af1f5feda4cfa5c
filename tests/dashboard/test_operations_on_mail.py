"""What people do with mailers and their email on the live page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail import mail
from mailrail.dashboard.models import Operation
from mailrail.dashboard.operation_words import CHANNEL
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.mail.mailers.channels import channel_of
from mailrail.mail.models import MailerState
from mailrail.testing import drain

from ..mail.conftest import MAILER, policy, queueing  # noqa: F401 - fixtures
from .test_operations import act, operator

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]
GONE = timedelta(seconds=1)


@pytest.fixture
def mailer(queueing: Configure) -> str:  # noqa: F811 - the fixture
    queueing(25)
    return MAILER


def emails(count: int, **changes: Any) -> list[Any]:
    """Return ids of new emails that stand so since a second ago."""
    message = [
        EmailMessage("Hello", "A body.\n", "me@example.com", [f"{n}@example.com"]) for n in range(count)
    ]
    ids = [email.pk for email in mail.queue_many(message)]
    Email.objects.filter(pk__in=ids).update(changed_at=timezone.now() - GONE, **changes)
    return ids


def statuses(ids: list[Any]) -> set[str]:
    return set(Email.objects.filter(pk__in=ids).values_list("status", flat=True))


def test_a_mailer_is_paused_and_resumed_with_who_and_why(mailer: str) -> None:
    browser = operator("pause_mailerstate")
    assert act(browser, "pause", mailer, section="mail", reason="moving house")["status"] == 200
    state = MailerState.objects.get()
    assert (state.person, state.reason) == ("ada", "moving house")
    pause = get_layer().paused()[channel_of(state.mailer)]
    assert (pause.by, pause.reason) == ("ada", "moving house")
    assert act(browser, "resume", scope="all", section="mail")["status"] == 200
    assert not MailerState.objects.exists() and not get_layer().paused()


def test_the_channel_of_a_mailer_is_paused_with_its_mailer(mailer: str) -> None:
    act(operator("pause_mailerstate"), "pause", f"default/{channel_of('out')}", reason="moving house")
    assert MailerState.objects.get().reason == "moving house"


def test_email_is_sent_again_now_or_not_at_all(mailer: str) -> None:
    browser = operator("resend_email", "cancel_email")
    failed, sent = emails(3, status=Status.FAILED), emails(2, status=Status.SENT)
    deferred, queued = emails(2, next_try_at=timezone.now() + timedelta(hours=1)), emails(2)
    act(browser, "requeue", mailer, section="mail", reason="the server is mended")
    late = emails(1, status=Status.FAILED)
    Email.objects.filter(pk__in=late).update(changed_at=timezone.now())
    drain(CHANNEL)
    assert (statuses(failed), statuses(sent), statuses(late)) == ({"queued"}, {"sent"}, {"failed"})
    act(browser, "send_now", mailer, section="mail")
    drain(CHANNEL)
    assert not Email.objects.filter(pk__in=deferred).exclude(next_try_at=None).exists()
    act(
        browser,
        "cancel",
        mailer,
        section="mail",
        at=str(Email.objects.get(pk=queued[-1]).changed_at.timestamp() + 1),
    )
    drain(CHANNEL)
    assert statuses(queued) == {"cancelled"} and statuses(failed) == {"queued"}  # those have changed since
    assert [(o.done, o.left) for o in Operation.objects.order_by("pk")] == [(3, 0), (2, 0), (2, 0)]
    assert LogEntry.objects.count() == 3
