"""The soak itself: start everybody, let things go wrong, look at the books all the time, and close them at the end."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from ..processes import ROOT, Ledger, WorkerProcess, children_of
from ..servers import PostgresServer
from . import records
from .books import Books, Tail
from .faults import Faults, Fleet, patiently
from .senders import Sender

PROGRESS_EVERY = 10.0
SENDERS = 3
WARM = 20.0
"""Seconds after which a process has all that it needs."""
GROWTH = 30
"""MB that it may take more from then on."""
TIMEOUT_S = 120.0
"""Seconds until everything that was sent has ended, once nobody sends and nothing goes wrong any more."""


class Soak:
    def __init__(self, server: PostgresServer, folder: Path, seed: int, rate: float) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._ledger = Ledger(folder / "ledger")
        self._ledger_tail = Tail(self._ledger.path)
        self._log_tails: dict[str, Tail] = {}
        self._books = Books()
        self._fleet = Fleet(self._start)
        self._faults = Faults(self._fleet, server, self._chance)
        self._senders = [Sender(n, seed, rate / SENDERS) for n in range(SENDERS)]
        self._allowed: dict[str, int] = {}  # runs beyond the first, per id
        self._warm: dict[int, tuple[float, int | None]] = {}  # per process: first seen, MB when it was warm
        self._most_memory = 0
        self._fault_count = 0
        self._begun = self._said_at = time.monotonic()

    def run(self, seconds: float) -> bool:
        """Returns whether a promise was broken."""
        try:
            for _ in range(2):
                self._fleet.add()
            for sender in self._senders:
                sender.start()
            end = time.monotonic() + seconds
            while time.monotonic() < end and not self._violations:
                self._calm(min(end, time.monotonic() + self._chance.uniform(1.0, 6.0)))
                if time.monotonic() < end:
                    self._go_wrong()
            for sender in self._senders:
                sender.stop()
            self._drain()
            self._stop_workers()
            self._close_books()
        finally:
            for worker in self._fleet.running.values():
                worker.kill_all()
        self._say("end")
        for violation in self._violations[:20]:
            print(f"BROKEN: {violation}")
        return bool(self._violations)

    @property
    def _violations(self) -> list[str]:
        return self._books.violations + self._faults.violations

    def _start(self, name: str) -> WorkerProcess:
        env = os.environ | {
            "MAILRAIL_LEDGER": str(self._ledger.path),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        }
        options = ("--worker-id", name, "--processes", "2", "--threads", "4")
        worker = WorkerProcess(self._ledger, *options, env=env)
        self._log_tails[name] = Tail(worker.log_path)
        return worker

    # -- while it runs ------------------------------------------------------------------------------------------

    def _calm(self, until: float) -> None:
        while time.monotonic() < until:
            self._look()
            time.sleep(0.2)

    def _go_wrong(self) -> None:
        fault, in_flight = self._faults.next()
        self._fault_count += 1
        for id in in_flight:
            self._allowed[id] = self._allowed.get(id, 0) + 1
        self._recover(fault, in_flight)

    def _recover(self, fault: str, in_flight: set[str]) -> None:
        """Work goes on, and what was in flight has ended."""
        over_at, before = time.monotonic(), self._books.ran.total()
        goes_on = 0.0
        while not goes_on or in_flight:
            self._look()
            age = time.monotonic() - over_at
            if not goes_on and self._books.ran.total() > before:
                goes_on = age
            in_flight = patiently(lambda ids=in_flight: records.left_of(ids)) if in_flight else in_flight  # type: ignore[misc]
            if age > TIMEOUT_S:
                left = f"{len(in_flight)} that were in flight have not ended"
                self._books.violations.append(
                    f"{TIMEOUT_S:g} s after {fault}: {left if goes_on else 'nothing runs'}"
                )
                return
            time.sleep(0.05)
        print(
            f"{self._age():6.0f} s  {fault}: work goes on after {goes_on:.2f} s, all is made up for after {age:.2f} s",
            flush=True,
        )

    def _look(self) -> None:
        """At everything that has been written since the last look."""
        new = self._books.read_ledger(self._ledger_tail.lines())
        if new and (unknown := patiently(lambda: records.unknown(new))):
            self._books.violations.append(f"{unknown[0]} ran, and was never sent")
        for name, tail in self._log_tails.items():
            self._books.read_log(name, tail.lines())
        self._check_repeats()
        self._weigh()
        if time.monotonic() - self._said_at >= PROGRESS_EVERY:
            self._say(f"{patiently(records.rows_left):,} in the table")

    def _check_repeats(self) -> None:
        allowed = sum(self._allowed.values())
        if self._books.repeats > allowed and not self._violations:
            wrong = [id for id, n in self._books.ran.items() if n - 1 > self._allowed.get(id, 0)]
            self._books.violations.append(
                f"{self._books.repeats} runs too many, {allowed} were in flight; for example {wrong[:3]}"
            )

    def _weigh(self) -> None:
        now = time.monotonic()
        for name, worker in self._fleet.running.items():
            for pid in [worker.process.pid, *_children(worker)]:
                with suppress(OSError):
                    self._weigh_one(name, pid, now)

    def _weigh_one(self, name: str, pid: int, now: float) -> None:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        megabytes = pages * os.sysconf("SC_PAGE_SIZE") // 1024**2
        self._most_memory = max(self._most_memory, megabytes)
        since, warm = self._warm.setdefault(pid, (now, None))
        if warm is None and now - since >= WARM:
            self._warm[pid] = since, megabytes
        elif warm is not None and megabytes > warm + GROWTH:
            self._warm[pid] = since, megabytes
            self._books.violations.append(f"{pid} of {name} has grown from {warm} to {megabytes} MB")

    def _say(self, what: str) -> None:
        self._said_at = time.monotonic()
        sent = sum(sender.sent for sender in self._senders)
        print(
            f"{self._age():6.0f} s  sent {sent:,} (and {sum(s.rolled_back for s in self._senders):,} rolled back), "
            f"ran {len(self._books.ran):,}, repeats {self._books.repeats} of {sum(self._allowed.values())} possible, "
            f"faults {self._fault_count}, most memory {self._most_memory} MB; {what}",
            flush=True,
        )

    def _age(self) -> float:
        return time.monotonic() - self._begun

    # -- at the end ---------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while left := patiently(records.rows_left):
            self._look()
            if time.monotonic() > deadline:
                self._books.violations.append(f"{left} messages have not ended after {TIMEOUT_S:g} s")
                return
            time.sleep(0.2)

    def _stop_workers(self) -> None:
        for worker in self._fleet.running.values():
            worker.signal(signal.SIGTERM)
        for name, worker in self._fleet.running.items():
            if code := worker.wait():
                self._books.violations.append(f"{name} ended with {code}")
        self._look()

    def _close_books(self) -> None:
        sent, dead, ran = records.all_sent(), records.dead(), set(self._books.ran)
        done, once, told_to_die = records.all_done(), records.sent_on("once"), records.sent_to_die()
        wrong = {
            "were lost": sent - ran - done - dead.keys(),
            "died without a reason": {id for id, losses in dead.items() if losses < 3} - told_to_die,
            "should have died": told_to_die - dead.keys(),
            "did their work twice": set(records.done_twice()),
            "did it without being sent": done - once,
            "ran, and are dead": ran & dead.keys() & told_to_die,
        }
        for what, ids in wrong.items():
            if ids:
                self._books.violations.append(f"{len(ids)} {what}, for example {sorted(ids)[0]}")


def _children(worker: WorkerProcess) -> list[int]:
    with suppress(OSError):  # it ends just now
        return children_of(worker.process.pid)
    return []
