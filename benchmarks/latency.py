"""How long an idle worker in another process takes to start on what was just sent."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.db import connection, transaction

from mailrail import Channel

from .database import bare, empty, new_row
from .figures import Plan, Ratio, Result, Series, Target, percentile
from .processes import running, runworker
from .settings import FOLDER, ON

SENDS = 200
SPACING = 0.05
MOST = 60.0
"""Milliseconds on SQLite, where everybody has to look now and then."""
MOST_MORE = 10.0 if ON == "redis" else 20.0
"""Milliseconds more than the baseline on PostgreSQL and Redis, which notify."""
TIMEOUT_S = 60.0
UNIT = "ms"
NOTIFIES = ON != "sqlite"
BASELINE = {"postgresql": "bare LISTEN/NOTIFY", "redis": "bare PUBLISH/SUBSCRIBE"}.get(ON, "bare poller")

HOW = {
    "sqlite": "The baseline is an ORM insert and a bare loop in another process that asks `PRAGMA data_version` every "
    "20 ms and selects the row.",
    "postgresql": "The baseline is an ORM insert, a NOTIFY in its transaction and a bare loop in another process that "
    "LISTENs and selects the row.",
    "redis": "The baseline is a PUBLISH by redis-py and a bare loop in another process that is subscribed.",
}

Send = Callable[[int], object]


def run(plan: Plan) -> Result:
    count = plan.size(SENDS)
    shares = {"p50": 0.5, "p99": 0.99, "worst": 1.0}
    ours = {name: Series(f"runworker, {name}", UNIT) for name in shares}
    baseline = {name: Series(f"{BASELINE}, {name}", UNIT) for name in shares}
    for number in range(plan.rounds):
        worker = waits(number, count, runworker("stamp"), lambda n: Channel("stamp").send({"n": n}))
        with bare() as connection:
            send = partial(_publish, connection) if ON == "redis" else insert
            poller = waits(number, count, ("benchmarks.poller",), send)
        for name, share in shares.items():
            ours[name].values.append(percentile(worker, share))
            baseline[name].values.append(percentile(poller, share))
    found = ours["p99"].median
    return Result(
        f"Idle: from send() to the start of the consumer in another process, {count} sends",
        f"One send every {SPACING * 1000:.0f} ms, give or take 40 %; from the clock just before send() to "
        f"the consumer's first line. {HOW[ON]} Percentiles per round; medians of the rounds.",
        [*ours.values(), *baseline.values()],
        [Ratio.of(ours[name], baseline[name]) for name in ("p50", "p99")],
        [_target(found, baseline["p99"].median)],
    )


def _target(found: float, baseline: float) -> Target:
    if not NOTIFIES:
        return Target(f"p99 <= {MOST:.0f} ms", f"{found:.1f} ms", found <= MOST)
    most = baseline + MOST_MORE
    return Target(
        f"p99 <= that of {BASELINE} + {MOST_MORE:.0f} ms", f"{found:.1f} of {most:.1f} ms", found <= most
    )


def _publish(client: Any, n: int) -> None:
    """The first one until somebody hears it."""
    while not client.publish("benchmarks", n) and n < 0:
        time.sleep(0.05)


def insert(n: int) -> None:
    with transaction.atomic():
        new_row(n).save(force_insert=True)
        if NOTIFIES:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_notify('benchmarks', '')")


def waits(number: int, count: int, command: tuple[str, ...], send: Send) -> list[float]:
    """Milliseconds from each send to its start."""
    empty()
    stamps = FOLDER / f"stamps-{command[0]}-{number}"
    stamps.touch()
    os.environ["BENCHMARKS_STAMPS"] = str(stamps)
    sent_at: list[float] = []
    with running(*command):
        for n in range(-1, count):  # the first one tells that the process is up; it is not counted
            at = time.time()
            send(n)
            if n < 0:
                _await(stamps, 1)
            else:
                sent_at.append(at)
            time.sleep(SPACING * random.uniform(0.6, 1.4))
        started_at = _await(stamps, count + 1)
    return [(started_at[n] - at) * 1000 for n, at in enumerate(sent_at)]


def _await(stamps: Path, count: int) -> dict[int, float]:
    """The stamps, once there are ``count`` of them."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(lines := stamps.read_text().splitlines()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(lines)} of {count} messages started.")
        time.sleep(0.05)
    return {int(n): float(at) for n, at in map(str.split, lines)}
