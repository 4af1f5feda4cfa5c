"""huey in the benchmarks' PostgreSQL, with results; a task whose value is ``None`` has none unless one asks for it."""

from __future__ import annotations

from huey import PostgresHuey

from ..settings import DATABASES
from .tally import count_one

_given = DATABASES["default"]
HUEY = PostgresHuey(
    "rival",
    store_none=True,
    host=_given["HOST"],
    port=_given["PORT"],
    user=_given["USER"],
    dbname=_given["NAME"],
)


@HUEY.task()
def noop(n: int) -> None:
    count_one()


def fill(count: int) -> None:
    HUEY.flush()
    for n in range(count):
        noop(n)
