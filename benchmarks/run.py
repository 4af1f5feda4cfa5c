"""Run the benchmarks: ``python -m benchmarks.run --help`` lists the options.

Prints every section as soon as it is measured. A whole run is written to ``benchmarks/results/``; a missed
target is printed and written, and fails nothing: time depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

import django

from . import report
from .figures import Plan, Result

NAMES = {
    "sqlite": ("drain", "send", "send_many", "latency", "backlog", "compose", "smtp"),
    "postgresql": (
        *("peers", "send", "send_many", "latency", "backlog", "snapshot"),
        *("admin", "admin_messages", "admin_invitations", "dashboard"),
    ),
    "mail": tuple(
        f"mail.{name}"
        for name in ("backlog", "finished", "far", "seed", "queueing", "wal", "memory", "idle", "long_queue")
    ),
    "tasks": tuple(f"tasks.{name}" for name in ("drain", "valkey", "enqueue", "memory", "batches")),
    "redis": ("peers", "valkey_send", "valkey_memory", "valkey_repeats", "latency", "idle", "backlog"),
}
PROJECTS = ("mail", "tasks")
"""On PostgreSQL, with settings of their own and a broker for the peers."""
FEWEST_ROUNDS = 3
VALKEYS: dict[str, dict[str, str]] = {
    "BENCHMARKS_VALKEY": {},
    "BENCHMARKS_VALKEY_AOF": {"appendonly": "yes", "appendfsync": "everysec"},
}


def main() -> None:
    options = _arguments()
    if options.on is None:  # settings are read once in a process, and each database has its own
        for on in NAMES:
            subprocess.run([sys.executable, "-m", "benchmarks.run", "--on", on, *sys.argv[1:]], check=True)
        return
    names = options.only or NAMES[options.on]
    if unknown := set(names) - set(NAMES[options.on]):
        print(f"Not measured on {options.on}: {', '.join(sorted(unknown))}.")
        names = [name for name in names if name not in unknown]
    plan = Plan(max(options.rounds, FEWEST_ROUNDS), options.quick)
    with _databases(options.on):
        under = report.conditions(plan, import_module("benchmarks.database").version())
        results = _measure(names, plan)
    under["load after"] = report.load()
    print("\n".join(f"- {name}: {value}" for name, value in under.items()))
    if options.only or options.quick:
        print("Not written down: a part of a run, or a quick one.")
    else:
        print(f"Written to {report.write(under, results, options.output, options.on)}")
    _tell_misses(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Run the benchmarks.")
    known = sorted({name for names in NAMES.values() for name in names})
    parser.add_argument("--on", choices=NAMES, help="This one only; all without it.")
    parser.add_argument("--only", action="append", choices=known, help="This one only; may be given again.")
    parser.add_argument("--quick", action="store_true", help="A tenth of the size, to see whether it works.")
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS, help="At least 3 (the default).")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="Folder for the result.")
    return parser.parse_args()


@contextmanager
def _databases(on: str) -> Iterator[None]:
    """Django is set up and the databases are there, for this process and for those that benchmarks start."""
    with tempfile.TemporaryDirectory(prefix="mailrail-benchmarks-") as folder:
        os.environ |= {
            "BENCHMARKS_FOLDER": folder,
            "BENCHMARKS_ON": "postgresql" if on in PROJECTS else on,
            "DJANGO_SETTINGS_MODULE": f"benchmarks.{on}.settings"
            if on in PROJECTS
            else "benchmarks.settings",
        }
        with _server(on):
            django.setup()
            import_module("benchmarks.database").create_tables()  # models need Django to be set up
            yield


@contextmanager
def _server(on: str) -> Iterator[None]:
    if on == "sqlite":
        yield
        return
    if on == "redis":
        with _valkeys(VALKEYS):
            yield
        return
    brokers = {"BENCHMARKS_VALKEY": VALKEYS["BENCHMARKS_VALKEY"]} if on in PROJECTS else {}
    with _valkeys(brokers), _postgres():
        yield


@contextmanager
def _postgres() -> Iterator[None]:
    from tests.servers import PostgresServer

    server = PostgresServer(fsync="on")
    try:
        server.start()
        os.environ["BENCHMARKS_POSTGRES_PORT"] = str(server.port)
        with server.connect() as connection:
            for alias in import_module("benchmarks.settings").ALIASES:
                connection.execute(f'CREATE DATABASE "{alias}"')
        yield
    finally:
        server.remove()


@contextmanager
def _valkeys(wanted: Mapping[str, dict[str, str]]) -> Iterator[None]:
    from tests.servers import ValkeyServer

    with ExitStack() as stack:
        for name, settings in wanted.items():
            server = ValkeyServer(**settings)
            stack.callback(server.remove)
            server.start()
            os.environ[name] = server.url
        yield


def _measure(names: list[str] | tuple[str, ...], plan: Plan) -> list[Result]:
    results: list[Result] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        results.append(import_module(f"benchmarks.{name}").run(plan))
        print("\n".join(report.section(results[-1])) + "\n", flush=True)
    return results


def _tell_misses(results: list[Result]) -> None:
    missed = [(r, t) for r in results for t in r.targets if not t.met]
    for result, target in missed:
        print(f"NOT MET: {result.title}: {target.text}, found {target.found}")
    if not missed:
        print("All targets met.")


if __name__ == "__main__":
    main()
