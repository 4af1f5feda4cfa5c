"""What emails with attachments cost in memory, in the process that queues and in those that deliver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from django.db import connection

from ..figures import Plan, Result, Series, Target
from ..processes import ROOT, Process, children_of, running, runworker
from ..sink import accepted, sink
from .watching import COUNTER, TIMEOUT_S, empty

EMAILS = 200
MOST = {"shared": 150.0, "different": 200.0}
"""MiB of the largest process, by how the emails' attachments are."""
POLL_INTERVAL_S = 0.05


def run(plan: Plan) -> Result:
    count = plan.size(EMAILS)
    queueing = {how: Series(f"the process that queues, {how}", "MiB") for how in MOST}
    delivering = {how: Series(f"the largest of 2 worker processes, {how}", "MiB") for how in MOST}
    stored: list[int] = []
    with sink(COUNTER) as port:
        os.environ["BENCHMARKS_SMTP_PORT"] = str(port)
        for _ in range(plan.rounds):
            for how in MOST:
                empty()
                queueing[how].values.append(_queue(how, count))
                if how == "shared":
                    stored.append(_files())
                delivering[how].values.append(_deliver(count))
    largest = {how: max(queueing[how].median, delivering[how].median) for how in MOST}
    return Result(
        f"Mail: {count} emails with 2 MB attached, the same or each another one",
        "Peak resident memory of each process (VmHWM). The shared ones are queued by one `send_messages()`, the "
        "different ones one by one, as their sender would hold them all otherwise.",
        [*queueing.values(), *delivering.values()],
        [],
        [
            *(
                Target(f"{how}: <= {most:.0f} MiB", f"{largest[how]:.0f} MiB", largest[how] <= most)
                for how, most in MOST.items()
            ),
            Target("shared: stored once", f"{max(stored)} file(s)", max(stored) == 1),
        ],
    )


def _queue(how: str, count: int) -> float:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.mail.attached", how, str(count)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)


def _files() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mailrail_mail_file")
        return int(cursor.fetchone()[0])


def _deliver(count: int) -> float:
    before = accepted(COUNTER)
    with running(*runworker("mailrail.mail", "--drain", "--processes", "2")) as worker:
        peak = max(_peaks(worker))
    if accepted(COUNTER) - before != count:
        raise RuntimeError(f"{accepted(COUNTER) - before} of {count} emails came.")
    return peak


def _peaks(worker: Process) -> Iterator[float]:
    deadline = time.monotonic() + TIMEOUT_S
    yield 0.0
    while worker.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError("The worker does not come to an end.")
        yield from (peak_of(pid) for pid in (worker.pid, *children_of(worker.pid)))
        time.sleep(POLL_INTERVAL_S)


def peak_of(pid: int) -> float:
    """In MiB, so far; 0 for a process that is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
