"""How many messages that cost nothing one worker process gets through, beside what SQLite itself takes."""

from __future__ import annotations

from mailrail import Channel

from .database import bare, checkpoint, empty, new_row, oldest
from .figures import Plan, Ratio, Result, Series, Target, seconds_of
from .models import Row
from .processes import running, runworker, watch

MESSAGES = 20_000
LEAST = 5_000.0
UNIT = "messages/s"

# `claim` and `finish` without leases, tokens, attempts, lanes: one write for each message, not two.
TAKE = """
DELETE FROM mailrail_message WHERE id IN (
    SELECT id FROM mailrail_message WHERE channel = 'noop' AND held = 0
    ORDER BY channel, priority DESC, due, id LIMIT 8)
RETURNING id, content
"""


def run(plan: Plan) -> Result:
    count = plan.size(MESSAGES)
    by_threads = {n: Series(f"runworker, {n} threads", UNIT) for n in (8, 16)}
    floor = Series("bare DELETE … RETURNING by 8", UNIT)
    orm = Series("ORM, get and delete one by one", UNIT)
    for _ in range(plan.rounds):
        for threads, series in by_threads.items():
            series.values.append(drain(count, threads))
        floor.values.append(_bare_loop(count))
        orm.values.append(_orm_loop(count))
    ours = by_threads[8]
    return Result(
        f"{count:,} no-op messages drained, one worker process",
        "`manage.py runworker noop --drain --threads N`, watched by another process that looks every 5 ms how far "
        "it is, from the first settled messages to the last. The bare loop is one process on "
        "the same table and index with `sqlite3` alone; it decodes nothing and writes once for each message.",
        [*by_threads.values(), floor, orm],
        [Ratio.of(ours, floor), Ratio.of(ours, orm), Ratio.of(by_threads[16], ours)],
        [Target(f">= {LEAST:,.0f} messages/s", f"{ours.median:,.0f}", ours.median >= LEAST)],
    )


def drain(count: int, threads: int, processes: int = 1, alias: str = "default") -> float:
    """Messages per second."""
    empty(alias)
    Channel("noop", layer=alias).send_many({"n": n} for n in range(count))
    checkpoint(alias)
    ids = oldest(count, alias)
    options = ("--drain", "--layer", alias, "--threads", str(threads), "--processes", str(processes))
    with running(*runworker("noop", *options)) as worker:
        rate = watch(worker, ids, alias).rate(count)
        worker.wait()  # it deregisters, and ends by itself
    return rate


def _bare_loop(count: int) -> float:
    empty()
    Channel("noop").send_many({"n": n} for n in range(count))
    checkpoint()
    return count / seconds_of(_take_all)


def _take_all() -> None:
    with bare() as connection:
        taken: list[tuple[str, str]] = [("", "")]
        while taken:
            connection.execute("BEGIN IMMEDIATE")
            taken = connection.execute(TAKE).fetchall()
            connection.execute("COMMIT")


def _orm_loop(count: int) -> float:
    empty()
    Row.objects.bulk_create([new_row(n) for n in range(count)])
    checkpoint()
    return count / seconds_of(_get_and_delete_all)


def _get_and_delete_all() -> None:
    oldest = Row.objects.filter(channel="noop").order_by("due")
    while (row := oldest.first()) is not None:
        row.delete()
