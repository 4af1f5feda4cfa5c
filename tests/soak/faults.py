"""What goes wrong, chosen by the seed. Each fault says what it did and which messages may have run without an end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from django.db import Error, InterfaceError, connection

from mailrail.layers import get_layer

from ..processes import WorkerProcess, children_of
from ..servers import PostgresServer
from . import records
from .settings import MAILRAIL

LEASE = float(MAILRAIL["LEASE"])
CHANNELS = ("plain", "laned", "batched", "waiting", "once")
Result = TypeVar("Result")


def patiently(ask: Callable[[], Result]) -> Result:
    """An answer of the database, which may just have ended our connection."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except (Error, InterfaceError):
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@dataclass
class Fleet:
    """The workers that run now, by their ids, and those before them."""

    start: Callable[[str], WorkerProcess]
    running: dict[str, WorkerProcess] = field(default_factory=dict)
    started: int = 0

    def add(self) -> str:
        self.started += 1
        name = f"soak-{self.started}"
        self.running[name] = self.start(name)
        return name


@dataclass
class Faults:
    fleet: Fleet
    server: PostgresServer
    chance: random.Random
    violations: list[str] = field(default_factory=list)

    def next(self) -> tuple[str, set[str]]:
        """Do something. Returns what it was, and the ids of what was in flight where a process died or stood still."""
        return self.chance.choice(
            [
                self._kill_a_child, self._kill_a_worker, self._stop_a_worker, self._terminate_connections,
                self._restart_fast, self._restart_immediately, self._pause,
            ]
        )()  # fmt: skip

    def _any(self) -> tuple[str, WorkerProcess]:
        return self.chance.choice(sorted(self.fleet.running.items()))

    def _kill_a_child(self) -> tuple[str, set[str]]:
        name, worker = self._any()
        children = children_of(worker.process.pid)
        if not children:
            return "no child to kill", set()
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice(children), signal.SIGKILL)
        return f"kill -9 of a child of {name}", in_flight([name])

    def _kill_a_worker(self) -> tuple[str, set[str]]:
        name, worker = self._any()
        worker.kill_all()
        lost = in_flight([name])
        del self.fleet.running[name]
        return f"kill -9 of {name}; {self.fleet.add()} takes its place", lost

    def _stop_a_worker(self) -> tuple[str, set[str]]:
        name, worker = self._any()
        os.killpg(worker.process.pid, signal.SIGSTOP)
        lost = in_flight([name])
        seconds = self.chance.uniform(
            LEASE - 1.5, LEASE + 2
        )  # others begin what it runs before, then, or long since
        time.sleep(seconds)
        os.killpg(worker.process.pid, signal.SIGCONT)
        return f"SIGSTOP of {name} for {seconds:.1f} s", lost

    def _terminate_connections(self) -> tuple[str, set[str]]:
        with self.server.connect() as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'mailrail' AND pid <> pg_backend_pid()"
            )
        return "every connection terminated", set()

    def _restart_fast(self) -> tuple[str, set[str]]:
        return self._restart("fast", signal.SIGINT)

    def _restart_immediately(self) -> tuple[str, set[str]]:
        return self._restart("immediate", signal.SIGQUIT)

    def _restart(self, name: str, how: signal.Signals) -> tuple[str, set[str]]:
        begun = time.monotonic()
        self.server.stop(how)
        self.server.start()
        took = time.monotonic() - begun
        # Leases are renewed after a third: one that stood for longer than the rest may have lapsed.
        lapsed = in_flight(self.fleet.running) if took > LEASE / 2 else set()
        return f"server restarted ({name}) in {took:.1f} s", lapsed

    def _pause(self) -> tuple[str, set[str]]:
        channel, layer = self.chance.choice(CHANNELS), get_layer()
        patiently(lambda: layer.pause(channel))
        time.sleep(1)
        claimed = patiently(lambda: records.claimed_on(channel))
        time.sleep(1)
        if later := patiently(lambda: records.claimed_on(channel)) - claimed:
            self.violations.append(f"{len(later)} messages were claimed from {channel} while it was paused")
        patiently(lambda: layer.resume(channel))
        return f"{channel} paused for 2 s", set()


def in_flight(names: Iterable[str]) -> set[str]:
    return patiently(lambda: records.claimed_by([f"{name}:" for name in names]))
