"""Email on PostgreSQL while workers are killed and the database restarts. The server's own account is what counts."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from email.parser import BytesHeaderParser
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import django
import pytest
from django.core.mail import EmailMessage, mail_admins
from django.core.mail.backends.base import BaseEmailBackend
from django.db import OperationalError, connections
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.mail.delivery.batch import Delivery
from mailrail.worker import IncomingMessage

from ..listed import dead_on
from ..processes import Ledger, WorkerProcess, children_of, until, workers
from ..proxy import Proxy
from ..servers import PostgresServer
from ..smtp_server import Fault, ScriptedServer
from .conftest import recover

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(600),
]

EMAILS = int(os.environ.get("MAILRAIL_FAULT_EMAILS", "1000"))
MAILER = "out" if django.VERSION >= (6, 1) else ""
CHANNEL = f"mailrail.mail.{MAILER or 'default'}"
ROUNDS = int(os.environ.get("MAILRAIL_FAULT_MAIL_ROUNDS", "4"))


@pytest.fixture
def server(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Takes email, and workers that are started know it. Records and messages are on PostgreSQL."""
    with ScriptedServer() as server:
        monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
        }
        if django.VERSION >= (6, 1):
            settings.MAILERS = {MAILER: {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}
        yield server
        connections["postgres"].close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start a worker of two processes, or of so many."""
    with ExitStack() as stack:

        def start(processes: int = 2) -> WorkerProcess:
            options = ("mailrail.mail", "--layer", "postgres", "--processes", str(processes))
            [worker] = stack.enter_context(workers(Ledger(tmp_path / "ledger"), *options))
            return worker

        yield start


def queue(count: int) -> Counter[str]:
    """Their Message-IDs."""
    messages = [
        EmailMessage(f"Number {n}", "Hello.\n", "me@example.com", [f"to{n}@example.com"])
        for n in range(count)
    ]
    return Counter(email.message_id for email in mail.queue_many(messages, mailer=MAILER))


def arrived(server: ScriptedServer) -> Counter[str]:
    parse = BytesHeaderParser().parsebytes
    return Counter(parse(each.content)["Message-ID"] for each in server.mails)


def is_over() -> bool:
    return not Email.objects.filter(status__in=(Status.QUEUED, Status.SENDING)).exists()


def finish(start: Callable[[], WorkerProcess]) -> None:
    """Wait until ambiguous email, and email lost with its worker, is sent again."""
    for _ in range(20):
        worker = start()
        until(lambda: is_over() or nothing_is_due(), 120, "the end of what is due")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log[-3000:]
        if is_over():
            return
        get_layer().advance_time(600)
    raise AssertionError(Counter(Email.objects.values_list("status", flat=True)))


def nothing_is_due() -> bool:
    stats = get_layer().stats().get(CHANNEL)
    return stats is None or stats.ready + stats.claimed == 0


def nothing_is_ready() -> bool:
    stats = get_layer().stats().get(CHANNEL)
    return stats is None or stats.ready == 0


def check(server: ScriptedServer, ids: Counter[str], most_copies: int) -> None:
    """All arrived, under their own Message-IDs; no more twice than may have been on their way."""
    found = arrived(server)
    assert not ids.keys() - found.keys(), f"{len(ids.keys() - found.keys())} lost"
    assert not found.keys() - ids.keys(), "a Message-ID was changed"
    copies = found.total() - len(ids)
    print(f"{len(ids)} emails, {copies} copies, {most_copies} connections were open")
    assert copies <= most_copies
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}
    assert not dead_on(get_layer(), CHANNEL)


def freeze(pids: Iterable[int], port: int) -> int:
    """Stop these processes. Returns their connections to the server, each of which may have an email on its way."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return sum(connections_of(pid, port) for pid in pids)


def has_ended(pid: int, worker: WorkerProcess) -> bool:
    return pid not in children_of(worker.process.pid)


def holds_a_transaction() -> bool:
    """Does one stand open, once the statements that were under way have ended, or wait for a lock of one?"""

    def states() -> set[str]:
        with connections["postgres"].cursor() as cursor:
            cursor.execute(
                "SELECT CASE WHEN wait_event_type = 'Lock' THEN 'waits for a transaction' ELSE state END "
                "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return {state for (state,) in cursor.fetchall()}

    until(lambda: "active" not in states(), what="the end of the statements under way")
    return not states().isdisjoint({"idle in transaction", "waits for a transaction"})


def connections_of(pid: int, port: int) -> int:
    """From /proc (proc(5))."""
    remote = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {fields[9] for fields in lines if fields[2].endswith(remote)}
    files = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(file.startswith("socket:[") and file[8:-1] in inodes for file in files)


def test_kill_9_at_random_again_and_again(server: ScriptedServer, start: Callable[[], WorkerProcess]) -> None:
    """Of one process of a worker while the other goes on, or of all there are."""
    print(f"seed: {(seed := random.randrange(10**6))}")
    chance = random.Random(seed)
    ids = queue(EMAILS)
    most_copies, worker = 0, start()
    for n in range(ROUNDS):
        enough = len(server.mails) + chance.randrange(20, max(21, EMAILS // ROUNDS))
        until(lambda enough=enough: len(server.mails) >= enough or nothing_is_ready(), 120)  # type: ignore[misc]
        until(partial(children_of, worker.process.pid), what="a process after the last one killed")
        children = children_of(worker.process.pid)
        if n == ROUNDS - 1 or chance.random() < 0.5:
            most_copies += freeze(children, server.port)
            worker.kill_all()
            get_layer().advance_time(20)  # the leases of the dead lapse
            worker = worker if n == ROUNDS - 1 else start()
        else:
            [victim] = chance.sample(children, 1)
            most_copies += freeze([victim], server.port)
            os.kill(victim, signal.SIGKILL)
            until(partial(has_ended, victim, worker), what="its end")  # else it may be chosen once more
    finish(start)
    check(server, ids, most_copies)


def test_a_worker_killed_between_two_transactions_of_an_email_leaves_a_doubt_about_one(
    server: ScriptedServer, start: Callable[[], WorkerProcess]
) -> None:
    """Who has it is in the record before the next final dot leaves, and gets no second copy."""
    server.limit(100, Fault("DOT", "silence", 2))
    bcc = [f"to{n}@example.com" for n in range(500)]
    email = mail.queue(EmailMessage("Hello", "A body.\n", "me@example.com", bcc=bcc), mailer=MAILER)
    worker = start()
    until(lambda: server.count("DOT") == 3, what="the third final dot")
    worker.kill_all()
    email.refresh_from_db()
    assert (email.status, Counter(each["status"] for each in email.recipients)) == (
        Status.SENDING,
        {"sent": 200, "queued": 300},
    )
    get_layer().advance_time(20)
    finish(start)
    email.refresh_from_db()
    copies = Counter(recipient for each in server.mails for recipient in each.recipients)
    assert len(copies) == 500 and set(copies.values()) == {1}
    assert sum(bool(each.get("ambiguous")) for each in email.recipients) == 100
    assert (email.status, email.attempts) == (Status.SENT, 1)


def test_a_worker_stopped_past_its_lease_in_mid_send_sends_nothing_more_when_it_goes_on(
    server: ScriptedServer, start: Callable[[], WorkerProcess]
) -> None:
    ids = queue(EMAILS // 2)
    first = start()
    until(lambda: len(server.mails) >= EMAILS // 8)
    everybody = [first.process.pid, *children_of(first.process.pid)]
    most_copies = freeze(everybody, server.port)
    while holds_a_transaction():  # which keeps its emails from everybody until it goes on
        os.killpg(first.process.pid, signal.SIGCONT)
        most_copies = freeze(everybody, server.port)
    get_layer().advance_time(20)
    second = start()
    until(is_over, 120)
    os.killpg(first.process.pid, signal.SIGCONT)
    for worker in (first, second):
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log[-3000:]
    check(server, ids, most_copies)


def test_a_worker_stopped_between_load_and_dot_does_not_send_what_another_one_has_sent(
    server: ScriptedServer, start: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, proxy = queue(1), Proxy(server.port)
    proxy.hold()  # the server's greeting, for which a worker waits that has loaded the email
    monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(proxy.port))
    first = start(1)
    until(lambda: proxy._pairs, 60, "the connection of the first worker")
    os.killpg(first.process.pid, signal.SIGSTOP)
    get_layer().advance_time(20)
    monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
    second = start(1)
    until(is_over, 60, "the email by the second worker")
    proxy.mend()
    os.killpg(first.process.pid, signal.SIGCONT)
    until(lambda: server.count("DATA") == 2, 60, "the first worker, which goes on")
    for worker in (first, second):
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log[-3000:]
    proxy.close()
    assert server.count("DOT") == 1
    check(server, ids, 0)


def test_email_of_a_worker_that_was_killed_with_its_supervisor_waits_for_no_lease(
    server: ScriptedServer, start: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Print after how many seconds it goes on: 5 at most, on a machine that does little else."""
    ids, proxy = queue(100), Proxy(server.port)
    proxy.hold()
    monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(proxy.port))
    first = start(1)
    until(lambda: nothing_is_ready() and proxy._pairs, 60, "the claims of the first worker")
    monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
    second = start(1)
    until(lambda: len(get_layer().workers()) == 2, 60, "the sign of life of both")
    first.kill_all()
    lapse_at = time.monotonic() + seconds_of_leases()
    recover(lambda: server.mails, "kill -9 of a worker and its supervisor")
    assert time.monotonic() < lapse_at
    until(is_over, 60, "the rest")
    second.signal(signal.SIGTERM)
    assert second.wait() == 0, second.log[-3000:]
    proxy.close()
    check(server, ids, 0)


def seconds_of_leases() -> float:
    """For how long the first of all claims is still leased; 0 without one."""
    with connections["postgres"].cursor() as cursor:
        cursor.execute(
            "SELECT min(due) - date_part('epoch', now()) FROM mailrail_message WHERE token IS NOT NULL"
        )
        return float(cursor.fetchone()[0] or 0.0)


class Restarting(BaseEmailBackend):
    """The database is restarted when it has taken the first email, and not before it is noticed."""

    taken: ClassVar[list[str]] = []
    restart: ClassVar[Callable[[], None]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**({"alias": kwargs["alias"]} if "alias" in kwargs else {}))

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        Restarting.taken += [message.extra_headers["Message-ID"] for message in email_messages]
        if len(Restarting.taken) == 1:
            Restarting.restart()
        return len(email_messages)


def test_a_restart_of_the_database_makes_no_copy_of_what_another_backend_has_taken(
    server: ScriptedServer, settings: Any, postgres_server: PostgresServer
) -> None:
    def restart() -> None:
        postgres_server.stop(signal.SIGQUIT)
        postgres_server.start()

    Restarting.taken.clear()
    Restarting.restart = restart
    if django.VERSION >= (6, 1):
        settings.MAILERS = {MAILER: {"BACKEND": f"{__name__}.Restarting"}}
    else:
        settings.EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend"
        settings.MAILRAIL = {**settings.MAILRAIL, "DELIVER_WITH": f"{__name__}.Restarting"}
    ids = queue(5)
    claims = get_layer().claim("w", {CHANNEL: 5}, 60.0).claims
    Delivery([IncomingMessage(each) for each in claims]).run()
    assert Counter(Restarting.taken) == ids
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT}


def breaks(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the reason")


urlpatterns = [path("breaks/", breaks)]


def test_a_request_is_answered_whose_error_cannot_be_mailed(
    server: ScriptedServer, settings: Any, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As the database is away: Django's own logging mails its errors by the mailer that queues."""
    if django.VERSION >= (6, 1):
        queue = {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": MAILER}}
        settings.MAILERS = {**settings.MAILERS, "default": queue}
    else:
        settings.EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend"
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    settings.ROOT_URLCONF = __name__
    client = Client(raise_request_exception=False)
    connections["postgres"].close()
    postgres_server.stop(signal.SIGQUIT)
    try:
        assert client.get("/breaks/").status_code == 500
        with pytest.raises(OperationalError):  # what is no error mail is not silenced
            mail_admins("Hello", "A body.")
    finally:
        postgres_server.start()
        connections["postgres"].close()
    [said] = [each for each in caplog.records if each.name == "mailrail.mail"]
    assert said.getMessage() == "1 email could not be queued"
    assert client.get("/breaks/").status_code == 500
    assert "/breaks/" in Email.objects.get().subject


def test_an_immediate_restart_of_the_database_in_mid_send(
    server: ScriptedServer, start: Callable[[], WorkerProcess], postgres_server: PostgresServer
) -> None:
    ids = queue(EMAILS)
    worker = start()
    until(lambda: len(server.mails) >= EMAILS // 4)
    most_copies = server.open_connections
    postgres_server.stop(signal.SIGQUIT)
    postgres_server.start()
    connections.close_all()
    until(lambda: len(server.mails) >= EMAILS // 2, what="the sending after the restart")
    most_copies += server.open_connections
    worker.kill_all()
    get_layer().advance_time(20)
    finish(start)
    check(server, ids, most_copies)
