"""What ``send_many()`` costs, beside ``bulk_create()`` of rows like it."""

from __future__ import annotations

from mailrail import Channel

from .database import empty, new_row
from .figures import Plan, Ratio, Result, Series, Target, seconds_of
from .models import Row

MESSAGES = 10_000
LEAST = 20_000.0
UNIT = "messages/s"


def run(plan: Plan) -> Result:
    count = plan.size(MESSAGES)
    ours, baseline = Series("send_many()", UNIT), Series("bulk_create()", UNIT)
    for _ in range(plan.rounds):
        empty()
        ours.values.append(count / seconds_of(lambda: _send(count)))
        empty()
        baseline.values.append(count / seconds_of(lambda: _create(count)))
    return Result(
        f"send_many() of {count:,} messages",
        "One call each, in autocommit, on empty tables; the building of contents, rows and ids included.",
        [ours, baseline],
        [Ratio.of(ours, baseline)],
        [Target(f">= {LEAST:,.0f} messages/s", f"{ours.median:,.0f}", ours.median >= LEAST)],
    )


def _send(count: int) -> None:
    Channel("noop").send_many({"n": n} for n in range(count))


def _create(count: int) -> None:
    Row.objects.bulk_create([new_row(n) for n in range(count)])
