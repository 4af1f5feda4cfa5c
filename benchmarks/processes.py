"""The worker as its own process, ``manage.py runworker``, and what can be seen of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers import die_with_parent

from .database import bare, left

ROOT = Path(__file__).resolve().parent.parent
POLL_INTERVAL_S = 0.005
"""Seconds between looks at the queue: one read of a row by its id each, or a few."""
STEP = 100
"""A look asks for one message in so many; at the end, for all of the last."""
LAST = 500
WEIGH_EVERY = 0.1
TIMEOUT_S = 900.0
STOPS_WITHIN = 30.0

Process = subprocess.Popen[bytes]


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[Process]:
    """``python -m …`` while the block runs, in our environment and this one; then it has to end well when told to."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        preexec_fn=die_with_parent,  # as the servers do: one that is left alone would complain that they are gone
    )
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


def watch(process: Process, known: Sequence[Any], alias: str = "default") -> Watched:
    """Look on until all ``known`` ids, the oldest there are, in their order, are gone from the table.

    Those before the first one that is left are gone; that is behind by what the workers settle together.
    """
    watched = Watched()
    deadline = time.monotonic() + TIMEOUT_S
    weigh_at = 0.0
    gone = 0
    with bare(alias) as connection:
        while gone < len(known):
            gone = _gone(connection, known, gone)
            now = time.monotonic()
            watched.seen.append((now, gone))
            if gone and now >= weigh_at:
                weigh_at = now + WEIGH_EVERY
                _weigh(process, watched)
            if now > deadline or (gone < len(known) and process.poll() is not None):
                raise RuntimeError(f"The worker left {len(known) - gone} of {len(known)} messages.")
            time.sleep(POLL_INTERVAL_S)
    return watched


def _gone(connection: Any, known: Sequence[Any], gone: int) -> int:
    """How many of the first messages are gone, in steps, if so many were gone before."""
    while gone + STEP < len(known) and not left(connection, [known[gone + STEP - 1]]):
        gone += STEP
    if gone + STEP >= len(known) and not left(connection, list(known[-LAST:])):
        return len(known)
    return gone


def _weigh(supervisor: Process, watched: Watched) -> None:
    for pid in children_of(supervisor.pid):
        with suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            watched.memory[pid].append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def children_of(pid: int) -> list[int]:
    """Of the main thread, which is the one that starts workers. Linux only; elsewhere none are found."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def cpu_seconds(pid: int) -> float:
    """Return the seconds of a core that a process has used so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
