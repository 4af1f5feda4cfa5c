"""Another mailer stands in while one is out, and never for an email that may have been sent."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from mailrail import mail
from mailrail.mail import Email, Status, queue, queue_many
from mailrail.mail.mailers import circuit, failover
from mailrail.mail.mailers.keeping import Keeper
from mailrail.mail.models import MailerState
from mailrail.mail.smtp import close_pools
from mailrail.moments import from_now
from mailrail.testing import advance

from ..ports import free_port
from ..smtp_server import EXTENSIONS, USER, Fault, ScriptedServer
from .conftest import MAILER, work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]


def message(subject: str = "Hello", *to: str) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", to or ["you@example.com"])


def pass_time(seconds: float) -> None:
    advance(seconds)
    for state in MailerState.objects.all():
        if state.probe_at is not None:
            state.probe_at -= timedelta(seconds=seconds)
            state.save()


@pytest.fixture
def away() -> int:
    """A port where nobody listens."""
    return free_port()


def test_the_next_one_takes_over_at_once_and_the_record_says_so(
    queueing: Configure, policy: Configure, second: Configure, away: int, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as backup:
        queueing(away)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        queue_many(message(f"Number {n}") for n in range(20))
        with caplog.at_level(logging.WARNING, "mailrail.mail"):
            work()
        assert len(backup.mails) == 20
    assert {email.events[-1]["mailer"] for email in Email.objects.all()} == {"backup"}
    assert set(Email.objects.values_list("status", "attempts", "via")) == {(Status.SENT, 1, "backup")}
    log_lines = [record.getMessage() for record in caplog.records if record.name == "mailrail.mail"]
    assert (
        len(log_lines) == 1
        and f"{MAILER!r} cannot be used; its mail goes by 'backup' until it can" in log_lines[0]
    )


def test_while_one_that_is_out_is_tried_the_others_deliver(
    queueing: Configure, second: Configure, away: int
) -> None:
    """It may be waited for until it has nothing said for five minutes."""
    tried: list[float] = []
    with ScriptedServer() as other, socket.create_server(("127.0.0.1", away)) as silent:

        def take_and_close() -> None:
            client, _ = silent.accept()
            tried.append(time.monotonic())
            client.close()

        queueing(away)
        second("other", other.port)
        for _ in range(2):
            queue_many([message("One"), message("Two")])
            queue(message("Three"), mailer="other")
            taking = threading.Thread(target=take_and_close)
            taking.start()
            work()
            taking.join(30)
            pass_time(10)
        assert len(other.mails) == 2 and len(tried) == 2


@pytest.mark.parametrize("stage", ["MAIL", "DOT"])
def test_a_mailer_that_takes_connections_and_no_email_is_still_out(queueing: Configure, stage: str) -> None:
    with ScriptedServer([Fault(stage, "disconnect", nth) for nth in range(2)]) as server:
        queueing(server.port)
        circuit.trip(MAILER if django.VERSION >= (6, 1) else "", "it says nothing", "default")
        for probes in (2, 3):
            pass_time(10)
            queue(message())
            work()
            assert MailerState.objects.get().probes == probes
            Email.objects.filter(status=Status.QUEUED).delete()
        pass_time(100)
        queue(message())
        work()
        assert len(server.mails) == 1 and not MailerState.objects.exists()


def test_what_cannot_be_read_says_nothing_of_a_mailer_that_is_out(queueing: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        circuit.trip(MAILER if django.VERSION >= (6, 1) else "", "it says nothing", "default")
        pass_time(10)
        Email.objects.filter(pk=queue(message()).pk).update(content={})
        work()
        assert server.connections == 0 and MailerState.objects.get().probes == 1


@pytest.fixture
def renewed_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread renews the probes of this process, nor one that another test has left."""
    keeper: Keeper[Any, Any] = Keeper("the probe of a mailer", 3.0, circuit._renew_probes)
    keeper._thread = threading.current_thread()
    monkeypatch.setattr(circuit, "_probes", keeper)


