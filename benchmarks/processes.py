"""The worker as its own process, ``manage.py runworker``, and what can be seen of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .database import bare

ROOT = Path(__file__).resolve().parent.parent
LOOK_EVERY = 0.005
"""Seconds between looks at the queue: one read of the lowest id each, some microseconds."""
WEIGH_EVERY = 0.1
PATIENCE = 900.0
STOPS_WITHIN = 30.0

Process = subprocess.Popen[bytes]


@contextmanager
def running(*arguments: str) -> Iterator[Process]:
    """``python -m …`` while the block runs; then it is told to stop, and has to end well."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT)
    try:
        yield process
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        code = process.wait(STOPS_WITHIN)
        if code not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{' '.join(arguments)} ended with {code}.")
    finally:
        process.kill()
        process.wait()


def runworker(channel: str, *options: str) -> tuple[str, ...]:
    return ("django", "runworker", channel, "--verbosity", "0", *options)


@dataclass
class Watched:
    """Messages gone, by time, and the memory of each worker process in MiB."""

    seen: list[tuple[float, int]] = field(default_factory=list)
    memory: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def rate(self, upto: int) -> float:
        """Messages per second from the first settled to the ``upto``-th: without the process's start."""
        first_at, first = next((at, gone) for at, gone in self.seen if gone)
        last_at, last = next((at, gone) for at, gone in self.seen if gone >= upto)
        return (last - first) / (last_at - first_at)


def watch(process: Process, known: Sequence[str], alias: str = "default") -> Watched:
    """Look on until all ``known`` ids, the oldest there are, in their order, are gone from the table.

    Those below the lowest id that is left are gone; that is behind by what the worker settles together.
    """
    watched = Watched()
    deadline = time.monotonic() + PATIENCE
    weigh_at = 0.0
    with bare(alias) as connection:
        while not watched.seen or watched.seen[-1][1] < len(known):
            lowest = connection.execute("SELECT id FROM mailrail_message ORDER BY id LIMIT 1").fetchall()
            gone = bisect_left(known, lowest[0][0]) if lowest else len(known)
            now = time.monotonic()
            watched.seen.append((now, gone))
            if gone and now >= weigh_at:
                weigh_at = now + WEIGH_EVERY
                _weigh(process, watched)
            if now > deadline or (gone < len(known) and process.poll() is not None):
                raise RuntimeError(f"The worker left {len(known) - gone} of {len(known)} messages.")
            time.sleep(LOOK_EVERY)
    return watched


def _weigh(supervisor: Process, watched: Watched) -> None:
    for pid in _children(supervisor.pid):
        with suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            watched.memory[pid].append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def _children(pid: int) -> list[int]:
    """Of the main thread, which is the one that starts workers. Linux only; elsewhere none are found."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
