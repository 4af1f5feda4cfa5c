"""Our drain on PostgreSQL or Redis with two processes, beside other queues on the same machine in the same run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from subprocess import run as run_program

from tests.servers import ValkeyServer

from .drain import drain
from .figures import Plan, Ratio, Result, Series, Target
from .processes import ROOT, Process, running
from .settings import FOLDER, ON

MESSAGES = 20_000
OF_PEERS = 2_000
LEAST = 10_000.0 if ON == "redis" else 8_000.0
PROCESSES = 2
TIMEOUT_S = 120.0
UNIT = "messages/s"
TIMES = {"dramatiq": 3.0, "celery": 5.0} if ON == "redis" else {}
"""How many times as fast as these we want to be."""


@dataclass(frozen=True)
class Peer:
    """``commands``: each ``python -m …``, so many processes; ``package``: whose version is named."""

    name: str
    package: str
    module: str
    commands: tuple[tuple[str, ...], ...]


PEERS: tuple[Peer, ...] = (
    Peer(
        "Celery, Valkey, prefork -c 2",
        "celery",
        "with_celery",
        (("celery", "-A", "benchmarks.rivals.with_celery", "worker", "-c", "2", "-l", "ERROR"),),
    ),
    Peer(
        "dramatiq, Valkey, 2 processes of 8 threads",
        "dramatiq",
        "with_dramatiq",
        (("dramatiq", "benchmarks.rivals.with_dramatiq", "--processes", "2", "--threads", "8"),),
    ),
    Peer(
        "procrastinate, PostgreSQL, 2 processes of 16 jobs",
        "procrastinate",
        "with_procrastinate",
        (("django", "procrastinate", "worker", "--concurrency", "16"),) * 2,
    ),
    Peer(
        "django-tasks-db, PostgreSQL, 2 processes",
        "django-tasks-db",
        "with_django_tasks_db",
        (("django", "db_worker", "--batch"),) * 2,
    ),
)
if ON == "redis":
    PEERS = tuple(peer for peer in PEERS if "Valkey" in peer.name)


def run(plan: Plan) -> Result:
    count, of_peers = plan.size(MESSAGES), plan.size(OF_PEERS)
    ours = {threads: Series(f"runworker, 2 processes of {threads} threads", UNIT) for threads in (8, 16)}
    peers = {peer: Series(f"{peer.name} ({version(peer.package)})", UNIT) for peer in PEERS}
    everysec = Series("the same, 8 threads, on a Valkey with appendonly yes, appendfsync everysec", UNIT)
    with _valkey():
        for _ in range(plan.rounds):
            for threads, series in ours.items():
                series.values.append(drain(count, threads, PROCESSES))
            if ON == "redis":
                everysec.values.append(drain(count, 8, PROCESSES, "everysec"))
            for peer, series in peers.items():
                series.values.append(_rate_of(peer, of_peers))
    return Result(
        f"{count:,} no-op messages drained by 2 worker processes",
        "Ours: `manage.py runworker noop --drain --processes 2`, from the first settled messages to the last, as the "
        f"table shows it. The peers: {of_peers:,} tasks that wait already, from the first run to the last, whether "
        "settled or not; each task adds a byte to a file, whose size is watched every 5 ms.",
        [*ours.values(), *[everysec][: ON == "redis"], *peers.values()],
        [Ratio.of(ours[8], series) for series in peers.values()],
        [
            Target(f">= {LEAST:,.0f} messages/s", f"{ours[8].median:,.0f}", ours[8].median >= LEAST),
            *(_target(peer, Ratio.of(ours[8], peers[peer])) for peer in PEERS if peer.package in TIMES),
        ],
    )


def _target(peer: Peer, ratio: Ratio) -> Target:
    times = TIMES[peer.package]
    return Target(f">= {times:g} x {peer.package}", f"{ratio.value:.1f} x", ratio.value >= times)


@contextmanager
def _valkey() -> Iterator[None]:
    if ON == "redis":  # the one that our layer uses
        yield
        return
    server = ValkeyServer()
    server.start()
    os.environ["BENCHMARKS_VALKEY"] = server.url
    try:
        yield
    finally:
        server.remove()


def _rate_of(peer: Peer, count: int) -> float:
    """Tasks per second."""
    tally = FOLDER / "tally"
    tally.write_bytes(b"")
    environment = {
        "BENCHMARKS_TALLY": str(tally),
        "DJANGO_SETTINGS_MODULE": "benchmarks.rivals.settings",
    }
    usual = dict(os.environ)
    os.environ.update(environment)
    try:
        fill = [sys.executable, "-m", "benchmarks.rivals.fill", peer.module, str(count)]
        run_program(fill, cwd=ROOT, check=True)
        with ExitStack() as stack:
            workers = [stack.enter_context(running(*command)) for command in peer.commands]
            return _watch(tally, count, workers)
    finally:
        os.environ.clear()
        os.environ.update(usual)


def _watch(tally: Path, count: int, workers: list[Process]) -> float:
    first_at, first = 0.0, 0
    deadline = time.monotonic() + TIMEOUT_S
    while (ran := tally.stat().st_size) < count:
        if ran and not first:
            first_at, first = time.monotonic(), ran
        if time.monotonic() > deadline or all(worker.poll() is not None for worker in workers):
            raise RuntimeError(f"{ran} of {count} tasks ran.")
        time.sleep(0.005)
    return (count - first) / (time.monotonic() - first_at)
