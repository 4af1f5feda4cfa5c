"""``manage.py mailq``: what people and monitors learn about the queue."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email, overview
from mailrail.mail.ledger import write
from mailrail.mail.mailers import delivering
from mailrail.mail.models import MailerState
from mailrail.mail.outcomes import fail


@pytest.fixture(autouse=True)
def queues(queueing: Callable[..., None], on: str) -> None:
    queueing(1)


def queue(count: int, **options: Any) -> list[Email]:
    messages = [
        EmailMessage("Hello", "A body.\n", "me@example.com", ["you@example.com"]) for _ in range(count)
    ]
    return mail.queue_many(messages, **options)


def mailq(*arguments: str) -> str:
    out = io.StringIO()
    call_command("mailq", *arguments, stdout=out)
    return out.getvalue()


def report(*arguments: str) -> Any:
    return json.loads(mailq("--json", *arguments))


def test_an_empty_queue() -> None:
    assert mailq().startswith("Nothing waits.")
    assert report() == {
        "waiting": [],
        "ended": [
            {"status": status, "count": 0, "more": False}
            for status in ("sent", "failed", "cancelled", "expired", "suppressed")
        ],
        "mailers": [],
        "failures": [],
    }


def test_what_waits_by_status_and_mailer(on: str) -> None:
    [ours] = delivering()
    first, *_ = queue(3)
    queue(2, send_at=3600)
    mail.hold(first)
    elsewhere = queue(1)
    Email.objects.filter(pk=elsewhere[0].pk).update(
        mailer="bulk", created_at=timezone.now() - timedelta(hours=1)
    )
    waiting = {(each["status"], each["mailer"]): each for each in report()["waiting"]}
    assert {name: (each["count"], each["later"]) for name, each in waiting.items()} == {
        ("queued", ours): (4, 2),
        ("queued", "bulk"): (1, 0),
        ("held", ours): (1, 0),
    }
    assert not any(each["more"] for each in waiting.values())
    lines = {line.split()[0]: line for line in mailq("--mailer", "bulk").splitlines() if line}
    assert set(lines) == {"status", "queued"} and "3,60" in lines["queued"]
    assert [each["status"] for each in report("--status", "held")["waiting"]] == ["held"]


def test_mailers_that_are_paused_and_what_failed_last(on: str) -> None:
    MailerState.objects.create(mailer="bulk", paused_by="person", reason="the provider asked us to")
    MailerState.objects.create(mailer="", paused_by="outage", reason="login refused", probe_at=timezone.now())
    [email] = queue(1)
    write([fail(email, timezone.now(), "550 5.7.1 no", "out")], (), on)
    said = mailq()
    assert "Mailer bulk is paused by person" in said and "the provider asked us to" in said
    assert "Mailer default is paused by outage" in said and "next try in 0 s: login refused" in said
    assert f"{email.pk}  you@example.com  550 5.7.1 no" in said and "failed 1" in said
    assert [each["id"] for each in report("--mailer", email.mailer)["failures"]] == [str(email.pk)]
    assert report("--mailer", "bulk")["failures"] == report("--status", "sent")["failures"] == []
    assert [each["mailer"] for each in report("--mailer", "bulk")["mailers"]] == ["bulk"]


def test_no_more_is_counted_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "COUNTED", 3)
    mail.cancel(queue(4))
    queue(3)
    assert "cancelled 3+" in mailq() and "3+" not in mailq("--status", "queued")
    queue(1)
    [waiting] = report("--status", "queued")["waiting"]
    assert (waiting["count"], waiting["more"]) == (3, True)
    assert "3+" in mailq("--status", "queued")


def test_a_status_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CommandError, match="--status"):
        mailq("--status", "lost")


def test_records_of_other_hands_do_no_harm() -> None:
    queue(1)
    Email.objects.update(status="failed", recipients=["x"], events=[3])
    [failure] = report()["failures"]
    assert (failure["recipients"], failure["why"]) == ([""], "")


def test_nothing_that_servers_say_steers_the_terminal(on: str) -> None:
    [email] = queue(1)
    write([fail(email, timezone.now(), "550 \x1b[2Jno", "out")], (), on)
    MailerState.objects.create(
        mailer="out", paused_by="outage", reason="421 \x1b]0;gone\a", since=timezone.now()
    )
    text = mailq()
    assert "550 \\x1b[2Jno" in text and "421 \\x1b]0;gone\\x07" in text and "\x1b" not in text
