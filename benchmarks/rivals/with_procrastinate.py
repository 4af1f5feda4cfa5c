"""procrastinate in the PostgreSQL of the benchmarks, by its Django app; the task is async: it needs no thread."""

from __future__ import annotations

from procrastinate.contrib.django import app

from .tally import count_one


@app.task(name="noop")
async def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    noop.batch_defer(*({"n": n} for n in range(count)))
