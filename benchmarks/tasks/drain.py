"""How fast no-op tasks run, beside bare messages and the other backends of the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from mailrail import Channel

from ..database import bare, checkpoint, empty
from ..figures import Plan, Ratio, Result, Series, Target
from ..processes import ROOT, runworker
from .running import Drained, drained

TASKS = 10_000
OF_PEERS = 2_000
RIVALS = "benchmarks.rivals.tasks_settings"
WORKER = ("--processes", "2", "--threads", "8")


@dataclass(frozen=True)
class Peer:
    """``commands``: each ``python -m …``; ``times``: how many times as fast we want to be.

    ``settings``: the module with those of its project.
    """

    name: str
    package: str
    module: str
    times: float
    commands: tuple[tuple[str, ...], ...]
    settings: str = RIVALS


_huey = ("huey.bin.huey_consumer", "benchmarks.rivals.with_huey.HUEY", "-w", "2", "-k", "process", "-q")
_celery = ("celery", "-A", "benchmarks.rivals.with_celery_results", "worker", "-c", "2", "-l", "ERROR")
_ox = ("django", "ox_worker", "-v", "0", "--backend", "ox", "--processes", "2")
PEERS = (
    Peer(
        "django-tasks-db, 2 processes",
        "django-tasks-db",
        "with_django_tasks_db",
        10.0,
        (("django", "db_worker", "-v", "0", "--batch"),) * 2,
    ),
    Peer("django-ox, 2 processes", "django-ox", "with_django_ox", 6.0, (_ox,)),
    Peer(
        "django-ox, 2 processes of 8 threads",
        "django-ox",
        "with_django_ox",
        6.0,
        ((*_ox, "--concurrency", "8"),),
    ),
    Peer("huey, PostgreSQL, 2 processes", "huey", "with_huey", 2.0, (_huey,)),
    Peer("Celery, Valkey, results there, -c 2", "celery", "with_celery_results", 2.0, (_celery,)),
)


def run(plan: Plan) -> Result:
    count, of_peers = plan.size(TASKS), plan.size(OF_PEERS)
    ours: dict[str, Callable[[], Drained]] = {
        "bare messages": partial(_messages, count),
        "tasks with results": partial(_tasks, count),
        "tasks without results": partial(_tasks, count, without_results=True),
        "the same, without receivers": partial(_tasks, count, without_results=True, BENCHMARKS_SILENT="1"),
    }
    peers, absent = names_of(PEERS)
    measured = ours | {name: partial(of_peer, peer, of_peers) for name, peer in peers.items()}
    series = in_turns(measured, plan.rounds)
    rates = {name: both[0] for name, both in series.items()}
    return Result(
        f"{count:,} no-op tasks run by 2 worker processes of 8 threads, PostgreSQL",
        f"Tasks that wait already, {of_peers:,} of the peers, from the first run to the last; each adds a byte to a "
        "file, whose size is watched every 5 ms. CPU is that of workers and PostgreSQL, without Valkey."
        + absent,
        [each for both in series.values() for each in both],
        _ratios(rates, tuple(peers)),
        _targets(rates, peers),
    )


def names_of(peers: Sequence[Peer]) -> tuple[dict[str, Peer], str]:
    """Return the peers that are installed by their names with versions, and a sentence for each that is not."""
    here = {peer.package: _version(peer.package) for peer in peers}
    absent = "".join(f" {package} is not installed." for package, number in here.items() if not number)
    return {f"{p.name} ({here[p.package]})": p for p in peers if here[p.package]}, absent


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # some need Python 3.12
        return ""


def in_turns(measured: Mapping[str, Callable[[], Drained]], rounds: int) -> dict[str, tuple[Series, Series]]:
    """Measure all of these in each round, and return the rates and the CPU of each by its name."""
    series = {name: (Series(name, "tasks/s"), Series(f"{name}, CPU", "µs")) for name in measured}
    for _ in range(rounds):
        for name, measure in measured.items():
            found, (rates, cpu) = measure(), series[name]
            rates.values.append(found.rate)
            cpu.values.append(found.cpu)
    return series


def _ratios(rates: dict[str, Series], peers: Sequence[str]) -> list[Ratio]:
    bare_rate, task_rate = rates["bare messages"], rates["tasks with results"]
    return [
        *(Ratio.of(series, bare_rate) for name, series in rates.items() if name.startswith(("tasks", "the"))),
        *(Ratio.of(task_rate, rates[peer]) for peer in peers),
    ]


def _targets(rates: dict[str, Series], peers: dict[str, Peer]) -> list[Target]:
    wanted = [
        ("tasks with results", 0.35),
        ("tasks without results", 0.7),
        ("the same, without receivers", 0.85),
    ]
    targets = [(Ratio.of(rates[name], rates["bare messages"]), least) for name, least in wanted]
    targets += [
        (Ratio.of(rates["tasks with results"], rates[name], f"tasks / {peer.package}"), peer.times)
        for name, peer in peers.items()
    ]
    return [Target(f">= {x:g} x: {r.name}", f"{r.value:.2f} x", r.value >= x) for r, x in targets]


def _messages(count: int) -> Drained:
    def fill() -> None:
        clear()
        Channel("tally").send_many({"n": n} for n in range(count))
        checkpoint()

    return drained([runworker("tally", *WORKER)], count, fill)


def _tasks(count: int, *, without_results: bool = False, **env: str) -> Drained:
    from . import defined

    def fill() -> None:
        clear()
        defined.fill(count, without_results)
        checkpoint()

    return drained([runworker("tasks.default", *WORKER)], count, fill, **env)


def of_peer(peer: Peer, count: int) -> Drained:
    command = [sys.executable, "-m", "benchmarks.rivals.fill", peer.module, str(count)]
    fill = partial(subprocess.run, command, cwd=ROOT, check=True)
    return drained(peer.commands, count, fill, DJANGO_SETTINGS_MODULE=peer.settings)


def clear() -> None:
    """Remove all messages and records."""
    empty()
    with bare() as connection:
        connection.execute("TRUNCATE mailrail_tasks_taskrecord, mailrail_tasks_batchrecord")
