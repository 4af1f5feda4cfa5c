"""django-vtasks on Valkey, which keeps no results there."""

from __future__ import annotations

from django_vtasks import task

from .tally import count_one


@task
async def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.enqueue(n)
