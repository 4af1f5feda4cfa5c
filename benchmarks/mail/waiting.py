"""What mail that waits costs a worker, and how soon it leaves: ``python -m benchmarks.mail.waiting``.

Run by hand, on PostgreSQL. For each reason to wait it fills the queue by SQL, starts ``runworker``, and counts for some
seconds: user and system time of its processes, commits of the database, lines of its log. Then the reason ends, and it
looks after how many seconds 100 emails have left: from the end of a pause, from the first email after an outage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import django

TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_S = 8.0
"""Seconds after the start that are not counted."""
FLOWS = 100
"""Emails that have left when mail flows again."""
FLOWS_WITHIN_S = 120.0
MAILER = "smtp"
FILL = (
    """
    INSERT INTO mailrail_mail_email ({email})
    SELECT {email_values} FROM mailrail_mail_email AS t, generate_series(1, %s) AS n WHERE t.id = %s
    """,
    """
    INSERT INTO mailrail_message ({message})
    SELECT {message_values} FROM mailrail_message AS t, generate_series(1, %s) AS n
    WHERE t.content::text LIKE %s
    """,
)
NEW_ID = "(substr({id}::text, 1, 24) || lpad(to_hex(n), 12, '0'))::uuid"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mail.waiting")
    parser.add_argument("--waiting", type=int, action="append", help="Emails that wait (100 and 100,000).")
    parser.add_argument("--seconds", type=float, default=20.0, help="Seconds that are counted.")
    parser.add_argument("--only", action="append", choices=list(REASONS), help="This reason only.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mailrail-waiting-") as folder:
        os.environ |= {
            "BENCHMARKS_FOLDER": folder,
            "BENCHMARKS_ON": "postgresql",
            "DJANGO_SETTINGS_MODULE": "benchmarks.mail.waiting_settings",
        }
        from ..run import _server

        with _server("mail"):
            django.setup()
            from ..database import create_tables

            create_tables()
            _without_autovacuum()
            print(
                f"{'waits for':12}{'waiting':>10}{'% of a core':>14}{'commits/s':>12}{'log lines/s':>13}"
                f"{'flows after s':>15}",
                flush=True,
            )
            for name, reason in REASONS.items():
                for count in [0] if name == "nothing" else options.waiting or [100, 100_000]:
                    if name == "nothing" or not options.only or name in options.only:
                        _row(name, reason, count, options.seconds)


def _without_autovacuum() -> None:
    """Let the database commit nothing of its own."""
    from ..database import bare

    with bare() as connection:
        connection.execute("ALTER SYSTEM SET autovacuum = off")
        connection.execute("SELECT pg_reload_conf()")


def _row(name: str, reason: Callable[[ExitStack], Reason], count: int, seconds: float) -> None:
    _empty()
    with ExitStack() as stack:
        wait = reason(stack)
        os.environ |= {"BENCHMARKS_SMTP_PORT": str(wait.port), "BENCHMARKS_POLICY": json.dumps(wait.policy)}
        if count:
            _fill(count)
        wait.begin()
        with tempfile.TemporaryFile("w+b") as log, _worker(log) as worker:
            cpu, commits, lines = _measure(worker, log, seconds)
            flows = "" if wait.end is None else f"{_flows_after(wait.end, name == 'outage'):.2f}"
    print(f"{name:12}{count:>10,}{cpu:>14.2f}{commits:>12.2f}{lines:>13.2f}{flows:>15}", flush=True)


def _flows_after(end: Callable[[], object], since_the_first: bool) -> float:
    """End the reason to wait. Return seconds until emails have left."""
    from ..sink import accepted
    from .watching import COUNTER

    end()
    begun = time.monotonic()
    deadline, first = begun + FLOWS_WITHIN_S, None
    while (count := accepted(COUNTER)) < FLOWS:
        if count and first is None:
            first = time.monotonic()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} emails have left.")
        time.sleep(0.005)
    return time.monotonic() - (first if since_the_first and first is not None else begun)


def _empty() -> None:
    from ..database import bare

    tables = (
        "mailrail_mail_email, mailrail_message, mailrail_mail_mailerstate, mailrail_mail_mailerconnection"
    )
    with bare() as connection:
        connection.execute(
            f"TRUNCATE {tables}, mailrail_pause, mailrail_bucket, mailrail_mail_mailerthrottle CASCADE"
        )


def _fill(count: int) -> None:
    """Store so many emails with their messages: copies of one that ``send_mail`` queues."""
    from django.core.mail import send_mail

    from mailrail.mail.models import Email

    from ..database import bare

    send_mail("Hello", "Text", "plants@example.com", ["guest@example.com"])
    id = Email.objects.get().pk
    with bare() as connection:
        for statement, table, key in zip(
            FILL, ("mailrail_mail_email", "mailrail_message"), (id, f"%{id}%"), strict=True
        ):
            columns = [
                name
                for (name,) in connection.execute(
                    "SELECT column_name FROM information_schema.columns "
                    "WHERE table_name = %s AND is_generated = 'NEVER'",
                    [table],
                )
            ]
            changed = {"id": NEW_ID.format(id="t.id")}
            if table == "mailrail_message":
                new = NEW_ID.format(id=f"'{id}'")
                changed["content"] = f"replace(t.content::text, '{id}', {new}::text)::{_type_of(connection)}"
            values = ", ".join(changed.get(name, f"t.{name}") for name in columns)
            names = ", ".join(columns)
            text = statement.format(email=names, email_values=values, message=names, message_values=values)
            connection.execute(text, [count - 1, key])
        connection.execute("ANALYZE")


def _type_of(connection: Any) -> str:
    [(kind,)] = connection.execute(
        "SELECT data_type FROM information_schema.columns "
        "WHERE table_name = 'mailrail_message' AND column_name = 'content'"
    ).fetchall()
    return str(kind)


def _measure(worker: subprocess.Popen[bytes], log: Any, seconds: float) -> tuple[float, float, float]:
    """Return per cent of a core, commits per second, and lines of the log per second."""
    from ..database import bare

    with bare() as connection:
        time.sleep(SETTLE_S)
        before = _state(worker, connection, log)
        time.sleep(seconds)
        after = _state(worker, connection, log)
    cpu, commits, lines = (late - early for early, late in zip(before, after, strict=True))
    return cpu / TICKS / seconds * 100, commits / seconds, lines / seconds


def _state(worker: subprocess.Popen[bytes], connection: Any, log: Any) -> tuple[float, float, float]:
    from ..processes import children_of

    pids = [worker.pid, *children_of(worker.pid)]
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    ticks = sum(int(field[11]) + int(field[12]) for field in fields)
    [(commits,)] = connection.execute(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    ).fetchall()
    log.seek(0)
    return float(ticks), float(commits), float(log.read().count(b"\n"))


@contextmanager
def _worker(log: Any) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "django", "runworker", "--processes", "1", "--verbosity", "3"]
    process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


# -- reasons to wait ------------------------------------------------------------------------------------------------


class Reason(NamedTuple):
    """The server's port, the mailer's policy, what to do once the queue is full, and what lets the mail go."""

    port: int
    policy: dict[str, Any]
    begin: Callable[[], object]
    end: Callable[[], object] | None


def _nothing(stack: ExitStack) -> Reason:
    return Reason(_sink(stack), {}, lambda: None, None)


def _pause(stack: ExitStack) -> Reason:
    from django.core.management import call_command

    pause, resume = (
        partial(call_command, "mailers", what, MAILER, verbosity=0) for what in ("pause", "resume")
    )
    return Reason(_sink(stack), {}, pause, resume)


def _outage(stack: ExitStack) -> Reason:
    from ..sink import free_port

    port = free_port()  # nobody listens there until the end
    return Reason(port, {}, lambda: None, lambda: _sink(stack, port))


def _rate(stack: ExitStack) -> Reason:
    return Reason(_sink(stack), {"RATE": "1/h"}, lambda: None, None)


def _connections(stack: ExitStack) -> Reason:
    from mailrail.mail.models import MailerConnection
    from mailrail.moments import from_now

    def take() -> None:
        MailerConnection.objects.create(mailer=MAILER, number=1, holder="another", until=from_now(3600))

    def give_back() -> None:
        MailerConnection.objects.update(holder="", until=from_now(0))

    return Reason(_sink(stack), {"CONNECTIONS": 1}, take, give_back)


def _sink(stack: ExitStack, port: int = 0) -> int:
    from ..sink import sink
    from .watching import COUNTER

    return stack.enter_context(sink(COUNTER, port))


REASONS: dict[str, Callable[[ExitStack], Reason]] = {
    "nothing": _nothing,
    "pause": _pause,
    "outage": _outage,
    "rate": _rate,
    "connections": _connections,
}

if __name__ == "__main__":
    main()
