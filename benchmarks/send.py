"""What ``send()`` costs a view, beside an ORM insert of a row like it."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction

from mailrail import Channel

from .database import empty, new_row
from .figures import Plan, Ratio, Result, Series, Target, seconds_of

SENDS = 3_000
IN_A_ROW = 100
"""The two sides take turns after so many."""
MOST = 1.5
UNIT = "µs"

Action = Callable[[int], object]


def run(plan: Plan) -> Result:
    count = plan.size(SENDS)
    ways = {"autocommit": _one_by_one, "alone in atomic()": _each_atomic, "100 in one atomic()": _all_atomic}
    series: list[Series] = []
    ratios: list[Ratio] = []
    for way, repeat in ways.items():
        ours, baseline = Series(f"send(), {way}", UNIT), Series(f"ORM insert, {way}", UNIT)
        for _ in range(plan.rounds):
            _measure(count, repeat, ours, baseline)
        series += [ours, baseline]
        ratios.append(Ratio.of(ours, baseline))
    return Result(
        "send(), one message at a time",
        f"{count:,} sends and as many `Model.save(force_insert=True)` in each round, in turns of {IN_A_ROW}, "
        f"the building of the content, the row and its id included. The model has a char(32) primary key, a "
        f"channel, JSON text, two timestamps and one index.",
        series,
        ratios,
        [Target(f"<= {MOST} x an ORM insert: {r.name}", f"{r.value:.2f}", r.value <= MOST) for r in ratios],
    )


def _measure(count: int, repeat: Callable[[Action], None], ours: Series, baseline: Series) -> None:
    empty()
    channel = Channel("noop")
    spent = {ours.name: 0.0, baseline.name: 0.0}
    repeat(lambda n: channel.send({"n": n}))  # the first ones warm up
    repeat(lambda n: new_row(n).save(force_insert=True))
    for _ in range(max(1, count // IN_A_ROW)):
        spent[ours.name] += seconds_of(lambda: repeat(lambda n: channel.send({"n": n})))
        spent[baseline.name] += seconds_of(lambda: repeat(lambda n: new_row(n).save(force_insert=True)))
    for series in (ours, baseline):
        series.values.append(spent[series.name] / (max(1, count // IN_A_ROW) * IN_A_ROW) * 1e6)


def _one_by_one(action: Action) -> None:
    for n in range(IN_A_ROW):
        action(n)


def _each_atomic(action: Action) -> None:
    for n in range(IN_A_ROW):
        with transaction.atomic():
            action(n)


def _all_atomic(action: Action) -> None:
    with transaction.atomic():
        _one_by_one(action)
