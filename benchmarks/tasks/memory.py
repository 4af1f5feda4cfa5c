"""Whether a worker grows while it runs tasks and waits beside their records."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from ..figures import Plan, Result, Series, Target, percentile
from ..processes import Process, running, runworker
from . import defined
from .drain import clear
from .running import TALLY, descendants

TASKS = 10_000
IDLE_S = 20.0
MOST = 1.05


def run(plan: Plan) -> Result:
    count, idle = plan.size(TASKS), IDLE_S / 4 if plan.quick else IDLE_S
    names = ("after the first half", "after the second half", "after waiting")
    series = [Series(name, "MiB") for name in names]
    for _ in range(plan.rounds):
        clear()
        TALLY.write_bytes(b"")
        with running(*runworker("tasks.default"), BENCHMARKS_TALLY=str(TALLY)) as worker:
            for half, each in enumerate(series[:2], start=1):
                defined.fill(count)
                while TALLY.stat().st_size < count * half:
                    time.sleep(0.05)
                each.values.append(_memory(worker))
            time.sleep(idle)
            series[2].values.append(_memory(worker))
    growth = [later / first for later, first in zip(series[2].values, series[0].values, strict=True)]
    worst = percentile(growth, 1.0)
    return Result(
        f"Memory of a worker that runs {count:,} tasks, as many again, and then waits for {idle:.0f} s",
        "Resident memory of the worker process, with the default threads; records of all tasks stay.",
        series,
        [],
        [Target(f"flat (<= {MOST:.0%})", f"{worst:.0%}", worst <= MOST)],
    )


def _memory(supervisor: Process) -> float:
    """MiB of the largest of its processes."""
    pages = [0]
    for pid in descendants(supervisor.pid):
        with suppress(OSError):
            pages.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]))
    return max(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
