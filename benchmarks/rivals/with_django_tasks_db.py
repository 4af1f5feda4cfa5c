"""django-tasks-db in the benchmarks' PostgreSQL, on Django 6.0 or newer."""

from __future__ import annotations

from django.tasks import task

from .tally import count_one


@task()
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.enqueue(n)
