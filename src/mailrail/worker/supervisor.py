"""The process above the workers: it starts them and isolated runs, replaces those that end, and passes signals on.

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
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from ..backoff import Backoff
from ..conf import settings
from ..messages import Message
from .child import DONE, RECYCLED, START_METHOD, Job, child_main
from .connections import leave_no_pools
from .isolated import Kill, Progress, Request, RunEnd, claim_name
from .log import logger
from .presence import Presence
from .reload import AT_ONCE, KILL_WORKERS_AFTER_S, SIGNALS, Successors, has_terminal

MAX_ISOLATED_RUNS = 4
"""Processes for single messages that run at once."""
EARLY_DEATH_S = 5.0
"""A worker that dies before it is this old (seconds) is replaced with a growing delay."""
LONGEST_DELAY_S = 30.0
FORK_AGAIN_AFTER_S = 1.0
"""Seconds until a process is started again that could not be: no memory, too many processes or files."""
_context: Any = multiprocessing.get_context(START_METHOD)


@dataclass(eq=False)
class _Run:
    """An isolated run: who has asked for it, and what has become of it."""

    asked_by: _Child
    request: Request
    is_taken: bool = False
    has_begun: bool = False
    limit: float | None = None  # seconds
    late_at: float = float("inf")  # time.monotonic()
    killed: tuple[RunEnd, Any] | None = None  # the process is being killed; what to answer then

    @property
    def claim(self) -> Message:
        """Return the claim to run."""
        return self.request.claim


@dataclass(eq=False)
class _Child:
    name: str
    process: Any
    link: Connection
    started_at: float
    request: Request | None = None  # of the isolated run that it was started for
    run: _Run | None = None  # what it runs

    @property
    def is_idle(self) -> bool:
        """Is it kept for isolated runs, and has none now?"""
        return self.run is None and self.request is not None and self.request.is_kept


class Supervisor:
    """Keeps ``job.processes`` workers running until it is told to stop, or until they have drained."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._children: list[_Child] = []
        self._asked: deque[_Run] = deque()
        self._kept_started = 0  # processes for isolated runs that are kept, for their names
        self._restart_at: dict[str, float] = {}
        self._died: set[str] = set()  # workers that are to be started again, and have left claims
        self._early_deaths = Backoff(0.1, LONGEST_DELAY_S, jitter=0.0)
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
        presence = Presence(self._job.worker_id)
        self._job = replace(self._job, presence=presence.name)
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
            presence.end()
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
        is_first = self._signals == 1
        grace, number = (settings.shutdown_timeout, signal.SIGTERM) if is_first else (0.0, AT_ONCE)
        self._end_workers(grace, number)
        self._successors.stop(at_once=not is_first)

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
        self._end_idle()
        late_at = [child.run.late_at for child in self._children if child.run]
        soon = min([*self._restart_at.values(), *late_at], default=float("inf")) - time.monotonic()
        ready = wait([*self._watched()], timeout=max(0.0, min(0.5, soon)))
        for lifeline in [fd for fd in self._lifelines if fd in ready]:
            if not os.read(lifeline, 1024):
                self._lifelines.remove(lifeline)
                self._stop()
        self._successors.step(ready)
        self._check_children(ready)

    def _report_ready(self) -> None:
        """Tell the first process, once, that all workers have been started, so that it stops the earlier ones."""
        if self._job.origin is not None and not self._is_ready and not self._restart_at:
            self._is_ready = True
            self._job.origin.report_ready()

    def _check_children(self, ready: Sequence[Any]) -> None:
        """Read what workers ask for, and notice which have ended."""
        for child in list(self._children):
            is_over = not child.process.is_alive()  # the sentinel may live on in what a consumer has forked
            if child.link in ready or is_over:
                self._read(child)
            if is_over:
                self._reap(child)
            elif child.run is not None and child.run.late_at <= time.monotonic():
                self._kill(child, RunEnd.LATE, child.run.limit)
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
        alone = sum(c.run is not None and not c.run.request.is_kept for c in self._children)
        for run in list(self._asked):
            if run.request.is_kept or self._is_ending or alone < MAX_ISOLATED_RUNS:
                alone += not run.request.is_kept
                self._asked.remove(run)
                self._start_run(run)

    def _start_worker(self, name: str) -> None:
        if not self._start(name, None) and not self._is_ending:
            self._restart_at[name] = time.monotonic() + FORK_AGAIN_AFTER_S

    # -- isolated runs ------------------------------------------------------------------------------------------

    def _start_run(self, run: _Run) -> None:
        """Start a run: in a process that is kept and idle, or in a new one."""
        if run.asked_by not in self._children or (run.request.is_kept and self._assign(run)):
            return
        self._kept_started += run.request.is_kept
        name = self._kept_started if run.request.is_kept else run.claim.id
        if not self._start(f"{self._job.worker_id}:isolated-{name}", run):
            _answer(run, RunEnd.NOT_STARTED)

    def _assign(self, run: _Run) -> bool:
        """Give a run to a process that has none now. Tell whether there is one."""
        for child in self._children if not self._is_ending else ():
            if child.is_idle and child.process.is_alive():
                with suppress(OSError):  # it ends just now
                    child.link.send(run.claim)
                    child.run = run
                    return True
        return False

    def _note_progress(self, child: _Child, run: _Run, progress: Progress, detail: float | None) -> None:
        """Take in what the process of a run has told."""
        if progress is Progress.TAKEN:
            run.is_taken = True
        elif progress is Progress.LIMITED:
            run.has_begun, run.limit = True, detail
            run.late_at = float("inf") if detail is None else time.monotonic() + detail
        else:
            child.run = None
            _answer(run, RunEnd.ENDED)

    def _kill(self, child: _Child, answer: RunEnd, detail: Any) -> None:
        """Kill the process of a run. Its end is told when it has come."""
        run = child.run
        if run is None or run.killed:
            return
        run.killed, run.late_at = (answer, detail), float("inf")
        reason = f"it runs longer than its limit of {detail:g} seconds" if answer is RunEnd.LATE else detail
        logger.error("killing the process of message %s on %s: %s", run.claim.id, run.claim.channel, reason)
        child.process.kill()

    def _kill_asked(self, kill: Kill) -> None:
        """Kill what runs a message, or drop it if it waits for a process."""
        for run in [run for run in self._asked if run.claim.id == kill.id]:
            self._asked.remove(run)
            _answer(run, RunEnd.KILLED, kill.reason)
        for child in self._children:
            if child.run is not None and child.run.claim.id == kill.id:
                self._kill(child, RunEnd.KILLED, kill.reason)

    def _report_end(self, run: _Run, code: int) -> None:
        """Tell, or try again, what was running in a process that has ended."""
        if run.killed:
            _answer(run, *run.killed)
        elif not run.is_taken or (code == DONE and not run.has_begun):  # the process was about to end
            run.is_taken = False
            self._asked.appendleft(run)
        else:
            _answer(run, RunEnd.DIED)
            logger.error("message %s on %s ended its process (%s)", run.claim.id, run.claim.channel, code)

    def _end_idle(self) -> None:
        """End what is kept for isolated runs when no worker is left to ask for any."""
        if not self._restart_at and all(child.request is not None for child in self._children):
            for child in self._children:
                if child.is_idle:
                    _signal(child, signal.SIGTERM)

    # -- processes ----------------------------------------------------------------------------------------------

    def _start(self, name: str, run: _Run | None) -> bool:
        """Start a child, unless we are ending or the system has no room for one."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            if self._is_ending:
                return False
            self._launch(name, run)
        except OSError as error:
            logger.error("%s cannot be started: %s", name, error)
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return True

    def _launch(self, name: str, run: _Run | None) -> None:
        request = None if run is None else run.request
        ours, theirs = _context.Pipe()
        links = [*(child.link for child in self._children), ours, *self._successors.links]
        inherited = links if START_METHOD == "fork" else []
        runs = [child.run for child in self._children if child.run is not None]
        still_run = {run.claim.id for run in runs} if name in self._died else None
        arguments = self._job, name, theirs, inherited, request, still_run
        process = _context.Process(target=child_main, args=arguments, name=name)
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._died.discard(name)
        if run is not None:
            run.is_taken = True
        self._children.append(_Child(name, process, ours, time.monotonic(), request, run))

    def _read(self, child: _Child) -> None:
        """Read what a process has sent: all that a run has come to, and one thing that a worker asks for.

        That starts, where it can, before the worker's next word, which may be that it stops.
        """
        with suppress(EOFError, OSError):  # it is about to end; its sentinel tells
            while child.link.poll():
                self._handle(child, child.link.recv())
                if child.request is None:
                    return

    def _handle(self, child: _Child, sent: Request | Kill | tuple[Progress, float | None] | None) -> None:
        """Do what a worker asks for, or note what an isolated run has come to. ``None``: a worker stops."""
        if isinstance(sent, Request):
            self._asked.append(_Run(child, sent))
        elif isinstance(sent, Kill):
            self._kill_asked(sent)
        elif sent is None:
            for run in [run for run in self._asked if run.asked_by is child and not run.request.is_kept]:
                self._asked.remove(run)  # it may have to wait; those for kept processes start now
                _answer(run, RunEnd.NOT_STARTED)
        elif child.run is not None:
            self._note_progress(child, child.run, *sent)

    def _reap(self, child: _Child) -> None:
        """A child has ended: tell who waits for it, or replace it."""
        self._children.remove(child)
        child.process.join()
        code = child.process.exitcode
        child.link.close()
        if child.run is not None:
            self._report_end(child.run, code)
        if child.request is not None:
            return
        self._asked = deque(run for run in self._asked if run.asked_by is not child)
        if self._is_ending or (self._job.drain and code == DONE):
            return
        self._replace(child, code)

    def _replace(self, child: _Child, code: int) -> None:
        age = time.monotonic() - child.started_at
        if age >= EARLY_DEATH_S:
            self._early_deaths.succeeded()
        delay = 0.0
        if code == RECYCLED:
            logger.info("%s was recycled after %.1f s; starting another", child.name, age)
        elif code != DONE:
            self._died.add(child.name)
            self._early_deaths.failed()
            delay = self._early_deaths.delay
            logger.error("%s ended (%s); starting another in %.1f s", child.name, code, delay)
        self._restart_at[child.name] = time.monotonic() + delay


def _signal(child: _Child, number: int) -> None:
    if child.process.pid is not None and child.process.is_alive():
        with suppress(ProcessLookupError):  # its end was being noted when the signal came
            os.kill(child.process.pid, number)


def _answer(run: _Run, answer: RunEnd, detail: Any = None) -> None:
    """Answer the worker that has asked for a run."""
    try:
        run.asked_by.link.send((claim_name(run.claim), answer, detail))
    except (OSError, ValueError):
        logger.debug("%s is gone", run.asked_by.name)


def _handled_signals(job: Job) -> list[signal.Signals]:
    """Return the signals to handle. SIGHUP stays ignored if it was when we were started, as by nohup.

    A successor ignores SIGINT and SIGHUP: they are for the first process.
    """
    if job.origin is not None:
        return [signal.SIGTERM, AT_ONCE]
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]
