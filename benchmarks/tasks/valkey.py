"""How fast no-op tasks run whose messages are on Valkey, beside other backends and Celery there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from ..database import checkpoint
from ..figures import Plan, Ratio, Result, Series
from ..processes import ROOT, runworker
from .drain import WORKER, Peer, clear, in_turns, names_of, of_peer
from .running import Drained, drained

TASKS = 10_000
OF_PEERS = 5_000
SETTINGS = "benchmarks.tasks.valkey_settings"
OF_VTASKS = "benchmarks.rivals.vtasks_settings"

_celery = ("celery", "-A", "benchmarks.rivals.with_celery{}", "worker", "-c", "2", "-l", "ERROR")
_vtasks = (("django", "runworker", "-v", "0"),) * 2


def _celery_with(suffix: str) -> tuple[tuple[str, ...], ...]:
    return (tuple(word.format(suffix) for word in _celery),)


PEERS = (
    Peer("Celery, results there, -c 2", "celery", "with_celery_results", 0, _celery_with("_results")),
    Peer("Celery without results, -c 2", "celery", "with_celery", 0, _celery_with("")),
    Peer(
        "django-vtasks, coroutines, 2 processes", "django-vtasks", "with_django_vtasks", 0, _vtasks, OF_VTASKS
    ),
    Peer(
        "django-vtasks, functions, 2 processes",
        "django-vtasks",
        "with_django_vtasks_plain",
        0,
        _vtasks,
        OF_VTASKS,
    ),
)


def run(plan: Plan) -> Result:
    count, of_peers = plan.size(TASKS), plan.size(OF_PEERS)
    measured: dict[str, Callable[[], Drained]] = {
        "tasks with results": partial(_tasks, count),
        "tasks without results": partial(_tasks, count, "alone"),
    }
    peers, absent = names_of(PEERS)
    measured |= {name: partial(of_peer, peer, of_peers) for name, peer in peers.items()}
    series = in_turns(measured, plan.rounds)
    return Result(
        f"{count:,} no-op tasks run by 2 worker processes of 8 threads, Valkey",
        f"Tasks that wait already, {of_peers:,} of the peers, from the first run to the last. Ours keep their records, "
        "and so their results, in PostgreSQL; django-vtasks keeps none. CPU is that of workers and PostgreSQL, without "
        "Valkey." + absent,
        [each for both in series.values() for each in both],
        _ratios({name: both[0] for name, both in series.items()}, list(peers)),
    )


def _ratios(rates: dict[str, Series], peers: list[str]) -> list[Ratio]:
    return [
        Ratio.of(rates[ours], rates[peer])
        for peer in peers
        for ours in ("tasks with results", "tasks without results")
    ]


def _tasks(count: int, *how: str) -> Drained:
    def fill() -> None:
        clear()
        command = [sys.executable, "-m", "benchmarks.tasks.fill", str(count), *how]
        subprocess.run(command, cwd=ROOT, check=True)
        checkpoint()

    return drained([runworker("tasks.default", *WORKER)], count, fill, DJANGO_SETTINGS_MODULE=SETTINGS)