@pytest.mark.usefixtures("renewed_by_hand")
def test_one_worker_at_a_time_waits_for_a_mailer_that_is_out() -> None:
    circuit.trip("", "it says nothing", "default")
    pass_time(10)
    assert circuit.permission_of("", "default").is_probe
    for _ in range(3):
        let_lease_end_in(1.0)
        circuit._probes.renew()
        assert not circuit.permission_of("", "default").limit
    let_lease_end_in(1.0)
    circuit._probes._held.clear()  # as it is killed
    assert not circuit.permission_of("", "default").limit
    pass_time(1)
    assert circuit.permission_of("", "default").is_probe
    circuit.end_probe("", "default")


@pytest.mark.usefixtures("renewed_by_hand")
def test_who_stood_still_while_another_one_probes_renews_nothing() -> None:
    circuit.trip("", "it says nothing", "default")
    pass_time(10)
    assert circuit.permission_of("", "default").is_probe
    pass_time(circuit.PROBE_LEASE_S)
    lapsed = MailerState.objects.get().probe_at
    assert lapsed is not None
    until = circuit._lease_probe("", "default", lapsed)
    circuit._probes.renew()
    assert MailerState.objects.get().probe_at == until and not circuit._probes._held


def let_lease_end_in(seconds: float) -> None:
    """Let so much be left of the lease of the probe that this process holds."""
    until = from_now(seconds)
    MailerState.objects.update(probe_at=until)
    circuit._probes._held = dict.fromkeys(circuit._probes._held, until)


def test_when_the_first_works_again_mail_goes_back_to_it(
    queueing: Configure, policy: Configure, second: Configure, away: int
) -> None:
    with ScriptedServer() as first, ScriptedServer() as backup:
        queueing(away)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        queue(message())
        work()
        queueing(first.port)
        second("backup", backup.port)
        queue(message())
        work()
        assert (len(first.mails), len(backup.mails)) == (0, 2)  # it is not its time to be tried
        pass_time(10)
        queue(message())
        work()
        queue(message())
        work()
        assert (len(first.mails), len(backup.mails)) == (2, 2)
    assert not MailerState.objects.exists()


