"""Run several commands at the same time, show all that they say, and sum up.

    python3 scripts/side_by_side.py [--summary FILE] LABEL COMMAND [ARGUMENT...] [-- LABEL COMMAND [ARGUMENT...]]...

Each line of a command is shown behind its label. At the end there is a line for each, with the last it said; FILE gets
these lines, too. Exit status: 0 if all of them ended with 0, else 1.

A signal that would end this program, or the end of whoever started it, interrupts the commands first, so that tests can
tidy up; what still runs after a while, or at a second signal, is killed, with all that it has started.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

GRACE = 60.0
"""Seconds that interrupted commands get to tidy up."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_NOISE = ("make: ***", "make[")
"""How lines of make begin that say only that something has failed."""
_showing = threading.Lock()


class Command:
    """A command in a process group of its own, and a thread that shows what it says."""

    def __init__(self, label: str, arguments: list[str]) -> None:
        self.label = label
        self._last = "it has said nothing"
        # A group of its own: a terminal's Ctrl-C comes to us alone, and is passed on.
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._show, daemon=True)
        self._reader.start()

    def _show(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            with _showing:  # print() writes the end of a line apart
                print(f"{self.label} | {line}", flush=True)
            if line and not line.startswith(_NOISE):
                self._last = line

    def interrupt(self) -> None:
        if self.process.returncode is None:  # once it is over, its number may be another's
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)

    def summary(self) -> str:
        """To be asked once it is over, or killed."""
        code = self.process.wait()
        self._reader.join()
        return f"{self.label}: {'passed' if code == 0 else f'FAILED ({code})'}: {self._last}"


class Interruptions:
    """Signals that have come."""

    def __init__(self) -> None:
        self.number = 0
        self.count = 0
        self.kill_at = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        self.number = number
        self.count += 1
        self.kill_at = time.monotonic() + (GRACE if self.count == 1 else 0.0)


def main() -> int:
    summary, wanted = _parse_arguments()
    _adopt_orphans()
    interruptions = Interruptions()
    commands = [Command(label, arguments) for label, *arguments in wanted]
    try:
        _wait(commands, interruptions)
    finally:
        _kill_descendants()  # also what a command has left behind
    lines = [command.summary() for command in commands]
    print("\n" + "\n".join(lines), flush=True)
    if summary is not None:
        summary.write_text("".join(f"{line}\n" for line in lines))
    if interruptions.number:
        return 128 + interruptions.number
    return int(any(command.process.returncode for command in commands))


def _parse_arguments() -> tuple[Path | None, list[list[str]]]:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--summary", metavar="FILE", type=Path)
    parser.add_argument("commands", nargs=argparse.REMAINDER, metavar="LABEL COMMAND [ARGUMENT...] [-- ...]")
    options = parser.parse_args()
    wanted: list[list[str]] = [[]]
    for word in options.commands:
        if word == "--":
            wanted.append([])
        else:
            wanted[-1].append(word)
    if any(len(words) < 2 for words in wanted):
        parser.error("each command needs a label before it")
    return options.summary, wanted


def _wait(commands: list[Command], interruptions: Interruptions) -> None:
    """Until all have ended, or have to be killed."""
    running = {command.process.pid: command.process for command in commands}
    are_interrupted = False
    while _reap(running) and time.monotonic() < interruptions.kill_at:
        if interruptions.count and not are_interrupted:
            are_interrupted = True
            for command in commands:
                command.interrupt()
        time.sleep(0.05)


def _reap(running: dict[int, subprocess.Popen[bytes]]) -> bool:
    """Take note of children that have ended, orphans among them, and say whether a command still runs.

    ``running``: commands by the numbers of their processes. Who has ended is taken out: the system soon gives the
    number to another process, which may become an orphan of ours.
    """
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            command = running.pop(ended.si_pid, None)
            if command is not None:
                command.poll()
            else:
                os.waitpid(ended.si_pid, os.WNOHANG)
    return bool(running)


def _adopt_orphans() -> None:
    """What our commands leave behind becomes our child, and our own parent's end a signal (prctl(2); Linux only)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _kill_descendants() -> None:
    """Once more while there are any: a process may start another while we look."""
    for _ in range(100):
        left = _descendants()
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _descendants() -> set[int]:
    """Of this process, by proc(5); those that have ended and are not waited for are left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid = int(entry.parent.name)
            state, parent, *_ = entry.read_text(errors="replace").rpartition(")")[2].split()
            if state != "Z":
                children.setdefault(int(parent), []).append(pid)
    descendants: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for child in children.get(waiting.pop(), []):
            descendants.add(child)
            waiting.append(child)
    return descendants


if __name__ == "__main__":
    sys.exit(main())
