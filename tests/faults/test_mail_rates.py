"""Rates, connections, failover and pauses over two workers of two processes each; the servers' own account counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.db import connections

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.mail.mailers import circuit
from mailrail.mail.models import MailerConnection, MailerState, MailerThrottle

from ..listed import dead_on
from ..processes import Ledger, WorkerProcess, environment, until
from ..servers import ValkeyServer
from ..smtp_server import Fault, Mail, ScriptedServer

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(300),
]

MAILER = "out" if django.VERSION >= (6, 1) else ""
NAME = MAILER or "default"
SMTP = "django.core.mail.backends.smtp.EmailBackend"


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def storage(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where messages and buckets are. Records are on PostgreSQL with the second, else on SQLite."""
    kind: str = request.param
    layer: dict[str, Any] = {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}
    if kind == "postgresql":
        layer["CONFIG"] = {"using": "postgres"}
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    elif kind == "valkey":
        server: ValkeyServer = request.getfixturevalue("valkey")
        config = {
            "hosts": [server.url],
            "routing": "tests.routes.on_redis",
        }  # no atomic consumers; ours always
        layer = {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": config}
    settings.CHANNEL_LAYERS = {"default": layer}
    yield kind
    for connection in connections.all():
        connection.close()


class Project:
    """The same mailers for this process and for the workers it starts."""

    def __init__(self, settings: Any, folder: Path, stack: ExitStack) -> None:
        self._settings = settings
        self._folder = folder
        self._stack = stack
        self._ledger = Ledger(folder / "ledger")

    def configure(self, port: int, backup: int | None = None, **policy: Any) -> None:
        ports = {NAME: port} if backup is None else {NAME: port, "backup": backup}
        policies: dict[str, Any] = {NAME: policy}
        names: dict[str, Any] = {"CHANNEL_LAYERS": self._settings.CHANNEL_LAYERS}
        if django.VERSION >= (6, 1):
            names["MAILERS"] = {
                name: {"BACKEND": SMTP, "OPTIONS": {"host": "127.0.0.1", "port": at}}
                for name, at in ports.items()
            }
        else:
            queue = "mailrail.mail.backend.EmailBackend"
            names |= {"EMAIL_BACKEND": queue, "EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}
            if backup is not None:
                policies["backup"] = {"BACKEND": SMTP, "OPTIONS": {"port": backup}}
        ambiguous = {"MAIL_ON_AMBIGUOUS": "hold"}
        names["MAILRAIL"] = {**self._settings.MAILRAIL, **ambiguous, "MAILERS": policies}
        for name, value in names.items():
            setattr(self._settings, name, value)
        text = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        self._folder.joinpath("changed_settings.py").write_text(f"from tests.settings import *\n{text}")

    def start(self, number: int) -> list[WorkerProcess]:
        """Workers of two processes each."""
        env = environment(self._ledger.path)
        env["DJANGO_SETTINGS_MODULE"] = "changed_settings"
        env["PYTHONPATH"] += f":{self._folder}"
        started = []
        for _ in range(number):
            worker = WorkerProcess(self._ledger, "mailrail.mail", "--processes", "2", env=env)
            self._stack.callback(_end, worker)
            started.append(worker)
        return started


def _end(worker: WorkerProcess) -> None:
    worker.kill_all()
    print(worker.log[-3000:])


@pytest.fixture
def project(settings: Any, tmp_path: Path, storage: str) -> Iterator[Project]:
    with ExitStack() as stack:
        yield Project(settings, tmp_path, stack)


def queue(count: int, domain: str = "example.com") -> list[Email]:
    return mail.queue_many(
        (
            EmailMessage(f"Number {n}", "Hello.\n", "me@example.com", [f"to{n}@{domain}"])
            for n in range(count)
        ),
        mailer=MAILER,
    )


def all_are_sent() -> bool:
    """Each with its first attempt; the last outcomes are written after the server has told them."""
    return set(Email.objects.values_list("status", "attempts")) == {(Status.SENT.value, 1)}


def ids(mails: list[Mail]) -> Counter[str]:
    parse = BytesHeaderParser().parsebytes
    return Counter(parse(each.content)["Message-ID"] for each in mails)


def most_above(mails: list[Mail], count: int, seconds: float) -> float:
    """By how many emails any stretch of time had more than a full bucket and what it gains meanwhile."""
    times = [each.at for each in mails]
    return max(
        n - m + 1 - (count + (times[n] - times[m]) * count / seconds)
        for m in range(len(times))
        for n in range(m, len(times))
    )


def test_a_rate_holds_over_all_workers(project: Project) -> None:
    with ScriptedServer() as server:
        project.configure(server.port, RATE="20/s, 100000/d", RATES={"slow.example": "5/s"})
        queue(20, "slow.example")
        queued = queue(100)
        project.start(2)
        until(lambda: len(server.mails) == 120)
        took = server.mails[-1].at - server.mails[0].at
        slow = [each for each in server.mails if "slow.example" in each.recipients[0]]
        print(
            f"120 emails at 20/s: {took:.2f} s, where {(120 - 20) / 20} s are the least; above the bucket at most ",
            end="",
        )
        print(f"{most_above(server.mails, 20, 1):.1f} and {most_above(slow, 5, 1):.1f}")
        # Arrivals are seen, not tokens: what stood still on its way comes together with the next ones. Without a shared
        # bucket, four processes would exceed it by 60 and by 15.
        assert most_above(server.mails, 20, 1) <= 8
        assert most_above(slow, 5, 1) <= 3
        until(all_are_sent)
    assert ids(server.mails).total() == len(ids(server.mails)) == 120
    order = [each.recipients[0] for each in server.mails if "slow.example" not in each.recipients[0]]
    assert len(order) == len(queued)


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_connections_hold_over_all_workers(project: Project) -> None:
    with ScriptedServer() as server:
        project.configure(server.port, CONNECTIONS=3)
        queue(400)
        project.start(2)
        until(lambda: len(server.mails) == 400)
        assert 1 <= server.most_connections <= 3
        until(lambda: not MailerConnection.objects.exclude(holder="").exists())
        took = server.mails[-1].at - server.mails[0].at
        print(f"{server.connections} connections in all, {server.most_connections} at once, {took:.2f} s")
        until(all_are_sent)


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_a_relay_that_is_killed_in_mid_drain(project: Project) -> None:
    """Each email once, by one of the two; what may have been sent waits for a person, and is not at the other."""
    with ScriptedServer() as backup, ExitStack() as first_lives:
        lost_replies = [Fault("DOT", "accept-disconnect", n) for n in (60, 61, 90)]
        first = first_lives.enter_context(ScriptedServer(lost_replies))
        project.configure(first.port, backup.port, FAILOVER=["backup"])
        queued = queue(1000)
        project.start(2)
        until(lambda: len(first.mails) >= 150)
        first_lives.close()
        waiting = Email.objects.filter(status__in=(Status.QUEUED, Status.SENDING))
        until(lambda: not waiting.exists(), 120)
        by_first, by_backup = ids(first.mails), ids(backup.mails)
        held = {email.message_id for email in Email.objects.filter(status=Status.HELD)}
        print(f"{len(by_first)} by the first, {len(by_backup)} by the second, {len(held)} ambiguous")
        assert (by_first + by_backup).keys() | held == {email.message_id for email in queued}
        assert set((by_first + by_backup).values()) == {1} and len(by_backup) > 100
        assert not held & by_backup.keys()
        assert 3 <= len(held) <= 3 + first.most_connections
        sent_by = {
            email.message_id: email.events[-1].get("mailer", "")
            for email in Email.objects.filter(status=Status.SENT)
        }
        assert {id for id, mailer in sent_by.items() if mailer == "backup"} == set(by_backup)


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_kill_9_of_workers_while_another_mailer_stands_in(project: Project) -> None:
    """Whichever of the two may have sent an email is named in its record, and the other one does not send it."""
    with ScriptedServer() as backup, ExitStack() as first_lives:
        first = first_lives.enter_context(ScriptedServer())
        project.configure(first.port, backup.port, FAILOVER=["backup"])
        queued = queue(1000)
        for round in range(3):
            enough = len(first.mails) + len(backup.mails) + 150
            started = project.start(2)
            until(lambda enough=enough: len(first.mails) + len(backup.mails) >= enough)  # type: ignore[misc]
            for worker in started:
                worker.kill_all()
            if round == 0:
                first_lives.close()
            get_layer().advance_time(20)
        started = project.start(2)
        waiting = Email.objects.filter(status__in=(Status.QUEUED, Status.SENDING))
        until(lambda: not waiting.exists(), 120)
        sent = ids(first.mails) + ids(backup.mails)
        held = {email.message_id for email in Email.objects.filter(status=Status.HELD)}
        print(f"{len(first.mails)} by the first, {len(backup.mails)} by the second, {len(held)} ambiguous")
        assert sent.keys() | held == {email.message_id for email in queued}
        assert set(sent.values()) == {1} and len(backup.mails) > 300


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_mail_goes_back_to_a_relay_that_works_again(project: Project) -> None:
    with ScriptedServer() as backup, ScriptedServer() as first:
        project.configure(first.port, backup.port, FAILOVER=["backup"])
        project.start(1)
        queue(1)
        until(lambda: len(first.mails) == 1)
        circuit.trip(MAILER, "it was away", Email.objects.db)
        n = 0
        while len(first.mails) == 1:  # until it is tried, after about five seconds
            n += 1
            queue(1)
            until(lambda n=n: len(first.mails) + len(backup.mails) == 1 + n)  # type: ignore[misc]
        assert len(backup.mails) == n - 1 > 0
        until(lambda: not MailerState.objects.exists())  # written after the server has taken the probe
        queue(20)
        until(lambda: len(first.mails) == 22)
        until(all_are_sent)


@pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)
def test_workers_see_a_pause_and_its_end_soon(project: Project) -> None:
    using = Email.objects.db
    with ScriptedServer() as server:
        project.configure(server.port, RATE="50/s")
        queue(250)
        project.start(2)
        until(lambda: len(server.mails) >= 100)
        mail.pause(NAME, using)
        paused_at = time.monotonic()
        until(lambda: time.monotonic() - max(paused_at, server.mails[-1].at) > 2)
        before = len(server.mails)
        assert before < 200 and server.mails[-1].at - paused_at < 1.5
        mail.resume(NAME, using)
        resumed_at = time.monotonic()
        until(lambda: len(server.mails) > before)
        print(f"paused after {server.mails[before - 1].at - paused_at:.2f} s, ", end="")
        print(f"resumed after {server.mails[before].at - resumed_at:.2f} s")
        assert server.mails[before].at - resumed_at < 3
        until(lambda: len(server.mails) == 250, 90)
        until(all_are_sent)


class Strict(ScriptedServer):
    """It turns away whatever comes faster than eight a second, as providers do."""

    refusals = 0

    def fault_at(self, stage: str) -> str | None:
        if stage != "MAIL":
            return super().fault_at(stage)
        recent = [each for each in self.mails[-8:] if each.at > time.monotonic() - 1]
        if len(recent) < 8:
            return None
        self.refusals += 1
        return "451 4.7.0 Not so fast"


def test_a_server_that_asks_for_less_gets_less_from_all_workers(project: Project) -> None:
    with (strict := Strict()) as server:
        project.configure(server.port, RATE="32/s")
        queue(400)
        project.start(2)
        until(lambda: MailerThrottle.objects.filter(share__lt=1).exists())
        until(lambda: len(server.mails) >= 60)
        row = MailerThrottle.objects.get(domain="")
        print(f"{strict.refusals} refusals; {row.share} of {row.pace}/s; {len(server.mails)} sent")
        assert row.mailer == MAILER and row.share < 1 and "Not so fast" in row.reason
    assert dead_on(get_layer(), f"mailrail.mail.{NAME}") == []
    assert not Email.objects.exclude(
        status__in=(Status.SENT, Status.QUEUED, Status.SENDING, Status.HELD)
    ).exists()
