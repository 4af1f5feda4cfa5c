"""The process above the workers. It starts them, replaces those that end and passes signals on. It runs a message that
has cost a process before in a process of its own.

It has one thread and no connections, so that forking it is safe and cheap.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ..backoff import Backoff
from ..conf import settings
from ..messages import Message
from .child import RECYCLED, START_METHOD, WELL, Job, child_main
from .connections import leave_no_pools
from .isolated import ClaimName, claim_name
from .log import logger
from .reload import AT_ONCE, KILL_WORKERS_AFTER_S, SIGNALS, Successors, has_terminal

MAX_ISOLATED_RUNS = 4
"""Processes for single messages that run at once."""
YOUNG = 5.0
"""A worker that dies before it is this old (seconds) is replaced with a growing delay."""
LONGEST_DELAY = 30.0
FORK_AGAIN_AFTER = 1.0
"""Seconds until a process is started again that could not be: no memory, too many processes or files."""
_context: Any = multiprocessing.get_context(START_METHOD)


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
        self._early_deaths = Backoff(0.1, LONGEST_DELAY, jitter=0.0)
        self._signals = 0
        self._kill_at = float("inf")
        self._lifelines = [fd for fd in (job.lifeline, job.origin and job.origin.link) if fd is not None]
        self._successors = Successors(job.invocation, self._retire, drain=job.drain)
        self._is_ready = False
        self._is_retired = False  # another process has taken over
        self._has_hung_up = False
        self._had_terminal = has_terminal()

    def run(self) -> None:
        """Returns when all workers have stopped: after a signal, or drained."""
        previous = {s: signal.signal(s, self._on_signal) for s in _handled_signals(self._job)}
        try:
            leave_no_pools()
            gc.collect()
            gc.freeze()  # a full collection in a worker writes to each object that it looks at, and so copies its page
            for number in range(self._job.processes):
                self._start_worker(f"{self._job.worker_id}:{number}")
            # The signal may come just before the next start is noted: that one is not waited for.
            while self._children or self._successors.is_active or (self._restart_at and not self._is_ending):
                self._step()
        finally:
            gc.unfreeze()
            for s, handler in previous.items():
                signal.signal(s, handler)

    @property
    def _is_ending(self) -> bool:
        return self._signals > 0 or self._is_retired

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGHUP:
            self._has_hung_up = True
        elif number == AT_ONCE:
            self._signals = max(1, self._signals)
            self._stop()
        elif self._job.origin is None or not self._signals:  # a successor: the first process counts
            self._stop()

    def _hang_up(self) -> None:
        """Reload; or stop, if the terminal was closed or this process cannot reload (the worker of ``runserver``)."""
        self._has_hung_up = False
        if self._signals:  # service managers may send SIGHUP along with another signal
            return
        if self._job.invocation is None or (self._had_terminal and not has_terminal()):
            self._stop()
        else:
            self._successors.reload()

    def _retire(self) -> None:
        """Stop our own workers: a successor has taken over."""
        self._is_retired = True
        self._end_workers(settings.shutdown_timeout, signal.SIGTERM)

    def _stop(self) -> None:
        """The first time: finish what runs. The second time: give it back at once."""
        self._signals += 1
        if self._signals == 1:
            self._end_workers(settings.shutdown_timeout, signal.SIGTERM)
        else:
            self._end_workers(0.0, AT_ONCE)
        self._successors.stop(at_once=self._signals > 1)

    def _end_workers(self, grace: float, number: signal.Signals) -> None:
        self._kill_at = min(self._kill_at, time.monotonic() + grace + KILL_WORKERS_AFTER_S)
        self._restart_at.clear()
        for child in self._children:
            _signal(child, number)

    def _step(self) -> None:
        if self._has_hung_up:
            self._hang_up()
        self._start_due()
        self._report_ready()
        soon = min(self._restart_at.values(), default=float("inf")) - time.monotonic()
        ready = wait([*self._watched()], timeout=max(0.0, min(0.5, soon)))
        for lifeline in [fd for fd in self._lifelines if fd in ready]:
            if not os.read(lifeline, 1024):
                self._lifelines.remove(lifeline)
                self._stop()
        self._successors.step(ready)
        self._look_after(ready)

    def _report_ready(self) -> None:
        """Tell the first process, once, that all workers have been started, so that it stops the earlier ones."""
        if self._job.origin is not None and not self._is_ready and not self._restart_at:
            self._is_ready = True
            self._job.origin.report_ready()

    def _look_after(self, ready: Sequence[Any]) -> None:
        """Read what workers ask for, and notice which have ended."""
        for child in list(self._children):
            if child.link in ready:
                self._read(child)
            if not child.process.is_alive():  # the sentinel may live on in what a consumer has forked
                self._bury(child)
        if time.monotonic() > self._kill_at:
            for child in self._children:
                logger.error("%s did not stop in time; killing it", child.name)
                child.process.kill()

    def _watched(self) -> Iterator[Any]:
        for child in self._children:
            yield child.link
            yield child.process.sentinel
        yield from self._lifelines
        yield from self._successors.links

    # -- workers ------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = time.monotonic()
        for name, at in list(self._restart_at.items()):  # a copy: a signal may clear them at any moment
            if at <= now:
                self._restart_at.pop(name, None)
                self._start_worker(name)
        while self._asked and (
            self._is_ending or sum(c.message is not None for c in self._children) < MAX_ISOLATED_RUNS
        ):
            asked_by, message = self._asked.popleft()
            self._start_solo(asked_by, message)

    def _start_worker(self, name: str) -> None:
        if not self._start(name, None, None) and not self._is_ending:
            self._restart_at[name] = time.monotonic() + FORK_AGAIN_AFTER

    def _start_solo(self, asked_by: _Child, message: Message) -> None:
        name = f"{self._job.worker_id}:isolated-{message.id}"
        if asked_by in self._children and not self._start(name, message, asked_by):
            _tell(asked_by, (claim_name(message), None))

    def _start(self, name: str, message: Message | None, asked_by: _Child | None) -> bool:
        """Start a child, unless we are ending or the system has no room for one."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            if self._is_ending:
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
        links = [*(child.link for child in self._children), ours, *self._successors.links]
        inherited = links if START_METHOD == "fork" else []
        process = _context.Process(
            target=child_main, args=(self._job, name, theirs, inherited, message), name=name
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
                _tell(child, (claim_name(asked), None))
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
                _tell(child.asked_by, (claim_name(child.message), code == WELL))
            if code != WELL:
                logger.error(
                    "message %s on %s ended its process (%s)", child.message.id, child.message.channel, code
                )
            return
        self._forget(child)
        if self._is_ending or (self._job.drain and code == WELL):
            return
        self._replace(child, code)

    def _replace(self, child: _Child, code: int) -> None:
        age = time.monotonic() - child.started_at
        if age >= YOUNG:
            self._early_deaths.succeeded()
        delay = 0.0
        if code == RECYCLED:
            logger.info("%s was recycled after %.1f s; starting another", child.name, age)
        elif code != WELL:
            self._early_deaths.failed()
            delay = self._early_deaths.delay
            logger.error("%s ended (%s); starting another in %.1f s", child.name, code, delay)
        self._restart_at[child.name] = time.monotonic() + delay


def _signal(child: _Child, number: int) -> None:
    if child.process.pid is not None and child.process.is_alive():
        with suppress(ProcessLookupError):  # its end was being noted when the signal came
            os.kill(child.process.pid, number)


def _tell(child: _Child, answer: tuple[ClaimName, bool | None]) -> None:
    try:
        child.link.send(answer)
    except (OSError, ValueError):
        logger.debug("%s is gone", child.name)


def _handled_signals(job: Job) -> list[signal.Signals]:
    """Return the signals to handle. SIGHUP stays ignored if it was when we were started, as by nohup.

    A successor ignores SIGINT and SIGHUP: they are for the first process.
    """
    if job.origin is not None:
        return [signal.SIGTERM, AT_ONCE]
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]
