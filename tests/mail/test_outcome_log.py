"""What the log says of each email, and that it says nothing of those that only wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email
from mailrail.mail.delivery import outcome_log
from mailrail.mail.delivery.outcomes import fail
from mailrail.mail.mailers import circuit
from mailrail.mail.models import MailerState
from mailrail.testing import advance

from ..smtp_server import Fault, ScriptedServer
from .conftest import MAILER, messages, work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def all_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mailrail")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (each.levelname, each.getMessage())
        for each in caplog.records
        if each.name == "mailrail.mail" and " email=" in each.getMessage()
    ]


def test_each_outcome_is_one_line_with_recipients_mailer_and_reply(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    refused = {"gone@example.com": "550 5.1.1 no such user", "later@example.com": "450 4.2.0 come back"}
    with ScriptedServer(refused=refused) as server:
        queueing(server.port)
        addresses = ["ann@example.com", "gone@example.com", "later@example.com"]
        sent, failed, deferred = mail.queue_many(
            EmailMessage("Hello", "A body.\n", "me@example.com", [each]) for each in addresses
        )
        both = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", addresses[:2]))
        gone = mail.queue(
            EmailMessage("Hello", "A body.\n", "me@example.com", ["ann@example.com"]), expires_at=0.001
        )
        advance(1)
        work()
    found = {line.split()[1].removeprefix("email="): (level, line) for level, line in lines(caplog)}
    assert len(lines(caplog)) == len(found) == 5
    level, line = found[str(sent.pk)]
    assert level == "INFO"
    assert line.startswith(f"sent email={sent.pk} to=ann@example.com mailer={MAILER} code=250")
    refusal = "code=550 enhanced=5.1.1 text='no such user'"
    assert found[str(failed.pk)] == (
        "WARNING",
        f"failed email={failed.pk} to=gone@example.com mailer={MAILER} {refusal}",
    )
    level, line = found[str(deferred.pk)]
    assert level == "INFO" and line.startswith(f"deferred email={deferred.pk} to=later@example.com")
    assert " next_try_in=" in line and line.endswith("code=450 enhanced=4.2.0 text='come back'")
    assert found[str(both.pk)] == (
        "WARNING",
        f"partial email={both.pk} to=ann@example.com,gone@example.com mailer={MAILER} failed=1 {refusal}",
    )
    assert found[str(gone.pk)][0] == "WARNING" and found[str(gone.pk)][1].startswith(
        f"expired email={gone.pk}"
    )
    assert "finished mailrail.mail" not in caplog.text, "the worker does not say it a second time"


def test_the_facts_are_there_for_formatters_that_write_json(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(refused={"to0@example.com": "550 5.1.1 no such user"}) as server:
        queueing(server.port)
        [email] = mail.queue_many(messages(1))
        work()
    [record] = [each for each in caplog.records if hasattr(each, "email_id")]
    facts = ("outcome", "email_id", "mailer", "recipients", "code", "enhanced", "text")
    expected = ["failed", str(email.pk), MAILER, "to0@example.com", "550", "5.1.1", "no such user"]
    assert [getattr(record, name) for name in facts] == expected


@pytest.mark.parametrize(
    ("how", "to", "quoted"),
    [
        ("full", "to0@example.com", "<to0@example.com> is unknown"),
        ("domain", "…@example.com", "<…@example.com> is unknown"),
        ("none", "1 recipient", "<…> is unknown"),
    ],
)
def test_a_setting_hides_recipients_also_where_a_server_quotes_them(
    queueing: Configure, caplog: pytest.LogCaptureFixture, settings: Any, how: str, to: str, quoted: str
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_LOG_RECIPIENTS": how}
    with ScriptedServer(refused={"to0@example.com": "550 5.1.1 <to0@example.com> is unknown"}) as server:
        queueing(server.port)
        mail.queue_many(messages(1))
        work()
    [(_, line)] = lines(caplog)
    assert f" to={to} " in line and line.endswith(f"text='{quoted}'")
    assert how == "full" or "to0" not in caplog.text


def test_email_that_waits_for_its_mailer_leaves_no_line_each(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server:
        port = server.port
    queueing(port)
    mail.queue_many(messages(300))
    for _ in range(3):
        work()
        advance(400)
    log_lines = [each.getMessage() for each in caplog.records if each.name.startswith("mailrail")]
    assert not lines(caplog) and not [each for each in log_lines if each.startswith("released")]
    assert len([each for each in log_lines if "cannot be used" in each]) == 1


def test_without_a_listener_no_line_is_written(
    queueing: Configure, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line of an email that was sent is not even put together."""
    caplog.set_level(logging.WARNING, "mailrail")

    made: list[Any] = []
    real = outcome_log._log

    def counted(*arguments: Any) -> None:
        made.append(arguments)
        real(*arguments)

    monkeypatch.setattr(outcome_log, "_log", counted)
    with ScriptedServer(refused={"to1@example.com": "550 5.1.1 no"}) as server:
        queueing(server.port)
        mail.queue_many(messages(5))
        work()
        assert len(server.mails) == 4
    assert len(made) == len(lines(caplog)) == 1


