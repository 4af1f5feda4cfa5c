"""Child processes: started with a log file each, stopped with SIGTERM, always reaped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

STOP_SECONDS = 40.0  # the worker itself takes up to 25 to finish what runs
LOOK_SECONDS = 0.05
TAIL_LINES = 20

T = TypeVar("T")


class ProcessFailed(Exception):
    """A process ended, or did not get ready in time; the text says which."""


class Processes:
    """``with Processes(folder) as processes:`` ends every process it started, however the block ends.

    Each runs in a session of its own: Ctrl-C reaches the demo alone, which then stops them in order.
    """

    def __init__(self, folder: Path, directory: Path) -> None:
        self.exit_codes: dict[str, int] = {}
        self._folder = folder
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._last_to_stop: set[str] = set()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str], timeout: float) -> None:
        """Run a command to its end. Raises ``ProcessFailed`` unless that is a 0 within ``timeout`` seconds."""
        process = self.start(name, command, environment)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{name} was not done in time.") from None
        del self._running[name]
        if code:
            raise ProcessFailed(f"{name} exited with {code}.")

    def output(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Run a command and return what it prints. Raises ``ProcessFailed`` unless it exits with 0."""
        with self._log(name).open("wb") as log:
            done = subprocess.run(
                command,
                cwd=self._directory,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
            )
        if done.returncode:
            raise ProcessFailed(f"{name} exited with {done.returncode}.")
        return done.stdout.decode()

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        last_to_stop: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process; what it prints goes to ``<name>.log``. ``last_to_stop``: after those that need it."""
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._directory,
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process
        if last_to_stop:
            self._last_to_stop.add(name)
        return process

    def wait_for_line(self, name: str, pattern: str, timeout: float) -> re.Match[str]:
        """Wait until the process logs a line with this pattern, and return the match."""
        log = self._log(name)
        return self.wait_until(name, lambda: re.search(pattern, log.read_text(errors="replace")), timeout)

    def wait_until(self, name: str, look: Callable[[], T | None], timeout: float) -> T:
        """Look until there is something to see of the process, and return it.

        Raises ``ProcessFailed`` after ``timeout`` seconds, or when a process ends.
        """
        give_up = time.monotonic() + timeout
        while time.monotonic() < give_up:
            self.check()
            if seen := look():
                return seen
            time.sleep(LOOK_SECONDS)
        raise ProcessFailed(f"{name} was not ready in time.")

    def check(self) -> None:
        """Raise ``ProcessFailed`` if a process that should be running is not."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ProcessFailed(f"{name} ended by itself, with {process.returncode}.")

    def stop(self) -> None:
        """Send SIGTERM to all and wait for them; kill those that do not follow. Fills ``exit_codes``."""
        try:
            for are_last in (False, True):
                self._terminate(
                    [
                        process
                        for name, process in self._running.items()
                        if (name in self._last_to_stop) == are_last
                    ]
                )
        finally:
            for name, process in self._running.items():
                self.exit_codes[name] = _reap(process)
            self._running.clear()

    def _terminate(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        for process in processes:
            process.terminate()
        give_up = time.monotonic() + STOP_SECONDS
        for process in processes:
            _wait(process, give_up - time.monotonic())

    def tails(self) -> str:
        """Return the last lines of every log that has any."""
        logs = sorted(self._folder.glob("*.log"))
        return "".join(_tail(log) for log in logs if log.stat().st_size)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], timeout: float) -> None:
    try:
        process.wait(max(0.0, timeout))
    except subprocess.TimeoutExpired:
        pass  # killed next


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code; a process that still runs, or left children when it failed, is killed with them."""
    if process.poll() != 0:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing of it is left
    return process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"--- the end of {log.name}", *lines, ""])
