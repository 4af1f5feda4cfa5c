"""Whether a long backlog, or messages that are due later, make a worker slower, and whether the worker grows."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

from mailrail import Channel

from .database import checkpoint, empty, oldest, stored
from .figures import Plan, Ratio, Result, Series, Target
from .processes import Watched, running, runworker, watch
from .settings import ON

BACKLOG = 1_000_000
FIRST = 50_000
LONG = 200_000
"""In the last round the worker goes on for so many, for its memory."""
AT_ONCE = 50_000
FUTURE = 300_000
"""Of a higher priority, due in a week."""
LEAST = 0.8
MOST_MEMORY = 120.0
PROCESSES = 1 if ON == "sqlite" else 2
FLAT = 1.05

Weights = tuple[list[float], list[float], list[float]]


def run(plan: Plan) -> Result:
    backlog, first, long = plan.size(BACKLOG), plan.size(FIRST), plan.size(LONG)
    alone = Series(f"{first:,} alone", "messages/s")
    ahead = Series(f"the first {first:,} of {backlog:,}", "messages/s")
    behind = Series(f"{first:,} behind {plan.size(FUTURE):,} future ones of a higher priority", "messages/s")
    memory = {name: Series(f"memory, {name}", "MiB") for name in ("second quarter", "last quarter", "most")}
    for alias in ("default", "backlog", "future"):
        empty(alias)
    _fill_future("future", plan.size(FUTURE))
    for number in range(plan.rounds):
        _fill_up("default", first)
        alone.values.append(_drain("default", first).rate(first))
        _fill_up("future", first)
        behind.values.append(_drain("future", first).rate(first))
        _fill_up("backlog", backlog)
        watched = _drain("backlog", long if number == plan.rounds - 1 else first)
        ahead.values.append(watched.rate(first))
        for weights in watched.memory.values():
            _weigh(weights, memory)
    return _result(alone, [ahead, behind], memory)


def _weigh(weights: list[float], memory: dict[str, Series]) -> None:
    quarter = max(1, len(weights) // 4)
    memory["second quarter"].values.append(median(weights[quarter : 2 * quarter] or weights))
    memory["last quarter"].values.append(median(weights[-quarter:]))
    memory["most"].values.append(max(weights))


def _result(alone: Series, others: list[Series], memory: dict[str, Series]) -> Result:
    ratios = [Ratio.of(other, alone) for other in others]
    targets = [Target(f">= {LEAST:.0%}: {r.name}", f"{r.value:.0%}", r.value >= LEAST) for r in ratios]
    weighed = [series for series in memory.values() if series.values]
    if weighed:
        pairs = zip(memory["last quarter"].values, memory["second quarter"].values, strict=True)
        growth, most = max(last / second for last, second in pairs), max(memory["most"].values)
        ratios.append(Ratio("memory, last / second quarter, the worst process", growth))
        targets.append(Target(f"memory flat (<= {FLAT:.0%})", f"{growth:.1%}", growth <= FLAT))
        targets.append(Target(f"memory <= {MOST_MEMORY:.0f} MiB", f"{most:.0f} MiB", most <= MOST_MEMORY))
    return Result(
        "A long backlog",
        f"Rates as in the drain benchmark, {PROCESSES} process(es) with the default threads. Resident memory of each "
        "worker process (/proc) every 100 ms while it works; the last round goes on beyond the first "
        "messages, for memory.",
        [alone, *others, *weighed],
        ratios,
        targets,
    )


def _drain(alias: str, count: int) -> Watched:
    checkpoint(alias)
    ids = oldest(count, alias)
    options = ("--drain", "--layer", alias, "--processes", str(PROCESSES))
    with running(*runworker("noop", *options)) as worker:
        return watch(worker, ids, alias)


def _fill_up(alias: str, count: int) -> None:
    """Send until there are so many messages."""
    while missing := count - stored(alias):
        Channel("noop", layer=alias).send_many({"n": n} for n in range(min(missing, AT_ONCE)))


def _fill_future(alias: str, count: int) -> None:
    for begin in range(0, count, AT_ONCE):
        contents = ({"n": n} for n in range(begin, min(begin + AT_ONCE, count)))
        Channel("noop", layer=alias).send_many(contents, priority=50, delay=timedelta(days=7))
