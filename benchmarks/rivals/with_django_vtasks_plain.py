"""django-vtasks on Valkey with a plain function, which it runs on a thread."""

from __future__ import annotations

from django_vtasks import task

from .tally import count_one


@task
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    for n in range(count):
        noop.enqueue(n)
