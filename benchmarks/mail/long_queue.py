"""A long queue: the first emails of a million that wait, beside as many that wait alone."""

from __future__ import annotations

import os

from django.core import mail
from django.db import connection

from ..figures import Plan, Ratio, Result, Series, Target
from ..processes import children_of, running, runworker
from ..sink import accepted, sink
from .memory import peak_of
from .models import new_invitations
from .watching import COUNTER, PROCESSES, UNIT, empty, rate

FIRST = 50_000
WAITING = 1_000_000
LEAST_SHARE, MOST_MEMORY = 0.95, 1.1
REPEAT = """
WITH model AS (SELECT * FROM {table} LIMIT 1)
INSERT INTO {table} ({columns})
SELECT {values} FROM model, generate_series(2, %(count)s) AS n
"""
ID = "(lpad(to_hex(1700000000000 + n), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid"


def run(plan: Plan) -> Result:
    first, waiting = plan.size(FIRST), plan.size(WAITING)
    rates = {first: Series(f"{first:,} wait", UNIT), waiting: Series(f"{waiting:,} wait", UNIT)}
    peaks = {count: Series(f"{series.name}, largest process", "MiB") for count, series in rates.items()}
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for _ in range(plan.rounds):
            for count in (first, waiting):
                _fill(count)
                speed, peak = _first(first)
                rates[count].values.append(speed)
                peaks[count].values.append(peak)
        empty()
    share = Ratio.of(rates[waiting], rates[first])
    memory = Ratio.of(peaks[waiting], peaks[first])
    return Result(
        f"Mail: the first {first:,} of {waiting:,} emails that wait",
        "Filled by SQL from one queued email, then VACUUM ANALYZE. Peak resident memory of a worker process (VmHWM).",
        [*rates.values(), *peaks.values()],
        [share, memory],
        [
            Target(f">= {LEAST_SHARE} x the rate", f"{share.value:.2f} x", share.value >= LEAST_SHARE),
            Target(f"<= {MOST_MEMORY} x the memory", f"{memory.value:.2f} x", memory.value <= MOST_MEMORY),
        ],
    )


def _fill(count: int) -> None:
    """Queue one email, and make the others of it: their records and their messages have other ids, and nothing else."""
    empty()
    mail.mailers["default"].send_messages([each.message() for each in new_invitations(1)])
    with connection.cursor() as cursor:
        _repeat("mailrail_mail_email", {"id": ID, "message_id": "'<' || n || '@example.com>'"}, count)
        content = f"""replace(content, content::jsonb ->> 'id', {ID}::text)"""
        _repeat("mailrail_message", {"id": ID, "content": content, "due": "due + n / 1e6"}, count)
        cursor.execute("VACUUM ANALYZE mailrail_mail_email, mailrail_message")
        cursor.execute("CHECKPOINT")


def _repeat(table: str, changed: dict[str, str], count: int) -> None:
    with connection.cursor() as cursor:
        columns = [column.name for column in connection.introspection.get_table_description(cursor, table)]
        names = ", ".join(map(connection.ops.quote_name, columns))
        values = ", ".join(changed.get(name, connection.ops.quote_name(name)) for name in columns)
        cursor.execute(REPEAT.format(table=table, columns=names, values=values), {"count": count})


def _first(count: int) -> tuple[float, float]:
    """Return the rate of the first emails, and MiB of the largest worker process after them."""
    before = accepted(COUNTER)
    with running(*runworker("mailrail.mail", "--processes", str(PROCESSES))) as worker:
        speed = rate(count, before, [worker])
        return speed, max(map(peak_of, children_of(worker.pid)))
