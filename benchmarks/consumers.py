"""The consumers that workers under measurement run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mailrail.routing import consumer
from mailrail.worker import IncomingMessage

from .rivals.tally import count_one
from .runs import note


@consumer("noop")
def noop(message: IncomingMessage) -> None:
    """Costs nothing: what is measured is everything around it."""


@consumer("tally")
def tally(message: IncomingMessage) -> None:
    """Add a byte to a file, as the tasks do that are measured beside it."""
    count_one()


@consumer("count")
def count(message: IncomingMessage) -> None:
    """Write down that message ``n`` ran, for ``valkey_repeats``."""
    note(message["n"])


if os.environ.get("BENCHMARKS_WITHOUT_HISTORY"):  # for ``dashboard``, in worker processes
    from mailrail.worker import outcomes

    outcomes.note = lambda *counted: None  # type: ignore[attr-defined]

IDLE = [f"idle-{n}" for n in range(50)]
"""Channels on which nothing comes, for ``idle``."""
for name in IDLE:
    consumer(name)(noop)


@consumer("stamp")
def stamp(message: IncomingMessage) -> None:
    """Write down when message ``n`` started, for ``latency``."""
    started_at = time.time()
    with Path(os.environ["BENCHMARKS_STAMPS"]).open("a") as stamps:
        stamps.write(f"{message['n']} {started_at}\n")
