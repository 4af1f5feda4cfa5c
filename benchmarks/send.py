"""What ``send()`` costs a view, beside inserts of a row like it: by the ORM, and by the bare statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import connection, transaction

from mailrail import Channel

from .database import empty, new_row
from .figures import Plan, Ratio, Result, Series, Target, seconds_of

SENDS = 3_000
IN_A_ROW = 100
"""The two sides take turns after so many."""
MOST = 1.5
UNIT = "µs"

Action = Callable[[int], object]


INSERT = "INSERT INTO benchmarks_row (id, channel, content, due, sent_at) VALUES (%s, %s, %s, %s, %s)"


def run(plan: Plan) -> Result:
    count = plan.size(SENDS)
    ways = {"autocommit": _one_by_one, "alone in atomic()": _each_atomic, "100 in one atomic()": _all_atomic}
    series: list[Series] = []
    ratios: list[Ratio] = []
    for way, repeat in ways.items():
        ours, *baselines = (Series(f"{name}, {way}", UNIT) for name in ACTIONS)
        for _ in range(plan.rounds):
            _measure(count, repeat, [ours, *baselines])
        series += [ours, *baselines]
        ratios += [Ratio.of(ours, baseline) for baseline in baselines]
    return Result(
        "send(), one message at a time",
        f"{count:,} sends and as many of each baseline in each round, in turns of {IN_A_ROW}, "
        f"the building of the content, the row and its id included. The model has a char(32) primary key, a "
        f"channel, JSON text, two timestamps and one index. ORM insert: `Model.save(force_insert=True)`; bare "
        f"INSERT: the same row by `connection.cursor().execute()`.",
        series,
        ratios,
        [Target(f"<= {MOST} x: {r.name}", f"{r.value:.2f}", r.value <= MOST) for r in ratios],
    )


def _insert(n: int) -> None:
    row = new_row(n)
    due, sent_at = map(connection.ops.adapt_datetimefield_value, (row.due, row.sent_at))
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [row.id, row.channel, row.content, due, sent_at])


ACTIONS: dict[str, Action] = {
    "send()": lambda n: Channel("noop").send({"n": n}),
    "ORM insert": lambda n: new_row(n).save(force_insert=True),
    "bare INSERT": _insert,
}


def _measure(count: int, repeat: Callable[[Action], None], sides: Sequence[Series]) -> None:
    empty()
    turns = max(1, count // IN_A_ROW)
    spent = [0.0] * len(sides)
    for turn in range(turns + 1):
        for number, action in enumerate(ACTIONS.values()):
            seconds = seconds_of(lambda action=action: repeat(action))  # type: ignore[misc]
            if turn:  # the first ones warm up
                spent[number] += seconds
    for number, series in enumerate(sides):
        series.values.append(spent[number] / (turns * IN_A_ROW) * 1e6)


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
