"""Workers of two processes each, what must be true of a ledger when all is over, and who ran what."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..processes import Ledger, WorkerProcess, children_of, until, workers

THREADS = 4
MOST_CPU = 0.15
"""Of a core, for all processes of a worker, while the server is away. It is 2 to 6 % of one, by how busy that is; what
spins takes all of it."""
OUTAGE = "the layer cannot be used just now"


def start(
    layer: str, stack: ExitStack, ledger: Ledger, *arguments: str, number: int = 2
) -> list[WorkerProcess]:
    """Workers of two processes each, on the layer of this alias."""
    options = ("--layer", layer, "--processes", "2", "--threads", str(THREADS))
    return stack.enter_context(workers(ledger, *arguments, *options, number=number))


def check(ledger: Ledger, ids: set[str], most_repeats: int) -> None:
    """Every id ran; no more ran again than may have been in flight."""
    ran = ledger.counts()
    assert set(ran) == ids, f"{len(ids - set(ran))} lost"
    repeats = sum(ran.values()) - len(ids)
    print(f"{len(ids)} messages, {repeats} repeats, {most_repeats} may have been in flight")
    assert repeats <= most_repeats


def finished(*running: WorkerProcess) -> list[str]:
    """The ids that these workers say they have finished."""
    return [line.split()[5] for w in running for line in w.log.splitlines() if " finished ledger " in line]


def all_of(running: Sequence[WorkerProcess], text: str) -> bool:
    return all(text in worker.log for worker in running)


def await_more(ledger: Ledger, since: float, what: str, is_over: Callable[[], bool] = lambda: False) -> None:
    """Wait for the next run, and say how long it took since something was well again.

    ``is_over``: has all been done by now, so that there is no next one? Workers may be quicker than we are.
    """
    before = len(ledger.lines("ran"))
    until(lambda: len(ledger.lines("ran")) > before or is_over(), what="the next run")
    print(f"the first run {time.monotonic() - since:.2f} s after {what}")


def cpu_of(worker: WorkerProcess) -> float:
    """Seconds of CPU that all its processes have used (proc(5))."""
    pids = [worker.process.pid, *children_of(worker.process.pid)]
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def check_idle(running: Sequence[WorkerProcess], seconds: float) -> None:
    """For so long, they use next to no CPU, and none of them ends."""
    before, begun = [cpu_of(worker) for worker in running], time.monotonic()
    deadline = begun + seconds
    until(lambda: time.monotonic() >= deadline)
    spent = [cpu_of(worker) - b for worker, b in zip(running, before, strict=True)]
    shares = [s / (time.monotonic() - begun) for s in spent]
    print(f"CPU while the server is away: {', '.join(f'{share:.1%}' for share in shares)} of a core")
    assert max(shares) < MOST_CPU
    assert all(worker.process.poll() is None for worker in running)
