"""What a batch costs its members: no-op tasks with results, in a batch and without one, in the same run."""

from __future__ import annotations

from functools import partial

from ..database import checkpoint
from ..figures import Plan, Ratio, Result, Series, Target
from ..processes import runworker
from .drain import WORKER, clear
from .running import Drained, drained

TASKS = 100_000
LEAST_SHARE = 0.8


def run(plan: Plan) -> Result:
    count = plan.size(TASKS)
    measured = {"in a batch": partial(_tasks, count, in_batch=True), "without": partial(_tasks, count)}
    rates = {name: Series(name, "tasks/s") for name in measured}
    cpus = {name: Series(f"{name}, CPU", "µs") for name in measured}
    for number in range(plan.rounds):
        for name in sorted(measured, reverse=bool(number % 2)):
            found = measured[name]()
            rates[name].values.append(found.rate)
            cpus[name].values.append(found.cpu)
    ratio = Ratio.of(rates["in a batch"], rates["without"])
    cpu = Ratio.of(cpus["in a batch"], cpus["without"])
    target = Target(f">= {LEAST_SHARE:g} x: {ratio.name}", f"{ratio.value:.2f} x", ratio.value >= LEAST_SHARE)
    return Result(
        f"{count:,} members of one batch run by 2 worker processes of 8 threads, PostgreSQL",
        "No-op tasks with results that wait already, from the first run to the last, in turns. CPU is that of workers "
        "and PostgreSQL.",
        [*rates.values(), *cpus.values()],
        [ratio, cpu],
        [target],
    )


def _tasks(count: int, in_batch: bool = False) -> Drained:
    from mailrail.tasks import batch

    from . import defined

    def fill() -> None:
        clear()
        if in_batch:
            with batch(then=(defined.noop, [0])):
                defined.fill(count)
        else:
            defined.fill(count)
        checkpoint()

    return drained([runworker("tasks.default", *WORKER)], count, fill)