# -- what others say, escaped -----------------------------------------------------------------------------------------

RAW = "\x1b[2Jno \u202eevil\u2066\x9b31m"
WRITTEN = "\\x1b[2Jno \\u202eevil\\u2066\\x9b31m"


def test_a_reply_forges_no_line_and_steers_no_terminal(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    reply = f"550-5.7.1 {RAW}\r\n550 5.7.1 2026-01-01 INFO forged"
    busy = f"421-busy {RAW}\r\n421 2026-01-01 INFO forged"
    with ScriptedServer([Fault("CONNECT", busy)], refused={"to0@example.com": reply}) as server:
        queueing(server.port)
        mail.queue_many(messages(1))
        work()
        reason = MailerState.objects.get().reason
        advance(400)
        work()
    assert RAW in reason and RAW in Email.objects.get().recipients[0]["text"], "records keep what was said"
    texts = [each.getMessage() for each in caplog.records if each.name == "mailrail.mail"]
    assert len(texts) == 3 and all(text.isprintable() for text in texts)
    out, failed, _ = sorted(texts, key=lambda text: ("cannot be used" not in text, "failed" not in text))
    assert WRITTEN in out and f"{WRITTEN}\\n2026-01-01 INFO forged" in failed


def test_a_seen_outage_is_escaped_too(caplog: pytest.LogCaptureFixture) -> None:
    circuit.log_seen(MailerState(mailer="out", paused_by="outage", reason=f"421 {RAW}\nforged"))
    assert f"421 {WRITTEN}\\nforged" in caplog.text


def test_an_exception_of_several_lines_is_told_by_its_class_and_first_line(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    queueing(1)
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["ann@example.com"]))
    outcome_log.log([fail(email, timezone.now(), "OSError: gone\n\tIs it there?", "out")])
    [(_, line)] = lines(caplog)
    assert line.endswith(" text='OSError: gone'")
    assert caplog.records[-1].text == "OSError: gone\\n\\tIs it there?"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["full", "domain"])
@pytest.mark.parametrize(
    ("to", "full", "domain"),
    [
        ("x mailer=other code=250 <a@example.net>", "a@example.net", "…@example.net"),
        ('"Doe, Jane" <a@example.net>', "a@example.net", "…@example.net"),
        ("Bi\u202edi <a@example.net>", "a@example.net", "…@example.net"),
        ("Größe <größe@exämple.net>", "größe@exämple.net", "…@exämple.net"),
        ('"x code=250"@example.net', "'\"x code=250\"@example.net'", "…@example.net"),
        ("b=a@example.net", "b=a@example.net", "…@example.net"),
    ],
)
def test_a_name_adds_no_fields_to_a_line_and_is_not_told(
    queueing: Configure,
    caplog: pytest.LogCaptureFixture,
    settings: Any,
    how: str,
    to: str,
    full: str,
    domain: str,
) -> None:
    queueing(1)
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_LOG_RECIPIENTS": how}
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", ["ann@example.com"]))
    email.recipients = [{**email.recipients[0], "address": to}]
    outcome_log.log([fail(email, timezone.now(), "OSError: gone", "out")])
    [(_, line)] = lines(caplog)
    expected = full if how == "full" else domain
    assert line == f"failed email={email.pk} to={expected} mailer=out text='OSError: gone'"
    assert caplog.records[-1].recipients == expected  # type: ignore[attr-defined]
