"""How fast workers are on PostgreSQL while a transaction elsewhere looks at an old snapshot.

Vacuum cannot remove what has ended since then, so that claims have to find their way past ever more dead rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .database import bare
from .drain import UNIT, drain
from .figures import Plan, Ratio, Result, Series, Target

MESSAGES = 200_000
THREADS, PROCESSES = 8, 2
LEAST = 0.5


def run(plan: Plan) -> Result:
    count = plan.size(MESSAGES)
    alone, beside = Series("no snapshot", UNIT), Series("beside a standing snapshot", UNIT)
    for _ in range(plan.rounds):
        alone.values.append(drain(count, THREADS, PROCESSES))
        with _standing_snapshot():
            beside.values.append(drain(count, THREADS, PROCESSES))
    rate = Ratio.of(beside, alone)
    return Result(
        f"{count:,} no-op messages beside a standing snapshot",
        f"Rates as in the drain benchmark, {PROCESSES} processes of {THREADS} threads. The snapshot is a REPEATABLE "
        "READ transaction of another connection that has begun, and read, before the messages were sent.",
        [alone, beside],
        [rate],
        [Target(f">= {LEAST:.0%} of the rate without", f"{rate.value:.0%}", rate.value >= LEAST)],
    )


@contextmanager
def _standing_snapshot() -> Iterator[None]:
    with bare() as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute(
            "SELECT count(*) FROM mailrail_worker"
        )  # any table, for dead rows of all of them stay
        yield
        session.execute("ROLLBACK")
