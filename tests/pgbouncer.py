"""PgBouncer in front of a PostgreSQL server, in transaction mode."""

from __future__ import annotations

import os
import shutil
import signal

import psycopg

from .servers import SERVER_USER, PostgresServer, Server, run_as

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
"""Debian keeps it where only root's PATH looks."""
MISSING = "there is no pgbouncer here: apt-get install pgbouncer"

CONFIG = """
[databases]
* = host=127.0.0.1 port={target} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 200
"""


class PgBouncer(Server):
    """Gives ``size`` server processes to all clients, each for one transaction at a time."""

    name = "PgBouncer"

    def __init__(self, server: PostgresServer, size: int = 4) -> None:
        assert PROGRAM is not None, MISSING
        super().__init__()
        config = self.folder / "pgbouncer.ini"
        config.write_text(CONFIG.format(target=server.port, port=self.port, size=size))
        if os.geteuid() == 0:
            shutil.chown(self.folder, SERVER_USER)
        self._config = config
        self._start()

    def restart(self) -> None:
        """Ends at once, and every connection with it."""
        self.stop(signal.SIGKILL)
        self._start()

    def _start(self) -> None:
        self._launch([str(PROGRAM), self._config], **run_as(self.folder))

    def _answers(self) -> bool:
        try:
            psycopg.connect(
                host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True
