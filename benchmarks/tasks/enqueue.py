"""What enqueueing costs, beside inserts of a project's own rows."""

from __future__ import annotations

from collections.abc import Callable

from mailrail.tasks import enqueue_many

from ..database import new_row
from ..figures import Plan, Ratio, Result, Series, Target, seconds_of
from ..models import Row
from .defined import noop
from .drain import clear

ONE_BY_ONE = 500
TOGETHER = 10_000


def run(plan: Plan) -> Result:
    one, many = plan.size(ONE_BY_ONE), plan.size(TOGETHER)
    ours, insert = Series("enqueue()", "µs"), Series("bulk_create() of one", "µs")
    ours_many, bulk = Series("enqueue_many()", "µs"), Series("bulk_create()", "µs")
    for _ in range(plan.rounds):
        clear()
        ours.values.append(_micros(lambda: [noop.enqueue(n) for n in range(one)], one))
        insert.values.append(
            _micros(lambda: [Row.objects.bulk_create([new_row(n)]) for n in range(one)], one)
        )
        ours_many.values.append(_micros(lambda: enqueue_many(noop, [((n,), {}) for n in range(many)]), many))
        bulk.values.append(_micros(lambda: Row.objects.bulk_create([new_row(n) for n in range(many)]), many))
    ratios = [Ratio.of(ours, insert), Ratio.of(ours_many, bulk)]
    return Result(
        "Enqueueing tasks with results, PostgreSQL",
        f"{one} one by one, each with a commit of its own, and {many:,} at once; a task writes a record and a message.",
        [ours, insert, ours_many, bulk],
        ratios,
        [
            Target(f"<= {most} x: {ratio.name}", f"{ratio.value:.2f} x", ratio.value <= most)
            for ratio, most in zip(ratios, (2.0, 1.5), strict=True)
        ],
    )


def _micros(action: Callable[[], object], count: int) -> float:
    return seconds_of(action) / count * 1e6
