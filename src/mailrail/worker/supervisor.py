"""The process above the workers. It starts them, replaces those that end and passes signals on. It runs a message that
has cost a process before in a process of its own.

It has one thread and no connections, so that forking it is safe and cheap.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias
from uuid import UUID

from ..conf import settings
from ..layers import get_layer
from ..messages import Message
from ..routing import Routing
from .connections import leave_no_pools, prepare_process
from .log import logger
from .recycling import RecyclingLimits
from .worker import Worker, new_worker_id

MAX_ISOLATED_RUNS = 4
"""Processes for single messages that run at once."""
YOUNG = 5.0
"""A worker that dies before it is this old (seconds) is replaced with a growing delay."""
LONGEST_DELAY = 30.0
AT_ONCE = signal.SIGUSR1
"""What a supervisor sends to say: give back what runs, now. A second SIGTERM would not do. Service managers send one to
every process of a service while the supervisor does the same, and that does not mean "at once"."""
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, AT_ONCE})
WELL = 74
"""Exit code of a worker that has done what it was to do. Not 0: with that, code of a consumer may end the process."""
RECYCLED = 75
"""Exit code of a worker that has stopped by itself, to be replaced."""
FORK_AGAIN_AFTER = 1.0
"""Seconds until a process is started again that could not be: no memory, too many processes or files."""

_fork = "fork" if sys.platform == "linux" else "spawn"
_context: Any = multiprocessing.get_context(_fork)


@dataclass(frozen=True)
class Job:
    """What the workers of one ``runworker`` are to do."""

    layer: str | None = None
    channels: tuple[str, ...] | None = None
    threads: int | None = None
    processes: int = 1
    worker_id: str = field(default_factory=new_worker_id)
    drain: bool = False
    max_messages: int | None = None  # of one process; then it is replaced
    max_memory: int | None = None  # bytes, likewise
    lifeline: int | None = None  # a file descriptor; its end means: stop


@dataclass(eq=False)
class _Child:
    name: str
    process: Any
    link: Connection
    started_at: float
    message: Message | None = None  # the message of an isolated run
    asked_by: _Child | None = None


class Supervisor:
    """Keeps ``job.processes`` workers running until it is told to stop, or until they have drained."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._children: list[_Child] = []
        self._asked: deque[tuple[_Child, Message]] = deque()
        self._restart_at: dict[str, float] = {}
        self._early_deaths = 0
        self._signals = 0
        self._kill_at = float("inf")
        self._lifeline = -1 if job.lifeline is None else job.lifeline

    def run(self) -> None:
        """Returns when all workers have stopped: after a signal, or drained."""
        previous = {s: signal.signal(s, self._on_signal) for s in _stop_signals()}
        try:
            leave_no_pools()
            for number in range(self._job.processes):
                self._start_worker(f"{self._job.worker_id}:{number}")
            # The signal may come just before the next start is noted: that one is not waited for.
            while self._children or (self._restart_at and not self._signals):
                self._step()
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number != signal.SIGHUP or not self._signals:  # service managers may send it along with another
            self._stop()

    def _stop(self) -> None:
        """The first time: finish what runs. The second time: give it back at once."""
        self._signals += 1
        grace = settings.shutdown_timeout if self._signals == 1 else 0.0
        self._kill_at = min(self._kill_at, time.monotonic() + grace + 5.0)
        self._restart_at.clear()
        for child in self._children:
            _signal(child, signal.SIGTERM if self._signals == 1 else AT_ONCE)

    def _step(self) -> None:
        self._start_due()
        soon = min(self._restart_at.values(), default=float("inf")) - time.monotonic()
        ready = wait([*self._watched()], timeout=max(0.0, min(0.5, soon)))
        if self._lifeline in ready and not os.read(self._lifeline, 1024):
            self._lifeline = -1
            self._stop()
        for child in list(self._children):
            if child.link in ready:
                self._read(child)
            if not child.process.is_alive():  # the sentinel may live on in what a consumer has forked
                self._bury(child)
        if time.monotonic() > self._kill_at:
            for child in self._children:
                logger.error("%s did not stop in time; killing it", child.name)
                child.process.kill()

    def _watched(self) -> Iterator[Connection | int]:
        for child in self._children:
            yield child.link
            yield child.process.sentinel
        if self._lifeline >= 0:
            yield self._lifeline

    # -- workers ------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for name, at in list(self._restart_at.items()):  # a copy: a signal may clear them at any moment
            if at <= now:
                self._restart_at.pop(name, None)
                self._start_worker(name)
        while self._asked and (
            self._signals or sum(c.message is not None for c in self._children) < MAX_ISOLATED_RUNS
        ):
            asked_by, message = self._asked.popleft()
            self._start_solo(asked_by, message)

    def _start_worker(self, name: str) -> None:
        if not self._start(name, None, None) and not self._signals:
            self._restart_at[name] = time.monotonic() + FORK_AGAIN_AFTER

    def _start_solo(self, asked_by: _Child, message: Message) -> None:
        name = f"{self._job.worker_id}:isolated-{message.id}"
        if asked_by in self._children and not self._start(name, message, asked_by):
            _tell(asked_by, (_name(message), None))

    def _start(self, name: str, message: Message | None, asked_by: _Child | None) -> bool:
        """Start a child, unless we are stopping or the system has no room for one."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if self._signals:
                return False
            self._launch(name, message, asked_by)
        except OSError as error:
            logger.error("%s cannot be started: %s", name, error)
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return True

    def _launch(self, name: str, message: Message | None, asked_by: _Child | None) -> None:
        ours, theirs = _context.Pipe()
        inherited = [child.link for child in self._children] + [ours] if _fork == "fork" else []
        process = _context.Process(
            target=_child_main, args=(self._job, name, theirs, inherited, message), name=name
        )
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._children.append(_Child(name, process, ours, time.monotonic(), message, asked_by))

    def _read(self, child: _Child) -> None:
        """A worker asks for a process of its own for a message; ``None``: it stops, and asks no more."""
        try:
            message: Message | None = child.link.recv()
        except (EOFError, OSError):
            return  # it is about to end; its sentinel tells
        if message is not None:
            self._asked.append((child, message))
            return
        for by, asked in self._asked:
            if by is child:
                _tell(child, (_name(asked), None))
        self._forget(child)

    def _forget(self, child: _Child) -> None:
        """What this worker has asked for and is not started will not be."""
        self._asked = deque((by, message) for by, message in self._asked if by is not child)

    def _bury(self, child: _Child) -> None:
        """A child has ended: tell who waits for it, or replace it."""
        self._children.remove(child)
        child.process.join()
        code = child.process.exitcode
        child.link.close()
        if child.message is not None:
            if child.asked_by is not None:
                _tell(child.asked_by, (_name(child.message), code == WELL))
            if code != WELL:
                logger.error(
                    "message %s on %s ended its process (%s)", child.message.id, child.message.channel, code
                )
            return
        self._forget(child)
        if self._signals or (self._job.drain and code == WELL):
            return
        self._replace(child, code)

    def _replace(self, child: _Child, code: int) -> None:
        age = time.monotonic() - child.started_at
        if age >= YOUNG:
            self._early_deaths = 0
        delay = 0.0
        if code == RECYCLED:
            logger.info("%s was recycled after %.1f s; starting another", child.name, age)
        elif code != WELL:
            delay = min(LONGEST_DELAY, 0.1 * 2.0 ** min(self._early_deaths, 10))
            self._early_deaths += 1
            logger.error("%s ended (%s); starting another in %.1f s", child.name, code, delay)
        self._restart_at[child.name] = time.monotonic() + delay


_Name: TypeAlias = tuple[UUID, int | None]


def _name(claim: Message) -> _Name:
    """What tells a claim from an earlier one of the same message, and from others of the same call."""
    return claim.id, claim.token


def _signal(child: _Child, number: int) -> None:
    if child.process.pid is not None and child.process.is_alive():
        with suppress(ProcessLookupError):  # its end was being noted when the signal came
            os.kill(child.process.pid, number)


def _tell(child: _Child, answer: tuple[_Name, bool | None]) -> None:
    try:
        child.link.send(answer)
    except (OSError, ValueError):
        logger.debug("%s is gone", child.name)


# -- in the child -----------------------------------------------------------------------------------------------


def _child_main(
    job: Job, name: str, link: Connection, inherited: Sequence[Connection], message: Message | None
) -> None:
    """The life of a worker process."""
    for other in inherited:  # so that the end of the supervisor closes the link for good
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to us, too; the supervisor decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # likewise
    code = 1
    try:
        code = _run_worker(job, name, link, message)
    except BaseException:
        logger.critical("%s failed", name, exc_info=True)
    finally:
        _flush()
        os._exit(code)  # code that ran past its time limit may hold a thread for ever


def _flush() -> None:
    """Whoever started us may have closed the streams, or stopped reading them."""
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _run_worker(job: Job, name: str, link: Connection, message: Message | None) -> int:
    """Returns the exit code."""
    if _fork == "spawn":
        import django

        django.setup()
    prepare_process()
    layer = get_layer(job.layer)
    routing = Routing.of_layer(job.layer).with_applications(job.channels or ())
    link_end = _Link(link)
    worker = Worker(
        layer,
        routing,
        job.channels if message is None else [message.channel],
        worker_id=name,
        threads=job.threads if message is None else 1,
        isolated_runs=link_end if message is None else None,
        drain=job.drain,
        adopted=None if message is None else [message],
        recycling=RecyclingLimits(job.max_messages, job.max_memory) if message is None else None,
    )
    signal.signal(signal.SIGTERM, _Stopper(worker.stop, None))
    signal.signal(AT_ONCE, _Stopper(worker.stop, 0.0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    link_end.listen(worker.stop)
    worker.run()
    return RECYCLED if worker.should_recycle and message is None else WELL


def _stop_signals() -> list[signal.Signals]:
    """SIGHUP, the end of the terminal, stops us, too, unless we are to outlive it (nohup)."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]


