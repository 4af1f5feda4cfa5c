"""django-ox in the benchmarks' PostgreSQL."""

from __future__ import annotations

from django.tasks import task

from .tally import count_one


@task(backend="ox")
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.enqueue(n)
