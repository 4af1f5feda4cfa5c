"""What the live page costs: its answers at 1,000,000 messages and emails, 50 open pages, and history in workers.

Pages are asked for, and served, by processes of their own (``dashboard_pages``): they need apps that no other benchmark
has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from mailrail import Channel

from .database import checkpoint, empty
from .figures import Plan, Ratio, Result, Series, Target
from .processes import ROOT, runworker
from .tasks.running import drained

ROWS = 1_000_000
MESSAGES = 40_000
SECONDS = 20.0
MOST_MS, MOST_OPEN, MOST_HISTORY = 50.0, 1.0, 0.1
LEAST_RATE = 0.99
WORKER = ("--processes", "2", "--threads", "8")
NOTHING = "open: a page that says nothing"


def run(plan: Plan) -> Result:
    count, messages = plan.size(ROWS), plan.size(MESSAGES)
    figures = _figures(plan, count)
    series = {name: Series(name, _unit(name), values) for name, values in figures.items()}
    rates = _rates(plan, messages)
    ratio = Ratio.of(rates["with history"][0], rates["without history"][0], "with history / without")
    return Result(
        f"The live page at 1,000 channels, {count:,} waiting messages and {count:,} emails",
        "Answers: the median of 9 requests by Django's test client, template and all, for each round. All but the last "
        "two take a sample or read the history, as the first one of a second does. Open pages: user and system time of "
        "one process of Daphne with 50 of them, while nothing changes; the baseline knows its user and says nothing. "
        f"History: {messages:,} no-op messages by 2 processes of 8 threads, with and without it in turns; CPU is that "
        "of workers and PostgreSQL. What is recorded of 10 channels is measured alone, time of the server included.",
        [*series.values(), *(each for pair in rates.values() for each in pair)],
        [ratio, *(Ratio.of(series[f"open: {kind}"], series[NOTHING]) for kind in ("polling", "WebSockets"))],
        [*_targets(series), _at_least(ratio)],
    )


def _unit(name: str) -> str:
    return "ms" if name.startswith(("/", "the")) else "% of a core"


def _figures(plan: Plan, count: int) -> dict[str, list[float]]:
    seconds = SECONDS / 4 if plan.quick else SECONDS
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.dashboard_pages", str(count), str(plan.rounds), str(seconds)],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "benchmarks.dashboard_settings"},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures: dict[str, list[float]] = json.loads(measured.stdout)
    return figures


def _rates(plan: Plan, count: int) -> dict[str, tuple[Series, Series]]:
    """Messages a second, and microseconds of CPU for each."""

    def fill() -> None:
        empty()
        Channel("tally").send_many({"n": n} for n in range(count))
        checkpoint()

    turns = {"with history": {}, "without history": {"BENCHMARKS_WITHOUT_HISTORY": "1"}}
    series = {
        name: (Series(f"no-ops {name}", "messages/s"), Series(f"the same, CPU {name}", "µs"))
        for name in turns
    }
    for _ in range(plan.rounds):
        for name, environment in turns.items():
            found = drained([runworker("tally", *WORKER)], count, fill, **environment)
            series[name][0].values.append(found.rate)
            series[name][1].values.append(found.cpu)
    return series


def _targets(series: dict[str, Series]) -> list[Target]:
    slowest = max((each for each in series.values() if each.unit == "ms"), key=lambda each: each.median)
    targets = [
        Target(
            f"each answer <= {MOST_MS:.0f} ms",
            f"{slowest.median:.0f} ms: {slowest.name}",
            slowest.median <= MOST_MS,
        )
    ]
    limits = {"open: polling": MOST_OPEN, "open: WebSockets": MOST_OPEN, "history: recorded": MOST_HISTORY}
    for name, most in limits.items():
        found = series[name].median
        targets.append(Target(f"{name} <= {most:g} % of a core", f"{found:.2f} %", found <= most))
    return targets


def _at_least(ratio: Ratio) -> Target:
    return Target(f">= {LEAST_RATE:g} x: {ratio.name}", f"{ratio.value:.3f} x", ratio.value >= LEAST_RATE)
