"""Reload at SIGHUP: run the same command again, with the current code and settings, and let it replace the workers.

Service managers know the first process by its id, so it stays, and it keeps handling the signals. Its successor is a
process started from nothing: it imports, runs the checks and starts workers, as any ``runworker`` does. Then it reports
on a socket that it is ready, and only then do the earlier processes stop. A successor that fails changes nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backoff import Backoff
from ..conf import settings
from .log import logger

AT_ONCE = signal.SIGUSR1
"""What a supervisor sends to say: give back what runs, now. A second SIGTERM would not do. Service managers send one to
every process of a service while the supervisor does the same, and that does not mean "at once"."""
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, AT_ONCE})
VARIABLE = "MAILRAIL_RELOAD"
"""Tells a successor its socket to the first process, and the number of successors before it, plus one: ``"7:1"``."""
KILL_WORKERS_AFTER_S = 5.0
"""Seconds from the end of the grace period until a supervisor kills workers that still run."""
KILL_AFTER_S = 2 * KILL_WORKERS_AFTER_S
"""The same for a successor, which kills its own workers first."""
LONGEST_DELAY_S = 30.0
"""Seconds between two attempts to replace a successor that has ended by itself, at most."""


@dataclass(frozen=True)
class Invocation:
    """What starts this command again."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str | None

    @classmethod
    def current(cls) -> Invocation:
        """Return how this process was started."""
        return cls([sys.executable, *sys.orig_argv[1:]], _first_environment(), _directory())


@dataclass(frozen=True)
class Origin:
    """What a successor knows of the first process."""

    link: int  # a file descriptor: gets a line when the workers run; its end means that the first process is gone
    generation: int

    @classmethod
    def take(cls) -> Origin | None:
        """Read the variable and remove it, because processes that consumers start are no successors."""
        value = os.environ.pop(VARIABLE, None)
        if value is None:
            return None
        try:
            link, generation = map(int, value.split(":"))
            os.set_inheritable(link, False)
        except (ValueError, OSError):  # inherited without the socket
            return None
        return cls(link, generation)

    def report_ready(self) -> None:
        """Tell the first process that the workers run, and how many seconds they may take to stop."""
        with suppress(OSError):  # the first process is gone; the end of the link tells
            os.write(self.link, b"%f\n" % settings.shutdown_timeout)


@dataclass(eq=False)
class _Successor:
    process: subprocess.Popen[bytes]
    link: socket.socket
    started_at: float = field(default_factory=time.monotonic)
    grace: float | None = None  # seconds that its workers may take to stop; None: it is still starting
    is_told_to_end: bool = False
    kill_at: float = float("inf")

    def end(self, *, at_once: bool = False) -> None:
        """Send a signal. A successor that does not handle signals yet ends at once."""
        self.is_told_to_end = True
        grace = settings.shutdown_timeout if self.grace is None else self.grace
        self.kill_at = min(self.kill_at, time.monotonic() + (0.0 if at_once else grace) + KILL_AFTER_S)
        self.process.send_signal(AT_ONCE if at_once else signal.SIGTERM)


