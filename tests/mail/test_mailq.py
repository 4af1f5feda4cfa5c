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
from mailrail.mail import Email
from mailrail.mail.delivery.answers import apply_outcome
from mailrail.mail.delivery.outcomes import fail, missing_file
from mailrail.mail.delivery.store import store_outcomes
from mailrail.mail.mailers.config import delivering
from mailrail.mail.mailers.refused_senders import RefusedSenders
from mailrail.mail.management.commands import mailq as mailq_command
from mailrail.mail.models import MailerState
from mailrail.mail.records import overview
from mailrail.mail.smtp import DeliveryOutcome, Fate
from mailrail.mail.smtp.replies import Reply, Stage


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
    assert mailq().startswith("The queue is empty.")
    assert report() == {
        "waiting": [],
        "ended": [
            {"status": status, "count": 0, "more": False}
            for status in ("sent", "partial", "failed", "cancelled", "expired", "suppressed")
        ],
        "mailers": [],
        "refused_senders": [],
        "deferrals": [],
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
    numbers = ("count", "due", "deferred", "later")
    assert {name: tuple(each[number] for number in numbers) for name, each in waiting.items()} == {
        ("queued", ours): (4, 2, 0, 2),
        ("queued", "bulk"): (1, 1, 0, 0),
        ("held", ours): (1, 1, 0, 0),
    }
    assert not any(each["more"] for each in waiting.values())
    lines = {line.split()[0]: line for line in mailq("--mailer", "bulk").splitlines() if line}
    assert set(lines) == {"status", "queued"} and "3,60" in lines["queued"]
    assert [each["status"] for each in report("--status", "held")["waiting"]] == ["held"]


def test_mailers_that_are_paused_and_what_failed_last(on: str) -> None:
    MailerState.objects.create(mailer="bulk", paused_by="person", reason="the provider asked us to")
    MailerState.objects.create(mailer="", paused_by="outage", reason="login refused", probe_at=timezone.now())
    [email] = queue(1)
    store_outcomes([fail(email, timezone.now(), "550 5.7.1 no", "out")], (), on)
    report_text = mailq()
    assert "Mailer bulk is paused by person" in report_text and "the provider asked us to" in report_text
    assert (
        "Mailer default is paused by outage" in report_text
        and "next try in 0 s: login refused" in report_text
    )
    assert f"{email.pk}  you@example.com  550 5.7.1 no" in report_text and "failed 1" in report_text
    assert [each["id"] for each in report("--mailer", email.mailer)["failures"]] == [str(email.pk)]
    assert report("--mailer", "bulk")["failures"] == report("--status", "sent")["failures"] == []
    assert [each["mailer"] for each in report("--mailer", "bulk")["mailers"]] == ["bulk"]


def test_what_is_partly_sent_is_among_what_failed(on: str) -> None:
    [whole] = queue(1)
    to = ["ann@example.com", "gone@example.com", "bob@example.com"]
    part = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", to))
    unknown = Reply(550, "Unknown", "5.1.1")
    outcome = DeliveryOutcome(Fate.ACCEPTED, Stage.DOT, Reply(250, "Ok"), {"gone@example.com": unknown})
    store_outcomes([fail(whole, timezone.now(), "550 5.7.1 no", "out")], (), on)
    store_outcomes([apply_outcome(part, outcome, timezone.now(), "out", RefusedSenders("out", on))], (), on)
    report_text = mailq()
    assert "sent 0, partial 1, failed 1" in report_text
    assert f"{part.pk}  gone@example.com (2 of 3 have it)  550 5.1.1 Unknown" in report_text
    ids = [[each["id"] for each in report(*only)["failures"]] for only in ((), ("--status", "partial"))]
    assert ids == [[str(part.pk), str(whole.pk)], [str(part.pk)]]
    assert report()["failures"][0]["recipients"] == ["gone@example.com"]


def test_what_failed_last_stands_first_whenever_it_was_queued(on: str) -> None:
    first, second, third = queue(3)
    for email, hour in ((second, 1), (third, 2), (first, 3)):
        store_outcomes([fail(email, timezone.now() + timedelta(hours=hour), "550 5.7.1 no", "out")], (), on)
    in_order = [str(first.pk), str(third.pk), str(second.pk)]
    assert [each["id"] for each in report()["failures"]] == in_order
    assert [each["id"] for each in report("--mailer", first.mailer)["failures"]] == in_order


def deferred(email: Email, on: str, text: str, **changed: Any) -> None:
    """As a reply to the final dot leaves it."""
    reply = Reply(451, text, "4.7.1")
    senders = RefusedSenders(email.mailer, on)
    store_outcomes(
        [
            apply_outcome(
                email, DeliveryOutcome(Fate.REFUSED, Stage.DOT, reply), timezone.now(), email.mailer, senders
            )
        ],
        (),
        on,
    )
    Email.objects.filter(pk=email.pk).update(**changed)


def test_what_waits_for_its_next_attempt_is_not_due_and_is_grouped_by_reason(on: str) -> None:
    first, second, third, fourth, _ = queue(5)
    now = timezone.now()
    deferred(first, on, "greylisted, ticket A1b2", next_try_at=now + timedelta(seconds=40.5))
    deferred(second, on, "greylisted, ticket C3d4", next_try_at=now + timedelta(seconds=90))
    deferred(third, on, "the mailbox is locked", next_try_at=now + timedelta(hours=2))
    deferred(fourth, on, "greylisted, ticket E5", next_try_at=now - timedelta(hours=1))
    facts = report()
    [waiting] = facts["waiting"]
    assert [waiting[name] for name in ("count", "due", "deferred", "later")] == [5, 2, 3, 0]
    assert [(each["count"], each["reason"]) for each in facts["deferrals"]] == [
        (2, "451 4.7.1 greylisted, ticket A1b2"),
        (1, "451 4.7.1 the mailbox is locked"),
    ]
    text = mailq()
    assert "2 of mailer" in text and "next try in 40 s: 451 4.7.1 greylisted, ticket A1b2" in text
    mail.hold(queue(1))
    assert report("--status", "held")["deferrals"] == []
    Email.objects.filter(status="held").update(mailer="bulk")
    assert report("--mailer", "bulk")["deferrals"] == []


def test_an_email_that_ends_or_is_unheld_waits_for_no_attempt(on: str) -> None:
    cancelled, unheld, failed, resent = queue(4)
    for email in (cancelled, unheld, failed, resent):
        deferred(email, on, "later")
    assert not Email.objects.filter(next_try_at=None).exists()
    mail.hold([unheld])
    mail.unhold(unheld)
    mail.cancel([cancelled, resent])
    mail.resend(resent)
    store_outcomes([fail(failed, timezone.now(), "no", "out")], (), on)
    assert not Email.objects.exclude(next_try_at=None).exists()
    [waiting] = report("--status", "queued")["waiting"]
    assert (waiting["due"], waiting["deferred"]) == (2, 0)


def test_many_reasons_are_told_in_full_to_machines_only(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailq_command, "MAX_REASONS", 2)
    for email, word in zip(queue(4), ("one", "two", "three", "four"), strict=True):
        deferred(email, on, word)
    assert len(report()["deferrals"]) == 4
    assert "… and 2 other reasons" in mailq()


def test_no_more_is_counted_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MAX_COUNTED", 3)
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


@pytest.mark.parametrize("more", [(), ("--json",), ("--status", "failed")])
def test_a_mailer_that_nobody_knows_is_refused_and_those_there_are_are_named(more: tuple[str, ...]) -> None:
    queue(1)
    with pytest.raises(
        CommandError, match=r"^No setting defines a mailer 'nope'.* There are: (out|default)\.$"
    ):
        mailq("--mailer", "nope", *more)
    name = delivering()[0] or "default"
    assert "queued" in mailq("--mailer", name), "by the name that it is shown with"
    Email.objects.update(mailer="removed")
    assert "queued" in mailq("--mailer", "removed"), "its mail still waits"


def test_records_of_other_hands_do_no_harm() -> None:
    queue(1)
    Email.objects.update(status="failed", recipients=["x"], events=[3])
    [failure] = report()["failures"]
    assert (failure["recipients"], failure["why"]) == ([""], "")


def test_nothing_that_servers_say_steers_the_terminal(on: str) -> None:
    [email] = queue(1)
    store_outcomes([fail(email, timezone.now(), "550 \x1b[2Jno\nEnded: sent 9", "out")], (), on)
    MailerState.objects.create(
        mailer="out", paused_by="outage", reason="421 \x1b]0;gone\a", since=timezone.now()
    )
    text = mailq()
    assert "550 \\x1b[2Jno\n" in text and "Ended: sent 9" not in text, "of what is no reply, the first line"
    assert "550 \\u001b[2Jno" in mailq("--json")
    assert "550 \\x1b[2Jno" in text and "421 \\x1b]0;gone\\x07" in text and "\x1b" not in text


SEVERAL_LINES = 'UndefinedColumn: column "b" does not exist\nLINE 1: SELECT b FROM a\n               ^'
FIRST_LINE = 'UndefinedColumn: column "b" does not exist\n'


def test_reasons_that_exceptions_gave_are_shown_by_class_and_first_line(on: str) -> None:
    """Those that differ only behind it are one; JSON has all of it."""
    failed, *deferred = queue(3)
    now = timezone.now()
    results = [fail(failed, now, SEVERAL_LINES, "out")]
    for n, email in enumerate(deferred):
        results.append(missing_file(email, now, f"{SEVERAL_LINES}{'   ' * n}", "out"))
    store_outcomes(results, (), on)
    text = mailq()
    assert text.count(FIRST_LINE) == 2 and "LINE 1" not in text and "2 of mailer" in text
    facts = report()
    assert facts["failures"][0]["why"] == facts["deferrals"][0]["reason"].rstrip(" ") == SEVERAL_LINES
    assert facts["deferrals"][0]["summary"] == FIRST_LINE.rstrip()


def test_a_reply_of_several_lines_is_shown_whole(on: str) -> None:
    [email] = queue(1)
    reply = Reply(550, "Your mail was blocked because\nits sender is unknown.", "5.7.1")
    outcome = DeliveryOutcome(Fate.REFUSED, Stage.RCPT, None, {"you@example.com": reply})
    store_outcomes([apply_outcome(email, outcome, timezone.now(), "out", RefusedSenders("out", on))], (), on)
    assert "550 5.7.1 Your mail was blocked because\\nits sender is unknown.\n" in mailq()
