"""What ``send()`` and ``send_many()`` cost on Redis, beside bare round trips of redis-py with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

from mailrail import Channel

from .database import bare, empty
from .figures import Plan, Ratio, Result, Series, Target, seconds_of

SENDS = 3_000
IN_A_ROW = 100
"""The sides take turns after so many."""
MANY = 10_000
MOST = 1.5
LEAST = 30_000.0

Action = Callable[[int], object]


def run(plan: Plan) -> Result:
    one = {name: Series(name, "µs") for name in ("send()", "bare HSET", "bare SET")}
    many = {
        name: Series(name, "messages/s") for name in ("send_many() of 10,000", "bare pipeline of 10,000 HSET")
    }
    for _ in range(plan.rounds):
        _one_by_one(plan.size(SENDS), one)
        _at_once(plan.size(MANY), many)
    ours, *baselines = one.values()
    ratios = [Ratio.of(ours, baseline) for baseline in baselines]
    bulk, pipeline = many.values()
    return Result(
        "send() and send_many()",
        f"{plan.size(SENDS):,} sends and as many of each baseline in each round, in turns of {IN_A_ROW}; the building "
        "of the content included. The baselines store the same JSON by redis-py's own client, `hset(key, n, …)` and "
        f"`set(key, …)`; the pipeline is one `execute()` without a transaction.",
        [*one.values(), *many.values()],
        [*ratios, Ratio.of(bulk, pipeline)],
        [
            *(Target(f"<= {MOST} x: {r.name}", f"{r.value:.2f}", r.value <= MOST) for r in ratios),
            Target(f"send_many() >= {LEAST:,.0f} messages/s", f"{bulk.median:,.0f}", bulk.median >= LEAST),
        ],
    )


def _one_by_one(count: int, series: dict[str, Series]) -> None:
    empty()
    turns = max(1, count // IN_A_ROW)
    spent = dict.fromkeys(series, 0.0)
    with bare() as client:
        actions: dict[str, Action] = {
            "send()": lambda n: Channel("noop").send({"n": n}),
            "bare HSET": lambda n: client.hset("bare", n, json.dumps({"n": n})),
            "bare SET": lambda n: client.set("bare-one", json.dumps({"n": n})),
        }
        for turn in range(turns + 1):
            for name, action in actions.items():
                seconds = seconds_of(lambda action=action: [action(n) for n in range(IN_A_ROW)])  # type: ignore[misc]
                if turn:  # the first ones warm up
                    spent[name] += seconds
    for name, seconds in spent.items():
        series[name].values.append(seconds / (turns * IN_A_ROW) * 1e6)


def _at_once(count: int, series: dict[str, Series]) -> None:
    empty()
    ours, baseline = series.values()
    sent = seconds_of(lambda: Channel("noop").send_many({"n": n} for n in range(count)))
    ours.values.append(count / sent)
    with bare() as client:
        pipeline = client.pipeline(transaction=False)

        def store() -> None:
            for n in range(count):
                pipeline.hset("bare", str(n), json.dumps({"n": n}))
            pipeline.execute()

        baseline.values.append(count / seconds_of(store))