class _Stopper:
    """A signal handler that stops the worker."""

    def __init__(self, stop: Callable[[float | None], None], timeout: float | None) -> None:
        self._stop = stop
        self._timeout = timeout

    def __call__(self, number: int, frame: Any) -> None:
        # Not here: the handler may have interrupted the very code that holds the lock it would wait for.
        threading.Thread(target=self._stop, args=(self._timeout,), daemon=True).start()


class _Link:
    """The worker's end of the pipe to its supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[_Name, Callable[[bool | None], None]] = {}

    def run(self, message: Message, ended: Callable[[bool | None], None]) -> None:
        """Have the supervisor run a claim in a process of its own, and report by ``ended`` how that went."""
        self._waiting[_name(message)] = ended
        try:
            self._connection.send(message)
        except OSError:  # the supervisor is gone; the reading thread tells
            self._waiting.pop(_name(message))(None)

    def cancel_pending(self) -> None:
        """Ask the supervisor to return what it has not started."""
        with suppress(OSError):  # it is gone; the reading thread tells
            self._connection.send(None)

    def listen(self, on_end: Callable[[], None]) -> None:
        """Start to read answers; the supervisor's end is ours, too."""
        threading.Thread(target=self._read, args=(on_end,), name="mailrail-link", daemon=True).start()

    def _read(self, on_end: Callable[[], None]) -> None:
        while True:
            try:
                name, well = self._connection.recv()
            except (EOFError, OSError):
                logger.error("the supervisor is gone; stopping")
                on_end()
                return
            self._waiting.pop(name)(well)
