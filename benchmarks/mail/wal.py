"""How much PostgreSQL logs (WAL) for an email, from queueing to the end of its message."""

from __future__ import annotations

import os

from django.core import mail
from django.db import connection

from ..figures import Plan, Result, Series, Target
from ..processes import running, runworker
from ..sink import sink
from .models import new_invitations
from .watching import COUNTER, PROCESSES, empty

EMAILS = 4_000
BEFORE = 5_260
"""Bytes for an email before decision 49, by this measurement."""
MOST = 0.6


def run(plan: Plan) -> Result:
    queueing, delivering = Series("queueing", "bytes/email"), Series("delivering", "bytes/email")
    together = Series("together", "bytes/email")
    count = plan.size(EMAILS)
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for _ in range(plan.rounds):
            empty()
            messages = [each.message() for each in new_invitations(count)]
            begun = _logged()
            mail.mailers["default"].send_messages(messages)
            queued = _logged()
            with running(*runworker("mailrail.mail", "--drain", "--processes", str(PROCESSES))) as worker:
                worker.wait()
            ended = _logged()
            for series, logged in (
                (queueing, queued - begun),
                (delivering, ended - queued),
                (together, ended - begun),
            ):
                series.values.append(logged / count)
    share = together.median / BEFORE
    return Result(
        f"Mail: PostgreSQL's log for each of {count:,} text emails",
        "`pg_current_wal_lsn()` before and after, with `full_page_writes` off: how many pages are logged as images "
        "depends on the time since the last checkpoint.",
        [queueing, delivering, together],
        [],
        [Target(f"<= {MOST} x the {BEFORE:,} bytes before decision 49", f"{share:.3f} x", share <= MOST)],
    )


def _logged() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_lsn() - '0/0'")
        return int(cursor.fetchone()[0])
