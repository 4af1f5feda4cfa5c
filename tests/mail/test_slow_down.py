"""A server that asks for less gets less, and everything again after some quiet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.mail.backends.base import BaseEmailBackend

from mailrail.mail import Email, Status, queue_many
from mailrail.mail.mailers import throttle
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState, MailerThrottle
from mailrail.testing import advance

from ..smtp_server import Fault, ScriptedServer
from .conftest import MAILER, messages, work

pytestmark = pytest.mark.django_db(transaction=True)

Configure = Callable[..., None]


def pass_time(seconds: float) -> None:
    advance(seconds)
    for row in MailerThrottle.objects.all():
        row.changed_at -= timedelta(seconds=seconds)
        row.reservations = {}
        row.save()
    throttle.forget()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mailrail.mail"]


def pace(mailer: str, domain: str = "") -> float | None:
    throttle.forget()
    return throttle.slowed(mailer, "default").get(domain)


def test_half_then_half_again_then_slowly_all(caplog: pytest.LogCaptureFixture) -> None:
    def complain() -> None:
        throttle.slow_down("out", "", 80.0, "421 4.7.0 too fast", "default")

    with caplog.at_level(logging.WARNING, "mailrail.mail"):
        complain()
        assert pace("out") == 40.0
        complain()
        assert pace("out") == 40.0  # what was under way is complained of, too
        pass_time(11)
        complain()
        assert pace("out") == 20.0
        for minutes, expected in [(1, 28.0), (1, 36.0), (5, 76.0)]:
            pass_time(60 * minutes)
            assert pace("out") == pytest.approx(expected)
        pass_time(60)
        assert pace("out") is None and pace("out") is None
    assert len(said(caplog)) == 2, said(caplog)
    assert "'out' is asked for less, and slows down to 40 emails a second: 421" in said(caplog)[0]
    assert "'out' is as fast as before." in said(caplog)[1]
    assert not MailerThrottle.objects.exists()


def test_never_to_nothing() -> None:
    for _ in range(30):
        throttle.slow_down("out", "", 0.5, "421", "default")
        pass_time(11)
    assert pace("out") == pytest.approx(1 / 60)


@pytest.mark.parametrize(
    ("stage", "reply", "domain", "attempts"),
    [
        ("RCPT", "451 4.7.1 too much mail for this domain", "example.com", 1),
        ("MAIL", "450 4.7.0 not so fast", "", 1),
        ("DATA", "451 4.7.500 server busy", "", 1),
        ("DOT", "454 Throttling failure: Maximum sending rate exceeded.", "", 1),
        ("DOT", "550 5.4.5 daily user sending limit exceeded", "", 1),
        ("DOT", "421 4.7.28 unusual rate", "", 0),
        ("MAIL", "421 4.7.0 try again later", "", 0),
    ],
)
def test_the_reply_decides_what_slows_down_and_blames_as_before(
    queueing: Configure, caplog: pytest.LogCaptureFixture, stage: str, reply: str, domain: str, attempts: int
) -> None:
    with ScriptedServer([Fault(stage, reply, 0)]) as server:
        queueing(server.port)
        queue_many(messages(3))
        with caplog.at_level(logging.WARNING, "mailrail.mail"):
            work()
    row = MailerThrottle.objects.get()
    assert (row.domain, row.share) == (domain, 0.5) and reply[:3] in row.reason
    assert len([each for each in said(caplog) if "slows down" in each]) == 1
    [waiting] = Email.objects.filter(status=Status.QUEUED)
    assert waiting.attempts == attempts


@pytest.mark.parametrize(
    "reply", ["450 4.2.1 mailbox busy", "451 4.7.1 Greylisted, come back", "550 5.7.1 no"]
)
def test_other_refusals_slow_nothing_down(queueing: Configure, reply: str) -> None:
    with ScriptedServer([Fault("RCPT", reply, 0)]) as server:
        queueing(server.port)
        queue_many(messages(2))
        work()
    assert not MailerThrottle.objects.exists()


def test_a_greeting_that_turns_away_slows_down(queueing: Configure) -> None:
    with ScriptedServer([Fault("CONNECT", "421 4.7.0 too many connections", 0)]) as server:
        queueing(server.port)
        queue_many(messages(20))
        work()
    assert MailerThrottle.objects.get().domain == ""


def test_a_server_that_takes_nobody_is_out_and_not_slow(queueing: Configure) -> None:
    with ScriptedServer([Fault("CONNECT", "421 4.3.2 shutting down", n) for n in range(50)]) as server:
        queueing(server.port)
        queue_many(messages(20))
        work()
    assert not MailerThrottle.objects.exists() and MailerState.objects.get().paused_by == "outage"


def test_one_email_says_little_of_the_pace(queueing: Configure) -> None:
    with ScriptedServer([Fault("MAIL", "421 4.7.0 slower", 0)]) as server:
        queueing(server.port)
        queue_many(messages(1))
        work()
    assert MailerThrottle.objects.get().pace >= 10.0


def test_it_slows_down_from_what_its_rate_allows(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer([Fault("MAIL", "421 4.7.0 slower", 0)]) as server:
        queueing(server.port)
        policy(RATE="4/m")
        queue_many(messages(4))
        work()
    assert MailerThrottle.objects.get().pace == pytest.approx(4 / 60)


def test_what_is_slowed_down_waits_its_turn_like_any_rate(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="4/m")
        MailerThrottle.objects.create(mailer=alias_of(MAILER), share=0.5, pace=4 / 60)
        queue_many(messages(4))
        work()
        assert len(server.mails) == 1  # one in half a minute, where four at once were allowed
        advance(32)
        work()
        assert len(server.mails) == 2
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.SENT, 1), (Status.QUEUED, 0)}


class TooMany(BaseEmailBackend):
    """Like Anymail's when its provider answers 429."""

    error: Exception = RuntimeError("none")

    def send_messages(self, email_messages: Any) -> int:
        raise TooMany.error


@pytest.mark.parametrize(("status_code", "slows"), [(429, True), (500, False), (None, False)])
def test_a_provider_s_429_slows_down_and_other_errors_do_not(
    queueing: Configure, status_code: int | None, slows: bool
) -> None:
    TooMany.error = RuntimeError("the provider says no")
    TooMany.error.status_code = status_code  # type: ignore[attr-defined]
    queueing(0, f"{__name__}.TooMany")
    queue_many(messages(2))
    work()
    assert MailerThrottle.objects.exists() == slows
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 1)}
