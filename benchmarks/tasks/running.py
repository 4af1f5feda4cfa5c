"""Workers of any kind under measurement: how fast they run tasks that wait, and what CPU that takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..database import bare
from ..processes import Process, running
from ..settings import FOLDER

TALLY = FOLDER / "tally"
TIMEOUT_S = 300.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Drained:
    """``rate``: tasks per second. ``cpu``: microseconds of a core for each, of workers and PostgreSQL together."""

    rate: float
    cpu: float


def drained(commands: Sequence[Sequence[str]], count: int, fill: Callable[[], object], **env: str) -> Drained:
    """Fill a queue, start workers, and measure from the first tasks that ran to the last."""
    TALLY.write_bytes(b"")
    with _environment(BENCHMARKS_TALLY=str(TALLY), **env):
        fill()
        with ExitStack() as stack:
            workers = [stack.enter_context(running(*command)) for command in commands]
            return _watch(count, workers)


@contextmanager
def _environment(**changes: str) -> Iterator[None]:
    usual = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(usual)


def _watch(count: int, workers: Sequence[Process]) -> Drained:
    first = _until(1, workers)
    spent, begun = cpu_of(workers), time.monotonic()
    _until(count, workers)
    seconds = time.monotonic() - begun
    return Drained((count - first) / seconds, (cpu_of(workers) - spent) / (count - first) * 1e6)


def _until(count: int, workers: Sequence[Process]) -> int:
    """Wait until so many tasks ran, and return how many did."""
    deadline = time.monotonic() + TIMEOUT_S
    while (ran := TALLY.stat().st_size) < count:
        if time.monotonic() > deadline or all(worker.poll() is not None for worker in workers):
            raise RuntimeError(f"{ran} of {count} tasks ran.")
        time.sleep(0.005)
    return ran


def cpu_of(workers: Sequence[Process]) -> float:
    """Return the seconds of a core that these workers, and PostgreSQL, have used so far (proc(5))."""
    with bare() as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        postmaster = int(_stat(backend)[1])
    return sum(_of_tree(worker.pid) for worker in workers) + _of_tree(postmaster)


def _of_tree(pid: int) -> float:
    fields = _stat(pid)
    ticks = sum(map(int, fields[11:15])) if fields else 0  # with those of children that have ended
    return ticks / _TICKS_PER_S + sum(_of_tree(child) for child in descendants(pid))


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, on any of its threads."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found
