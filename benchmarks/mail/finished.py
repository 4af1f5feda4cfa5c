"""A site with a past: the backlog, and one email with and without a worker, beside a million that are finished."""

from __future__ import annotations

import os
from time import perf_counter

from django.core.mail import send_mail
from django.db import connection, transaction

from tests.mail.many import FILL

from ..figures import Plan, Ratio, Result, Series, Target, percentile
from ..sink import sink
from .idle import to_acceptance
from .watching import COUNTER, UNIT, empty, of_the_queue

TABLE = "mailrail_mail_email"
EMAILS = 5_000
FINISHED = 1_000_000
SENDS = 500
ONE_BY_ONE = 100
"""Emails to an idle worker."""
LEAST_SHARE, MOST_SLOWER = 0.95, 1.2
NOT_LONG = "repeat('Thank you for your order. ', 15)"
LONG = "(SELECT string_agg(md5((n + line)::text), ' ') FROM generate_series(1, 38) line)"
"""About 1.2 kB that no compression shortens, so that a content has about 1.5 kB."""


def run(plan: Plan) -> Result:
    alone, beside = Series("an empty table", UNIT), Series("beside finished emails", UNIT)
    one_alone, one_beside = Series("send_mail(), p99, empty", "ms"), Series("send_mail(), p99, beside", "ms")
    idle_alone, idle_beside = (
        Series("idle worker, p50, empty", "ms"),
        Series("idle worker, p50, beside", "ms"),
    )
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        _make_second_table()
        _fill(plan.size(FINISHED))
        for _ in range(plan.rounds):
            _swap()
            _forget()
            alone.values.append(of_the_queue(plan.size(EMAILS)))
            one_alone.values.append(_send_p99(plan.size(SENDS)))
            _forget()
            idle_alone.values.append(_idle_p50(plan.size(ONE_BY_ONE)))
            _swap()
            _finish_all()
            beside.values.append(of_the_queue(plan.size(EMAILS), keep=True))
            one_beside.values.append(_send_p99(plan.size(SENDS)))
            _finish_all()
            idle_beside.values.append(_idle_p50(plan.size(ONE_BY_ONE)))
        empty()
    rate, p99 = Ratio.of(beside, alone), Ratio.of(one_beside, one_alone)
    p50 = Ratio.of(idle_beside, idle_alone)
    return Result(
        f"Mail: beside {plan.size(FINISHED):,} finished emails",
        "Filled by SQL, about 1.5 kB of content each, and ANALYZEd before each round, when nothing is queued. The "
        "two sides take turns, each with a table of its own. The empty one forgets its statistics before each round.",
        [alone, beside, one_alone, one_beside, idle_alone, idle_beside],
        [rate, p99, p50],
        [
            Target(
                f">= {LEAST_SHARE} x of the empty table", f"{rate.value:.2f} x", rate.value >= LEAST_SHARE
            ),
            Target(f"p99 of send_mail() <= {MOST_SLOWER} x", f"{p99.value:.2f} x", p99.value <= MOST_SLOWER),
            Target(f"p50 to acceptance <= {MOST_SLOWER} x", f"{p50.value:.2f} x", p50.value <= MOST_SLOWER),
        ],
    )


def _make_second_table() -> None:
    """Make another empty table of emails, like the first, for ``_swap``."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA IF NOT EXISTS aside")
        cursor.execute(f"DROP TABLE IF EXISTS aside.{TABLE}")
        cursor.execute(f"CREATE TABLE aside.{TABLE} (LIKE public.{TABLE} INCLUDING ALL)")
        cursor.execute(
            "SELECT unnest(reloptions) FROM pg_class WHERE oid = %s::regclass", [f"public.{TABLE}"]
        )
        options = ", ".join(option for (option,) in cursor.fetchall())
        cursor.execute(f"ALTER TABLE aside.{TABLE} SET ({options})")


def _swap() -> None:
    """Let the two tables of emails change places."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA mid")
        for source, target in (("public", "mid"), ("aside", "public"), ("mid", "aside")):
            cursor.execute(f"ALTER TABLE {source}.{TABLE} SET SCHEMA {target}")
        cursor.execute("DROP SCHEMA mid")


def _fill(count: int) -> None:
    empty()
    with connection.cursor() as cursor:
        cursor.execute(FILL.replace(NOT_LONG, LONG), {"count": count, "queued": 0})
        cursor.execute("VACUUM ANALYZE mailrail_mail_email")
        cursor.execute("CHECKPOINT")


def _finish_all() -> None:
    """Leave nothing queued, as ANALYZE finds a site nearly always."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE mailrail_message")
        cursor.execute("UPDATE mailrail_mail_email SET status = 'cancelled' WHERE status = 'queued'")
        cursor.execute("VACUUM ANALYZE mailrail_mail_email")
        cursor.execute("CHECKPOINT")


def _forget() -> None:
    """Empty the table, and its statistics: TRUNCATE keeps them, and ANALYZE of an empty table does not replace them."""
    empty()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pg_statistic WHERE starelid = 'mailrail_mail_email'::regclass")
        cursor.execute("VACUUM ANALYZE mailrail_mail_email")


def _idle_p50(count: int) -> float:
    """Milliseconds from ``send_mail()`` to the server's acceptance."""
    return percentile(to_acceptance(count), 0.5)


def _send_p99(count: int) -> float:
    took = []
    for _ in range(count):
        begun = perf_counter()
        send_mail("Hello", "Text", "plants@example.com", ["guest@example.com"])
        took.append((perf_counter() - begun) * 1000)
    return percentile(took, 0.99)
