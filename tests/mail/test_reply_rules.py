"""What a mailer's settings say of its server's replies, and replies that say that no email can leave."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail.backends import smtp as djangos
from django.core.management import call_command

from mailrail.errors import InvalidSettings
from mailrail.mail import Email, Status, queue_many
from mailrail.mail.mailers.config import alias_of, build
from mailrail.mail.mailers.reply_rules import PRESETS
from mailrail.mail.models import MailerState, MailerThrottle, Suppression
from mailrail.mail.smtp.replies import Kind, ReplyRule, Stage, classify, reply_of
from mailrail.testing import advance

from ..processes import ROOT
from ..smtp_server import Fault, ScriptedServer
from .conftest import MAILER, SMTP, messages, work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]


class AsItIs(djangos.EmailBackend):
    """Django's SMTP backend, called as it is: our client delivers for no other class than Django's own."""


BOTH_PATHS = pytest.mark.parametrize(
    "backend",
    [pytest.param(SMTP, id="our client"), pytest.param(f"{__name__}.AsItIs", id="Django's backend")],
)


def rules(*said: Any) -> tuple[ReplyRule, ...]:
    return build({"out": {"REPLIES": said}})["out"].replies


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({"code": 554}, True),
        ({"code": 550}, False),
        ({"enhanced": "5.1.90"}, True),
        ({"enhanced": "5.1.9"}, False),
        ({"text": "daily QUOTA exceeded"}, True),
        ({"text": "^quota"}, False),
        ({"code": 554, "enhanced": "5.1.90", "text": "quota .* the account"}, True),
        ({"code": 554, "enhanced": "5.1.90", "text": "hourly"}, False),
        ({"code": 550, "enhanced": "5.1.90", "text": "quota"}, False),
    ],
)
def test_all_that_a_rule_names_must_match(rule: dict[str, Any], matches: bool) -> None:
    reply = reply_of(554, "5.1.90 sending daily quota\n5.1.90 exceeded by\tthe  account")
    [parsed] = rules({**rule, "means": "later"})
    assert parsed.matches(reply) is matches
    kind = classify(reply, Stage.DOT, rules=[parsed]).kind
    assert kind is (Kind.TRANSIENT if matches else Kind.PERMANENT)


def test_the_first_rule_that_matches_counts_and_an_acceptance_is_one() -> None:
    both = rules({"text": "quota", "means": "failed"}, {"code": 451, "means": "out"})
    verdict = classify(reply_of(451, "4.3.0 quota"), Stage.DOT, rules=both)
    assert verdict.kind is Kind.PERMANENT and not verdict.mailer_out
    assert classify(reply_of(250, "quota"), Stage.DOT, rules=both).kind is Kind.ACCEPTED


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("gmail", "['REPLIES'] must be a list of rules and names of presets"),
        (["hotmail"], "['REPLIES'] names 'hotmail', which is no preset. There are: "),
        ([7], "['REPLIES'][0] must be the name of a preset or a dictionary"),
        ([{"means": "later"}], "['REPLIES'][0] would match every reply"),
        (
            [{"code": 554}],
            "['REPLIES'][0]['means'] must be one of 'later', 'slow down', 'out', 'sender', 'failed', not None",
        ),
        ([{"code": 554, "means": ["out"]}], "['REPLIES'][0]['means'] must be one of"),
        ([{"code": 554, "means": "later", "stage": 3}], "['REPLIES'][0] has no key 'stage'. It knows: code"),
        ([{"code": 250, "means": "later"}], "['REPLIES'][0]['code'] must be a reply's code from 400 to 599"),
        ([{"code": "554", "means": "later"}], "['REPLIES'][0]['code'] must be a reply's code"),
        ([{"enhanced": "5.1", "means": "later"}], "['REPLIES'][0]['enhanced'] must be a status of RFC 3463"),
        ([{"text": "(", "means": "later"}], "['REPLIES'][0]['text'] must be a regular expression"),
        ([{"text": "", "means": "later"}], "['REPLIES'][0]['text'] must be a regular expression"),
        ([{"text": 3, "means": "later"}], "['REPLIES'][0]['text'] must be a regular expression"),
    ],
)
def test_what_is_wrong_with_rules_is_named(said: Any, names: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        build({"out": {"REPLIES": said}})
    assert f"MAILRAIL['MAILERS']['out']{names}" in str(raised.value)


L, S, OUT, FROM, NO = "later", "slow down", "out", "sender", ""


SAID: list[tuple[str, str, str]] = [
    ("gmail", "550-5.4.5 Daily user sending limit exceeded. For more information\n5.4.5 on limits", S),
    ("gmail", "550 5.7.1 Daily SMTP relay limit exceeded for customer.", S),
    ("gmail", "450 4.2.1 Peak SMTP relay limit exceeded for customer.", S),
    ("gmail", "450 4.2.1 The user you are trying to contact is receiving mail too quickly", NO),
    ("gmail", "550 5.7.1 Our system has detected that this message is likely unsolicited mail", NO),
    ("microsoft365", "550 5.1.90 Your message can't be sent because you've reached your daily limit", S),
    ("microsoft365", "554 5.2.2 Submission quota exceeded", S),
    ("microsoft365", "552 5.2.2 Mailbox full", NO),
    (
        "microsoft365",
        "550 5.2.121 Recipient's per hour message receive limit from specific sender exceeded",
        L,
    ),
    ("microsoft365", "550 5.2.122 Recipient's per hour message receive limit exceeded", L),
    ("microsoft365", "530 5.7.57 Client not authenticated to send mail", OUT),
    ("microsoft365", "550 5.7.501 Access denied, spam abuse detected", OUT),
    ("microsoft365", "432 4.3.2 Concurrent connections limit exceeded", S),
    ("microsoft365", "550 5.1.10 Recipient not found", NO),
    ("ses", "454 Throttling failure: Daily message quota exceeded.", S),
    ("ses", "454 Throttling failure: Maximum sending rate exceeded.", S),
    ("ses", "554 Message rejected: Sending paused for this account. For more information", OUT),
    ("ses", "554 Message rejected: Email address is not verified.", NO),
    ("qq", "550 Domain frequency limited", S),
    ("qq", "550 Ip frequency limited [x Blocked IP 192.0.2.1]", S),
    ("exmail", "550 Sender frequency limited", S),
    ("exmail", "550 Connection frequency limited", S),
    ("exmail", "550 Connection denied", S),
    ("qq", "550 Mailbox unavailable or access denied", L),
    ("qq", "501 mail from address must be same as authorization user", FROM),
    ("qq", "501 Bad address syntax", NO),
    ("qq", "550 Mailbox not found", NO),
    ("163", "554 MI:SFQ 163 smtp7,x,please see http://mail.163.com/help/help_spam_16.htm", S),
    ("163", "451 MI:SFQ 163 smtp7", S),
    ("163", "451 RP:QRC 163 smtp7", S),
    ("163", "550 MI:STC 163 smtp7", S),
    ("163", "550 RP:TRC 163 smtp7", S),
    ("163", "554 DT:SPM 163 smtp7", NO),
    ("directmail", "552 Daily sending quota exceeded", S),
    ("directmail", "552 Monthly sending quota exceeded", OUT),
    ("directmail", "552 Not enough sending quota", OUT),
    ("directmail", "551 Main account unavailable", OUT),
    ("directmail", '436 "MAIL FROM" doesn\'t conform with authentication [@sm060104] (Auth Account:a)', FROM),
    (
        "directmail",
        "554 Reject by behaviour spamANTISPAM_BAT[01201311R196, c01a1]: too frequently sending",
        S,
    ),
    ("directmail", "554 Reject by content spam", NO),
]


@pytest.mark.parametrize(("preset", "said", "means"), SAID)
def test_what_a_preset_makes_of_what_its_provider_says(preset: str, said: str, means: str) -> None:
    reply = reply_of(int(said[:3]), said[4:])
    matching = [str(rule.means) for rule in rules(preset) if rule.matches(reply)]
    assert "".join(matching[:1]) == means


def test_every_line_of_a_preset_is_tried_above() -> None:
    for name, preset in PRESETS.items():
        replies = [reply_of(int(said[:3]), said[4:]) for of, said, _ in SAID if of in _ALIKE.get(name, name)]
        assert [rule for rule in preset if not any(map(rule.matches, replies))] == [], name


def test_the_page_has_the_lines_of_every_preset_with_their_sources() -> None:
    page = (ROOT / "docs/how-to/mail-queue.md").read_text()
    lines = re.findall(r"^\| `\"(.+)\"` \| (`.+`) \| (.+) \| \[.+\]\(https?://.+\) \|$", page, re.MULTILINE)
    found: dict[str, set[ReplyRule]] = {name: set() for name in PRESETS}
    for preset, examples, means in lines:
        for example in re.findall(r"`([^`]+)`", examples):
            code, _, text = example.partition(" ") if example[:3].isdigit() else ("550", "", example)
            rule = next(rule for rule in PRESETS[preset] if rule.matches(reply_of(int(code), text)))
            assert rule.means == means, example
            found[preset].add(rule)
    assert found == {name: set(rules) for name, rules in PRESETS.items()}


_ALIKE = {"qq": ("qq", "exmail"), "exmail": ("qq", "exmail")}


@BOTH_PATHS
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DOT"])
@pytest.mark.parametrize(
    ("means", "status", "attempts", "is_slow", "is_out"),
    [
        ("later", Status.QUEUED, 1, False, False),
        ("slow down", Status.QUEUED, 1, True, False),
        ("failed", Status.FAILED, 1, False, False),
        ("out", Status.QUEUED, 0, False, True),
        ("sender", Status.HELD, 0, False, False),
    ],
)
def test_what_a_rule_leads_to(
    queueing: Configure,
    policy: Configure,
    backend: str,
    stage: str,
    means: str,
    status: Status,
    attempts: int,
    is_slow: bool,
    is_out: bool,
) -> None:
    said = "452 4.7.1 not from you" if means == "failed" else "554 5.1.1 not from you"
    with ScriptedServer([Fault(stage, said, 0)]) as server:
        queueing(server.port, backend)
        policy(REPLIES=[{"text": "NOT from", "means": means}])
        queue_many(messages(1))
        work()
    email = Email.objects.get()
    assert (email.status, email.attempts) == (status, attempts)
    assert MailerThrottle.objects.exists() is is_slow and MailerState.objects.exists() is is_out
    assert not Suppression.objects.exists()


@BOTH_PATHS
def test_a_mailer_that_a_reply_puts_out_keeps_its_mail_until_it_works(
    queueing: Configure, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 4954 6: 530 is about the session. An empty password makes every email end so."""
    refusal = "530 5.7.0 Authentication required"
    with ScriptedServer([Fault("MAIL", refusal, n) for n in range(50)]) as server:
        queueing(server.port, backend)
        queue_many(messages(60))
        with caplog.at_level(logging.WARNING, "mailrail.mail"):
            work()
        assert server.count("MAIL") <= 30  # one for each connection, and one behind it
    log_lines = [record.getMessage() for record in caplog.records if record.name == "mailrail.mail"]
    assert (
        len(log_lines) == 1
        and "cannot be used; its mail waits until it can" in log_lines[0]
        and refusal in log_lines[0]
    )
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    assert MailerState.objects.get().reason == refusal
    with ScriptedServer() as mended:
        queueing(mended.port, backend)
        call_command("mailers", "resume", MAILER)
        advance(600)
        work()
        assert len(mended.mails) == 60
    assert not MailerState.objects.exists()


@BOTH_PATHS
def test_others_stand_in_for_a_mailer_that_a_reply_puts_out(
    queueing: Configure, policy: Configure, second: Configure, backend: str
) -> None:
    refused = [Fault("MAIL", "530 5.7.0 Must issue a STARTTLS command first", n) for n in range(50)]
    with ScriptedServer(refused) as server, ScriptedServer() as backup:
        queueing(server.port, backend)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        queue_many(messages(10))
        work()
        assert len(backup.mails) == 10  # at once, and the one that was refused with them
    assert MailerState.objects.get().pk == alias_of(MAILER)


def test_a_recipient_refused_so_beside_one_who_has_the_email_puts_nothing_out(queueing: Configure) -> None:
    """Of such recipients, Django's backend does not tell."""
    [message] = messages(1)
    message.to.append("away@example.net")
    with ScriptedServer(refused={"away@example.net": "530 5.7.1 Authentication required to relay"}) as server:
        queueing(server.port)
        queue_many([message])
        work()
        assert len(server.mails) == 1
    email = Email.objects.get()
    assert [each["status"] for each in email.recipients] == ["sent", "queued"]
    assert not MailerState.objects.exists()
