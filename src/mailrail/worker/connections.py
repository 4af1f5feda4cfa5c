"""Django's database connections around a consumer, in a thread that lives long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import Error, connections

IDLE_BEFORE_CHECK = 5.0
"""Seconds a thread may have been idle before its connections are tried before they are used again."""

_of_thread = threading.local()
_outages = 0


def tidy_before() -> None:
    """Drop connections that died while the thread was idle (a server restart, a firewall). Raises nothing."""
    if getattr(_of_thread, "outages", _outages) != _outages:
        close_connections()
    _of_thread.outages = _outages
    idle_since: float | None = getattr(_of_thread, "idle_since", None)
    if idle_since is None or time.monotonic() - idle_since < IDLE_BEFORE_CHECK:
        return
    for connection in connections.all(initialized_only=True):
        with _closing_if_broken(connection):
            if connection.connection is not None and not connection.is_usable():
                connection.close()


def tidy_after() -> None:
    """Leave no transaction open, and drop connections that had errors or are past their age. Raises nothing.

    ``CONN_MAX_AGE = 0``, Django's default, means the end of a request. A worker's thread has none, and connecting
    anew for each message would cost more than most consumers do: there, it means to keep the connection.
    """
    _of_thread.idle_since = time.monotonic()
    for connection in connections.all(initialized_only=True):
        connection.queries_log.clear()  # DEBUG = True would collect them for ever
        if connection.connection is None:
            continue
        with _closing_if_broken(connection):
            if connection.in_atomic_block or not connection.get_autocommit():
                _start_anew(connection)
                continue
            if connection.settings_dict["CONN_MAX_AGE"] == 0:
                connection.close_at = None
            connection.close_if_unusable_or_obsolete()


def _start_anew(connection: Any) -> None:
    """Roll back a transaction the consumer left open; the wrapper itself would remember it."""
    connection.close()
    del connections[connection.alias]


@contextmanager
def _closing_if_broken(connection: Any) -> Iterator[None]:
    try:
        yield
    except Error:
        connection.connection = None  # it cannot even be closed


def close_connections() -> None:
    """Close the calling thread's connections: it is about to end, or they are suspect."""
    for connection in connections.all(initialized_only=True):
        with _closing_if_broken(connection):
            connection.close()


def distrust_connections() -> None:
    """After an outage no thread goes on with what it had opened: that may lead to a server, or a file, of before."""
    global _outages
    _outages += 1
    close_connections()
