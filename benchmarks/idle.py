"""What a worker costs that waits on 50 channels while nothing comes."""

from __future__ import annotations

import time

from mailrail import Channel

from .consumers import IDLE
from .database import empty
from .figures import Plan, Result, Series, Target
from .processes import Process, children_of, cpu_seconds, running

SECONDS = 25.0
SETTLES_WITHIN = 5.0
"""Seconds after the start that do not count."""
MOST = 1.0


def run(plan: Plan) -> Result:
    seconds = SECONDS / 5 if plan.quick else SECONDS
    worker, supervisor = Series("worker process", "% of a core"), Series("its supervisor", "% of a core")
    for _ in range(plan.rounds):
        empty()
        options = [f"--only-channels={name}" for name in IDLE]
        with running("django", "runworker", "--verbosity", "0", *options) as process:
            for name in IDLE:  # each has been used once
                Channel(name).send({})
            time.sleep(SETTLES_WITHIN)
            spent = _spent(process, seconds)
            supervisor.values.append(spent[0])
            worker.values.append(spent[1])
    return Result(
        f"Idle: CPU of one worker process on {len(IDLE)} channels",
        f"User and system time from /proc, over {seconds:.0f} s, after one message on each channel.",
        [worker, supervisor],
        [],
        [Target(f"< {MOST:.0f} % of a core", f"{worker.median:.2f} %", worker.median < MOST)],
    )


def _spent(process: Process, seconds: float) -> tuple[float, float]:
    """Shares of a core in percent: the supervisor's, and that of all its children."""
    pids = (process.pid, *children_of(process.pid))
    before, begun = [cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    shares = [
        (cpu_seconds(pid) - b) / (time.monotonic() - begun) * 100 for pid, b in zip(pids, before, strict=True)
    ]
    return shares[0], sum(shares[1:])