def test_a_refused_login_is_an_outage_like_another(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    names = ("username", "password") if django.VERSION >= (6, 1) else ("host_user", "host_password")
    first = ScriptedServer(extensions=(*EXTENSIONS, "AUTH PLAIN"), password="right")
    with first, ScriptedServer() as backup:
        queueing(first.port, **dict(zip(names, (USER, "wrong"), strict=True)))
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        queue(message())
        work()
        assert (len(first.mails), len(backup.mails)) == (0, 1)


def leave_sending(**more: str) -> None:
    """As a crash does, some time ago."""
    Email.objects.update(status=Status.SENDING, changed_at=timezone.now() - timedelta(minutes=2), **more)


@pytest.mark.parametrize("cause", ["reply lost", "worker died"])
def test_an_email_in_doubt_stays_with_its_mailer(
    queueing: Configure, policy: Configure, second: Configure, cause: str
) -> None:
    with ScriptedServer() as backup:
        with ScriptedServer([Fault("DOT", "accept-disconnect")]) as first:
            queueing(first.port)
            policy(FAILOVER=["backup"])
            second("backup", backup.port)
            email = queue(message("Ambiguous"))
            if cause == "worker died":
                leave_sending()
            work()
        close_pools()
        queue(message("Another"))
        work()  # the first is away now
        pass_time(20)
        work()
        assert [each for each in backup.mails if b"Ambiguous" in each.content] == []
        assert len(backup.mails) == 1
        email.refresh_from_db()
        assert email.status == Status.QUEUED and failover.mailer_of(email) == email.mailer
        with ScriptedServer() as first:
            queueing(first.port)
            second("backup", backup.port)
            pass_time(400)
            work()
            pass_time(400)
            work()
            assert len([each for each in first.mails if b"Ambiguous" in each.content]) == 1
        assert len(backup.mails) == 1


def test_an_email_that_the_stand_in_may_have_sent_stays_with_the_stand_in(
    queueing: Configure, policy: Configure, second: Configure, away: int
) -> None:
    with ScriptedServer([Fault("DOT", "accept-disconnect")]) as backup, ScriptedServer() as first:
        queueing(away)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        email = queue(message())
        work()
        email.refresh_from_db()
        assert failover.mailer_of(email) == "backup" and email.status == Status.QUEUED
        queueing(first.port)
        second("backup", backup.port)
        pass_time(400)
        work()
        assert (len(first.mails), len(backup.mails)) == (0, 2)
    email.refresh_from_db()
    assert email.status == Status.SENT and email.events[-1]["mailer"] == "backup"


def test_after_a_crash_the_record_says_who_may_have_sent_it(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    with ScriptedServer() as backup, ScriptedServer() as first:
        queueing(first.port)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        email = queue(message())
        leave_sending(via="backup")
        work()
        pass_time(10)
        work()
        assert (len(first.mails), len(backup.mails)) == (0, 1)
    email.refresh_from_db()
    assert [event["mailer"] for event in email.events] == ["backup", "backup"]


def test_a_doubt_is_held_where_that_is_the_policy(
    queueing: Configure, policy: Configure, second: Configure, settings: Any
) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_ON_AMBIGUOUS": "hold"}
    with ScriptedServer() as backup:
        with ScriptedServer([Fault("DOT", "accept-disconnect")]) as first:
            queueing(first.port)
            policy(FAILOVER=["backup"])
            second("backup", backup.port)
            email = queue(message())
            work()
        pass_time(20)
        work()
        assert backup.mails == []
    email.refresh_from_db()
    assert email.status == Status.HELD


def test_who_has_it_never_gets_it_from_the_stand_in(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    with ScriptedServer() as backup:
        with ScriptedServer(refused={"b@example.com": "451 4.3.0 later"}) as first:
            queueing(first.port)
            policy(FAILOVER=["backup"])
            second("backup", backup.port)
            queue(message("Hello", "a@example.com", "b@example.com"))
            work()
            assert [each.recipients for each in first.mails] == [("a@example.com",)]
        close_pools()
        pass_time(120)
        work()
        assert [each.recipients for each in backup.mails] == [("b@example.com",)]


def test_a_mailer_that_a_person_paused_has_nobody_to_stand_in(
    queueing: Configure, policy: Configure, second: Configure
) -> None:
    with ScriptedServer() as first, ScriptedServer() as backup:
        queueing(first.port)
        policy(FAILOVER=["backup"])
        second("backup", backup.port)
        mail.pause(MAILER)
        queue(message())
        work()
        pass_time(70)
        work()
        assert (len(first.mails), len(backup.mails)) == (0, 0)


def test_the_third_when_the_second_is_out_or_paused(
    queueing: Configure, policy: Configure, second: Configure, away: int
) -> None:
    with ScriptedServer() as third, ScriptedServer() as paused:
        queueing(away)
        policy(FAILOVER=["out-too", "paused", "third"])
        second("out-too", away)
        second("paused", paused.port)
        second("third", third.port, RATE="5/h")
        mail.pause("paused")
        queue_many(message(f"Number {n}") for n in range(8))
        work()
        assert (len(third.mails), len(paused.mails)) == (5, 0)  # by its own rate
    assert set(MailerState.objects.values_list("paused_by", flat=True)) == {"outage", "person"}


def test_with_all_of_them_out_mail_waits_unharmed(
    queueing: Configure, policy: Configure, second: Configure, away: int
) -> None:
    queueing(away)
    policy(FAILOVER=["backup"])
    second("backup", away)
    queue_many(message(f"Number {n}") for n in range(3))
    work()
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 0)}
    with ScriptedServer() as server:
        queueing(server.port)
        second("backup", away)
        pass_time(400)
        work()
        pass_time(400)
        work()
        assert len(server.mails) == 3


def test_a_worker_that_read_the_record_before_it_moved_cannot_send_it(
    queueing: Configure, second: Configure
) -> None:
    from mailrail.mail.delivery.store import store_outcomes

    queueing(1)
    second("backup", 1)
    queue(message())
    mine, theirs = Email.objects.get(), Email.objects.get()
    assert failover.move([theirs], "backup", "default") == []
    assert store_outcomes((), [mine], "default") == {mine.pk}
    assert failover.move([mine], "backup", "default") == [mine]
    assert store_outcomes((), [theirs], "default") == set()
