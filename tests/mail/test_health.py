"""Who hears that mail does not leave: the checks of three commands, ``/readyz``, and the log."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from mailrail import mail
from mailrail.health import views
from mailrail.layers import get_layer
from mailrail.mail import Email
from mailrail.mail.mailers import circuit
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerState, MailerThrottle
from mailrail.moments import aware
from mailrail.monitoring.sample import sample
from mailrail.routing import Routing
from mailrail.testing import advance
from mailrail.worker import Worker

from ..processes import until
from ..smtp_server import Fault, ScriptedServer
from .conftest import MAILER, messages, work

Configure = Callable[..., None]


@pytest.fixture(autouse=True)
def fresh(on: str, fresh_connections: None) -> Iterator[None]:
    """A worker lives, and no answer is an earlier test's."""
    get_layer().heartbeat("one", {})
    views.watch.forget()
    yield
    views.watch.forget()


@pytest.fixture
def away() -> int:
    """A port where nobody listens."""
    with ScriptedServer() as server:
        return server.port


def pass_time(seconds: float) -> None:
    advance(seconds)
    get_layer().heartbeat("one", {})
    views.watch.forget()


def problems(command: str, *arguments: str) -> str:
    """What a check says, or nothing if all is well."""
    out = StringIO()
    try:
        call_command(command, *arguments, stdout=out)
    except CommandError as error:
        return str(error)
    assert out.getvalue().startswith("OK")
    return ""


def check(*arguments: str) -> str:
    return problems("channels", "check", *arguments)


# -- an outage ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_down_is_told_to_everybody_who_asks(
    client: Client, queueing: Configure, away: int, settings: Any
) -> None:
    queueing(away)
    mail.queue_many(messages(3))
    work()
    assert check("--oldest", "60") == ""
    pass_time(660)
    told = check("--oldest", "60")
    assert f"mailer '{MAILER}' has been out for 66" in told and "s, more than 60 s: " in told
    assert str(away) in told, "the reason, for operators"
    assert f"an email of mailer '{MAILER}' has been due for 66" in told
    assert check("--oldest", "900") == ""
    assert problems("mailers", "--check").startswith(f"mailer '{MAILER}' has been out for 66")
    assert problems("mailq", "--check").startswith(f"an email of mailer '{MAILER}' has been due for 66")
    assert problems("mailers", "--check", "--oldest", "900") == ""
    assert problems("mailq", "--check", "--oldest", "900") == ""
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "a mailer has been out for 66" in answer.text and "an email has been due for 66" in answer.text
    assert f"'{MAILER}'" not in answer.text and str(away) not in answer.text
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}
    views.watch.forget()
    assert client.get("/readyz").json() == {"ready": True}, "no outage of mail takes a site away"
    told = check()
    assert told.startswith(f"mailer '{MAILER}' has been out for 66") and "an email" not in told


def test_the_check_for_machines_names_each_problem(queueing: Configure, away: int) -> None:
    queueing(away)
    mail.queue_many(messages(1), send_at=3600)
    circuit.trip(alias_of(MAILER), "nobody answers", Email.objects.db)
    pass_time(400)
    out = StringIO()
    with pytest.raises(CommandError):
        call_command("channels", "check", "--json", stdout=out)
    [problem] = json.loads(out.getvalue())["problems"]
    assert problem.startswith(f"mailer '{MAILER}' has been out for 400 s: nobody answers")


def test_an_outage_is_told_from_its_first_second_but_takes_no_site_away(
    client: Client, queueing: Configure
) -> None:
    queueing(25)
    assert check() == ""
    circuit.trip(alias_of(MAILER), "nobody answers", Email.objects.db)
    assert check() == f"mailer '{MAILER}' has been out for 0 s: nobody answers"
    assert check("--oldest", "300") == ""
    [problem] = sample().health.problems
    assert (problem.kind, problem.name, problem.reason) == ("mailer", MAILER, "a mailer has been out for 0 s")
    assert problem.since == aware(MailerState.objects.get().since).timestamp()
    assert client.get("/readyz").json() == {"ready": True}
    circuit.reset(alias_of(MAILER), Email.objects.db)
    assert check() == "" and sample().health.is_ready


def test_each_mailer_with_late_email_is_named(queueing: Configure) -> None:
    queueing(25)
    mail.queue_many(messages(2))
    pass_time(400)
    emails = list(Email.objects.order_by("pk"))
    Email.objects.filter(pk=emails[1].pk).update(mailer="bulk")
    late = sorted(problem.name for problem in sample().health.problems if problem.kind == "email")
    assert late == sorted(["bulk", MAILER])


def test_what_a_person_has_paused_is_no_alarm(queueing: Configure) -> None:
    queueing(25)
    mail.queue_many(messages(1))
    mail.pause(MAILER)
    pass_time(600)
    work()
    pass_time(5)
    assert problems("mailers", "--check") == problems("mailq", "--check") == check() == ""
    mail.resume(MAILER)
    assert "an email" in problems("mailq", "--check")


# -- mail in time ---------------------------------------------------------------------------------------------------


def test_mail_is_late_from_the_moment_it_was_to_be_sent(queueing: Configure) -> None:
    queueing(25)
    [email] = mail.queue_many(messages(1), send_at=1000)
    pass_time(900)
    assert problems("mailq", "--check", "--oldest", "0") == ""
    pass_time(150)
    assert "has been due for 50 s, more than 20 s" in problems("mailq", "--check", "--oldest", "20")
    Email.objects.filter(pk=email.pk).update(next_try_at=timezone.now() + timedelta(seconds=60))
    assert problems("mailq", "--check", "--oldest", "20") == "", "it waits for its next attempt"
    pass_time(100)
    assert "has been due for 40 s" in problems("mailq", "--check", "--oldest", "20")
    mail.hold(email)
    assert problems("mailq", "--check", "--oldest", "20") == ""


