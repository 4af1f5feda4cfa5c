"""Connections that stay open between emails: one pool for each server and process."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .connection import Connection
from .driver import drive_together
from .errors import PoolExhausted
from .replies import Stage
from .server import SmtpServer


class Pool:
    """Share connections between threads: each belongs to one caller at a time. The one used last is taken first."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self._changed = threading.Condition()
        self._idle: list[Connection] = []
        self._taken: set[Connection] = set()
        self._waiting = 0

    @property
    def has_waiting(self) -> bool:
        """Tell whether somebody waits for a connection."""
        return self._waiting > 0

    def take(self, timeout: float | None = None) -> Connection:
        """Return a connection, not necessarily open; give it back. Raise ``PoolExhausted`` after ``timeout`` seconds.

        The default is the server's ``pool_timeout``.
        """
        seconds = self.server.pool_timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(self._taken) >= self.server.pool_size:
                left = deadline - time.monotonic()
                if left <= 0 or not self._wait(left):
                    raise PoolExhausted(
                        f"All {self.server.pool_size} connections to {self.server.host} were in use for {seconds:g} s",
                        Stage.CONNECT,
                    )
            taken = self._idle.pop() if self._idle else Connection(self.server)
            self._taken.add(taken)
            return taken

    def _wait(self, seconds: float) -> bool:
        self._waiting += 1
        try:
            return self._changed.wait(seconds)
        finally:
            self._waiting -= 1

    def give_back(self, connection: Connection) -> None:
        """Whatever state it is in: broken ones are not kept."""
        with self._changed:
            self._taken.discard(connection)
            if connection.is_open:
                self._idle.append(connection)
            self._changed.notify()
        if connection.is_open:
            _keep(self)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        taken = self.take()
        try:
            yield taken
        finally:
            self.give_back(taken)

    def close(self) -> None:
        """Say goodbye to the idle ones. Those in use go on, and are kept again when they come back."""
        with self._changed:
            idle, self._idle = self._idle, []
        drive_together([connection.quit() for connection in idle])

    def forget(self) -> None:
        """Forget all connections in a forked child: they are the parent's, even one in use, which is opened anew here.

        Closing our copies of them says nothing to anybody.
        """
        for connection in (*self._idle, *self._taken):
            connection.close()
        self.__init__(self.server)  # type: ignore[misc]  # the lock may be held by a thread that is not here


MAX_IDLE_POOLS = 32
"""Pools with idle connections, in one process: who logs in for each of many customers would fill it with sockets."""

_pools: dict[SmtpServer, Pool] = {}
_keeping: dict[Pool, None] = {}  # those that may have idle connections; the one used last is the last
_last_kept: Pool | None = None  # the last of those, so that most emails need no lock
_lock = threading.Lock()


def _keep(pool: Pool) -> None:
    """Note that a pool has idle connections. Those of the pool that was unused for longest may have to close."""
    global _last_kept
    if pool is _last_kept:
        return
    with _lock:
        _last_kept = pool
        _keeping.pop(pool, None)
        _keeping[pool] = None
        unused = list(_keeping)[:-MAX_IDLE_POOLS]
        for idle in unused:
            del _keeping[idle]
    for idle in unused:
        idle.close()


def pool_of(server: SmtpServer) -> Pool:
    """Return the pool that all users of an equal ``server`` share in this process."""
    if (pool := _pools.get(server)) is not None:
        return pool
    with _lock:
        return _pools.setdefault(server, Pool(server))


def close_all(connections: Sequence[Connection]) -> None:
    """Say goodbye on those that are open."""
    drive_together([connection.quit() for connection in connections if connection.is_open])


def close_pools() -> None:
    """Close what is idle, in all pools."""
    with _lock:
        pools = list(_pools.values())
    for pool in pools:
        pool.close()


def _forget_all() -> None:
    global _lock, _last_kept
    _lock, _last_kept = threading.Lock(), None
    _keeping.clear()
    for pool in _pools.values():
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(close_pools)