class Successors:
    """Start, replace and stop successors, on behalf of the first process.

    ``retire`` is called when a successor has taken over: the first process has to stop its own workers. ``drain``: a
    successor that exits with 0 has found nothing more to do, and is not replaced.
    """

    def __init__(self, invocation: Invocation | None, retire: Callable[[], None], *, drain: bool) -> None:
        self._invocation = invocation
        self._retire = retire
        self._drain = drain
        self._all: list[_Successor] = []
        self._current: _Successor | None = None
        self._starting: _Successor | None = None
        self._generation = 0
        self._deaths = Backoff(0.1, LONGEST_DELAY_S, jitter=0.0)
        self._start_at = float("inf")
        self._has_taken_over = False  # so the first process has no workers any more
        self._is_stopping = False

    @property
    def is_active(self) -> bool:
        return bool(self._all) or (self._start_at < float("inf") and not self._is_stopping)

    @property
    def links(self) -> list[socket.socket]:
        """Return the sockets to wait for; ``step`` takes those that can be read."""
        return [successor.link for successor in self._all if successor.link.fileno() >= 0]

    def reload(self) -> None:
        """Have ``step`` start a successor. One that is still starting is stopped: it may have read older code."""
        if self._starting is not None:
            self._starting.end()
        self._start_at = time.monotonic()

    def stop(self, *, at_once: bool) -> None:
        """Stop all successors. Safe to call from a signal handler."""
        self._is_stopping = True
        for successor in self._all:
            successor.end(at_once=at_once)

    def step(self, ready: Sequence[Any]) -> None:
        """Read what successors report, replace those that have ended, and kill those that are overdue."""
        for successor in list(self._all):
            if successor.link in ready:
                self._read(successor)
            if successor.process.poll() is not None:
                self._reap(successor)
            elif time.monotonic() > successor.kill_at:
                successor.process.kill()
        if self._start_at <= time.monotonic() and self._starting is None and not self._is_stopping:
            self._start_at = float("inf")
            self._start()

    def _start(self) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # so that ``stop`` finds it in the list
        try:
            if not self._is_stopping:
                self._launch()
        except OSError as error:
            logger.error("cannot reload: no process can be started: %s. What runs goes on unchanged", error)
            self._replace()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _launch(self) -> None:
        assert self._invocation is not None
        ours, theirs = socket.socketpair()
        self._generation += 1
        variables = {VARIABLE: f"{theirs.fileno()}:{self._generation}"}
        try:
            with theirs:
                process = subprocess.Popen(
                    self._invocation.arguments,
                    env={**self._invocation.environment, **variables},
                    cwd=self._invocation.directory,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    preexec_fn=_prepare_signals,  # safe: the supervisor has one thread
                )
        except BaseException:
            ours.close()
            raise
        logger.info("reloading: process %s loads the code and the settings", process.pid)
        self._starting = _Successor(process, ours)
        self._all.append(self._starting)

    def _read(self, successor: _Successor) -> None:
        report = successor.link.recv(64)
        if not report:  # it is ending; ``poll`` tells when it has ended
            successor.link.close()
            return
        successor.grace = float(report)
        if successor.is_told_to_end:
            return
        logger.info(
            "process %s has taken over with the reloaded code and settings; earlier ones finish what they run",
            successor.process.pid,
        )
        previous, self._current, self._starting = self._current, successor, None
        self._has_taken_over = True
        self._retire()
        if previous is not None:
            previous.end()

    def _reap(self, successor: _Successor) -> None:
        self._all.remove(successor)
        successor.link.close()
        was_current = successor is self._current
        if was_current:
            self._current = None
        if successor is self._starting:
            self._starting = None
        code = successor.process.returncode
        if successor.is_told_to_end or (was_current and self._drain and code == 0):
            return
        if was_current:
            logger.error("process %s ended (%s)", successor.process.pid, code)
        else:
            logger.error(
                "cannot reload: process %s ended before it could take over (exit code %s); its standard error tells "
                "the reason. What runs goes on unchanged",
                *(successor.process.pid, code),
            )
        if time.monotonic() - successor.started_at > LONGEST_DELAY_S:
            self._deaths.succeeded()
        self._replace()

    def _replace(self) -> None:
        """Start another successor, unless one is current or starting, or the first process still has workers."""
        is_wanted = self._has_taken_over and self._current is None and self._starting is None
        if is_wanted and self._start_at == float("inf"):
            self._deaths.failed()
            self._start_at = time.monotonic() + self._deaths.delay
            logger.info("starting another process in %.1f s", self._deaths.delay)


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal.

    When a terminal is closed, Linux takes it from its processes before it sends SIGHUP (drivers/tty/tty_jobctrl.c).
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _prepare_signals() -> None:
    """Set what signals do in a successor until it installs its handlers. Runs after the fork, before the program.

    A terminal, or ``kill`` of a process group, sends SIGINT and SIGHUP to all processes. Those two are for the first
    process alone, which passes on SIGTERM.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, AT_ONCE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _first_environment() -> Mapping[str, str]:
    """Return the environment that this process was started with, where the system tells it (proc(5)).

    Settings may have read a file such as ``.env`` into ``os.environ`` since. Readers of such files keep variables that
    are set, so a successor that inherited those would not see a change of the file.
    """
    try:
        text = os.fsdecode(Path("/proc/self/environ").read_bytes())
    except OSError:
        return os.environ.copy()
    lines = text.rstrip("\0").split("\0")
    if not all("=" in line for line in lines):  # overwritten by a process title
        return os.environ.copy()
    return dict(line.split("=", 1) for line in lines)


def _directory() -> str | None:
    """Return the working directory; where it was entered by a symbolic link to a release, the path of the link."""
    named = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, "."):  # noqa: PTH117, PTH121
            return named
        return os.getcwd()  # noqa: PTH109
    return None  # it was removed