@pytest.mark.parametrize(
    "said", [{"RATE": "1/10s"}, {"RATE": "1/h"}, {"RATES": {"example.com": "1/10s"}}], ids=str
)
def test_mail_that_waits_for_a_rate_is_not_late(
    queueing: Configure, policy: Configure, said: dict[str, Any]
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(**said)
        mail.queue_many(messages(60))
        pass_time(400)
        work()
        assert len(server.mails) == 1 and problems("mailq", "--check") == ""
        mail.queue_many(messages(1, "example.org"))
        pass_time(400)
        late = problems("mailq", "--check")
        assert bool(late) == ("RATES" in said), "no rate is for mail to example.org"


def test_when_no_worker_gives_turns_any_more_mail_is_late(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="1/10s")
        mail.queue_many(messages(20))
        work()
    pass_time(400)
    assert problems("mailq", "--check") == ""
    for pace in MailerThrottle.objects.all():  # turns are in Unix time, which ``advance`` does not move
        pace.reservations = {rate: dict.fromkeys(line, 0.0) for rate, line in pace.reservations.items()}
        pace.save()
    assert problems("mailq", "--check").startswith("an email")


@pytest.mark.parametrize(
    ("command", "arguments", "error"),
    [
        ("mailers", ["--oldest", "5"], "--oldest belongs to --check"),
        ("mailq", ["--oldest", "5"], "--oldest belongs to --check"),
        ("mailers", ["--check", "--oldest", "soon"], "must be seconds, zero or more, not 'soon'"),
        ("mailers", ["--check", "pause", MAILER], "--check and pause do not go together"),
        ("mailq", ["--check", "--json"], "without --json"),
    ],
)
def test_checks_that_make_no_sense_are_refused(
    queueing: Configure, command: str, arguments: list[str], error: str
) -> None:
    queueing(25)
    assert error in problems(command, *arguments)
    assert not MailerState.objects.exists()


def test_without_a_limit_a_check_asks_for_one(queueing: Configure, settings: Any) -> None:
    queueing(25)
    settings.MAILRAIL = {**settings.MAILRAIL, "READY_OLDEST_DUE": None}
    assert "--oldest SECONDS" in problems("mailq", "--check")
    assert problems("mailq", "--check", "--oldest", "5") == ""


# -- the log --------------------------------------------------------------------------------------------------------


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "mailrail.mail"]


def test_an_outage_is_one_line_at_its_begin_and_one_at_its_end(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mailrail.mail")
    refusals = [Fault("CONNECT", f"421 {'busy' if n % 2 else 'full'}", n) for n in range(6)]
    with ScriptedServer(refusals) as server:
        queueing(server.port)
        mail.queue_many(messages(8))
        for _ in range(8):
            work()
            pass_time(400)
        assert len(server.mails) == 8
    begin, other, *_, end = said(caplog)
    assert begin.startswith(f"Mailer '{MAILER}' cannot be used; its mail waits until it can: ")
    assert "full" in begin and "busy" in other, "each reason once"
    assert end.startswith(f"Mailer '{MAILER}' works again; it was out from 20") and " s." in end
    outs = [each for each in said(caplog) if "cannot be used" in each]
    assert len(outs) == 2


def test_a_worker_that_starts_in_mid_outage_says_when_it_began_and_when_it_ends(
    queueing: Configure, away: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mailrail.mail")
    queueing(away)
    using = Email.objects.db
    circuit.trip(alias_of(MAILER), "nobody answers", using)
    circuit.forget_logged()  # what the process before it has said
    caplog.clear()
    worker = Worker(get_layer(), Routing.of_layer(), ["mailrail.mail"])
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: bool(said(caplog)))
    finally:
        worker.stop(0)
        thread.join(30)
    [line] = said(caplog)
    since = timezone.localtime(aware(MailerState.objects.get().since))
    assert f"cannot be used since {since:%Y-%m-%d %H:%M:%S}" in line and line.endswith(": nobody answers")
    circuit.log_changes(using)
    assert len(said(caplog)) == 1, "said once"
    MailerState.objects.all().delete()  # another worker's attempt got through
    circuit.log_changes(using)
    circuit.log_changes(using)
    assert len(said(caplog)) == 2 and "works again; it was out from" in said(caplog)[-1]


def test_who_read_before_an_outage_began_does_not_call_it_over(
    queueing: Configure, away: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread finds the outage between this one's query and its look at the log."""
    caplog.set_level(logging.WARNING, "mailrail.mail")
    queueing(away)
    mailer, over = alias_of(MAILER), circuit.log_end

    def overtaken(*arguments: Any, **options: Any) -> None:
        circuit.trip(mailer, "nobody answers", Email.objects.db)
        over(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(circuit, "log_end", overtaken)
        assert circuit.permission_of(mailer, Email.objects.db).limit
    [line] = said(caplog)
    assert "cannot be used" in line
    MailerState.objects.all().delete()
    assert circuit.permission_of(mailer, Email.objects.db).limit
    assert "works again" in said(caplog)[-1]


def test_what_a_person_pauses_in_an_outage_is_not_called_over(
    queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    queueing(25)
    using = Email.objects.db
    circuit.trip(alias_of(MAILER), "nobody answers", using)
    mail.pause(MAILER)
    circuit.log_changes(using)
    mail.resume(MAILER)
    assert circuit.permission_of(alias_of(MAILER), using).limit
    assert not [each for each in said(caplog) if "works again" in each]
