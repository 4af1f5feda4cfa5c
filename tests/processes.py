"""Real worker processes for tests: started like a user would, killed like a machine would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from django.db import connections

from .warm import ROOT as ROOT
from .warm import WarmProcess, can_be_forked, is_known

DJANGO = (sys.executable, "-m", "django")


def environment(ledger: Path) -> dict[str, str]:
    """The environment in which a process works on this test's databases."""
    names = {
        f"MAILRAIL_TEST_{alias.upper()}": str(connections[alias].settings_dict["NAME"])
        for alias in ("default", "other")
    }
    return os.environ | names | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "MAILRAIL_LEDGER": str(ledger),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
    }  # fmt: skip


class Manage:
    """``manage.py``, run as a user would, on the databases of the test."""

    def __init__(self, ledger: Ledger) -> None:
        self.environment = environment(ledger.path)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with TemporaryFile() as out, TemporaryFile() as err:
            process = start(DJANGO, arguments, self.environment, out, err)
            try:
                code = process.wait(60)
            finally:
                process.kill()
            said = [_read(out), _read(err)]
        print(*said)
        return subprocess.CompletedProcess(arguments, code, *said)

    def use_settings(self, folder: Path, text: str) -> None:
        """From now on with the settings of these tests, changed."""
        folder.joinpath("changed_settings.py").write_text(f"from tests.settings import *\n{text}\n")
        self.environment["DJANGO_SETTINGS_MODULE"] = "changed_settings"
        self.environment["PYTHONPATH"] += f":{folder}"


def start(
    command: Sequence[str],
    arguments: Sequence[str],
    env: Mapping[str, str],
    out: IO[bytes],
    err: IO[bytes],
    *,
    session: bool = False,
) -> subprocess.Popen[bytes] | WarmProcess:
    """Django's own command by a process that has Django ready, where that makes no difference.

    System checks, a third of what is left to do, have been run by the first command with the same settings.
    """
    if command == DJANGO and can_be_forked(env):
        unchecked = ["--skip-checks"] if arguments[0] == "runworker" and is_known(arguments, env) else []
        return WarmProcess([*arguments, *unchecked], env, out, err, start_new_session=session)
    return subprocess.Popen(
        [*command, *arguments],
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        start_new_session=session,
    )


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def until(condition: Callable[[], Any], timeout: float = 60.0, what: str = "it") -> Any:
    """Wait for something that must happen; fail if it does not.

    To look takes CPU, of a server or of this process, that what is waited for could use. So the longer it has taken
    already, the more rarely it is looked for: 5 to 50 ms lie between two looks.
    """
    begun = time.monotonic()
    while not (result := condition()):
        waited = time.monotonic() - begun
        assert waited < timeout, f"{what} did not happen within {timeout:g} s"
        time.sleep(min(max(0.005, waited / 20), 0.05))
    return result


@dataclass(frozen=True)
class Line:
    what: str
    id: str
    attempt: int
    losses: int
    pid: int


class Ledger:
    """What consumers wrote down (tests/project/consumers.py)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[Line] = []
        self._read = 0
        path.touch()

    def lines(self, what: str | None = None) -> list[Line]:
        """All whole lines; one that is being written right now is left for the next look."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        parts = [line.split() for line in whole.decode().splitlines()]
        self._lines += [Line(p[0], p[1], int(p[2]), int(p[3]), int(p[4])) for p in parts]
        return [line for line in self._lines if what is None or line.what == what]

    def total(self) -> int:
        """How many lines there are."""
        return len(self.lines())

    def counts(self, what: str = "ran") -> Counter[str]:
        return Counter(line.id for line in self.lines(what))


class WorkerProcess:
    """``manage.py runworker`` in a process group of its own, its log in a file."""

    def __init__(
        self,
        ledger: Ledger,
        *arguments: str,
        command: Sequence[str] = DJANGO,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.log_path = ledger.path.with_name(f"worker-{time.monotonic_ns()}.log")
        with self.log_path.open("wb") as log:
            environ = env or environment(ledger.path)
            self.process = start(command, ["runworker", "-v2", *arguments], environ, log, log, session=True)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """kill -9 of the supervisor and every process under it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(20)

    def wait(self, timeout: float = 60.0) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end:\n{self.log[-5000:]}") from None


@contextmanager
def workers(
    ledger: Ledger, *arguments: str, number: int = 1, command: Sequence[str] = DJANGO
) -> Iterator[list[WorkerProcess]]:
    """Workers that are gone at the end of the block, whatever happens in it."""
    started = [WorkerProcess(ledger, *arguments, command=command) for _ in range(number)]
    try:
        yield started
    except BaseException:
        for worker in started:
            print(f"--- log of worker {worker.process.pid}\n{worker.log[-8000:]}")
        raise
    finally:
        for worker in started:
            worker.kill_all()


def children_of(pid: int) -> list[int]:
    """The processes right below one that have not ended, from /proc (proc(5))."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [child for child in map(int, text.split()) if _runs(child)]


def _runs(pid: int) -> bool:
    """Is it there, and no zombie that nobody has waited for yet?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
