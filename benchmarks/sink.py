"""The servers that take the email of benchmarks: Postfix's ``smtp-sink``, and a relay far away (relay.py)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .settings import FOLDER

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN = 10.0
_COUNT = re.compile(rb"mesg=([0-9]+)\r")


@contextmanager
def sink(counter: Path | None = None, port: int = 0) -> Iterator[int]:
    """``smtp-sink``, at the port given, or at the free one that is returned. It reads and forgets.

    ``counter``: a file in which it counts (``accepted``).
    """
    port = port or free_port()
    program = _program()
    libraries = (
        program.parent.parent / "lib" / "postfix"
    )  # where Debian's package has them, unpacked or installed
    options = [*(["-u", "nobody"] if os.geteuid() == 0 else []), *(["-c"] if counter is not None else [])]
    with (counter or Path(os.devnull)).open("wb") as output:
        process = subprocess.Popen(
            [program, *options, f"127.0.0.1:{port}", "1024"],
            env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
            stdout=output,
        )
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while not _takes_connections(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("smtp-sink does not start.")
            time.sleep(0.02)
        yield port
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def relay(seconds: float, *, pipelining: bool, counter: Path | None = None) -> Iterator[int]:
    """A server that answers each write after so many seconds. ``counter``: as for ``sink``."""
    arguments = [str(seconds), *(["pipelining"] if pipelining else [])]
    if counter is not None:
        arguments += ["--counter", str(counter)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.relay", *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def accepted(counter: Path) -> int:
    """How many emails a server has accepted so far, by its counter."""
    with counter.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 100))
        found = _COUNT.findall(file.read())
    return int(found[-1]) if found else 0


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _program() -> Path:
    """Installed, or from Debian's package, unpacked into the run's folder: nothing of Postfix is started but this."""
    if found := shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return Path(found)
    folder = FOLDER / "postfix"
    program = folder / "usr" / "sbin" / "smtp-sink"
    if not program.exists():
        folder.mkdir(exist_ok=True)
        try:
            subprocess.run(["apt-get", "-qq", "download", "postfix"], cwd=folder, check=True)
            [package] = folder.glob("postfix_*.deb")
            subprocess.run(["dpkg", "-x", package, folder], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(
                "There is no smtp-sink on the PATH, and Debian's package postfix, which has it, cannot be unpacked."
            ) from error
    return program
