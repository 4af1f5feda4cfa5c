"""Django's database connections in a worker: of the process, of its own threads, and around a consumer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import Error, connections
from django.db.backends.signals import connection_created

from ..layers import DurableLayer
from ..second_connection import unpooled
from .log import logger
from .pooled import replace_broken_connections

IDLE_BEFORE_CHECK = 5.0
"""Seconds a thread may have been idle before its connections are tried before they are used again."""

GIVE_UP = {
    "connect_timeout": 10,  # seconds, for each address
    "tcp_user_timeout": 15_000,  # milliseconds until what was sent has to be acknowledged; Linux only
    "keepalives_idle": 5,  # seconds without a sign of the server until it is asked for one
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""A network that says nothing at all is given up after 15 seconds; the operating system takes from a quarter of an hour
to hours. It is the other machine that has to answer, not the statement, which may take its time (PostgreSQL manual,
34.1.2)."""

_of_thread = threading.local()
_outages = 0


def _note_connection(*, connection: Any, **kwargs: Any) -> None:
    if hasattr(_of_thread, "outages") and connection.settings_dict["CONN_MAX_AGE"] == 0:
        connection.close_at = None  # see ``tidy_after``
    opened = vars(_of_thread).setdefault("opened", [])
    if connection not in opened:
        opened.append(connection)


connection_created.connect(_note_connection, dispatch_uid="mailrail.worker.connections")


def open_connections() -> list[Any]:
    """Return the connections that the calling thread may have open, also those that Django does not hold for it.

    Of a worker's thread, which is watched, they are known. To look for them costs more than many a consumer.
    """
    if hasattr(_of_thread, "outages"):
        opened = getattr(_of_thread, "opened", ())
    else:
        opened = connections.all(initialized_only=True)
    return [connection for connection in opened if connection.connection is not None]


def is_held(connection: Any) -> bool:
    """Tell whether Django holds the connection for the calling thread: other code may have opened one of its own."""
    return any(held is connection for held in connections.all(initialized_only=True))


def prepare_process() -> None:
    """In a worker process, before it connects: what a database's ``OPTIONS`` need there and do not say."""
    for connection in connections.all():
        if connection.vendor != "postgresql":
            continue
        settings = connection.settings_dict  # the same dictionary for all threads
        settings["OPTIONS"] = {**GIVE_UP, **settings["OPTIONS"]}
        if settings["OPTIONS"].get("pool"):
            settings["CONN_HEALTH_CHECKS"] = False  # the pool's own check sleeps
            replace_broken_connections(type(connection))


def leave_no_pools() -> None:
    """Before a fork: a child would share the sockets of Django's pools, without the threads that look after them."""
    connections.close_all()
    for connection in connections.all(initialized_only=True):
        if hasattr(connection, "close_pool"):
            connection.close_pool()


@contextmanager
def own_connection(layer: DurableLayer) -> Iterator[None]:
    """On the calling thread, the layer's connection is in no pool of Django's.

    The threads that claim and renew use theirs all the time, and must not wait while consumers have all of a pool.
    """
    usual = connections[layer.using] if layer.joins_transactions else None
    if usual is None or not usual.settings_dict["OPTIONS"].get("pool"):
        yield
        return
    connections[layer.using] = unpooled(usual)
    try:
        yield
    finally:
        with _closing_if_broken(connections[layer.using]):
            connections[layer.using].close()
        connections[layer.using] = usual


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
    anew for each message would cost more than most consumers do: there, it means to keep the connection. One of a pool
    goes back to it.
    """
    now = _of_thread.idle_since = time.monotonic()
    opened = getattr(_of_thread, "opened", None)
    if not opened:
        return
    for connection in tuple(opened):
        connection.queries_log.clear()  # DEBUG = True would collect them for ever
        if connection.connection is None:
            opened.remove(connection)
        elif not _is_tidy(connection, now) and is_held(connection):
            with _closing_if_broken(connection):
                _tidy(connection)


def _is_tidy(connection: Any, now: float) -> bool:
    """Tell whether an open connection can be left as it is: this runs after each message, and ``_tidy`` seldom."""
    connection.health_check_done = False  # as Django has it at the end of a request
    return (
        connection.autocommit
        and not connection.in_atomic_block
        and not connection.errors_occurred
        and (connection.close_at is None or now < connection.close_at)
        and not connection.settings_dict["OPTIONS"].get("pool")
    )


def _tidy(connection: Any) -> None:
    if connection.in_atomic_block or not connection.get_autocommit():
        start_anew(connection)
    elif connection.settings_dict["OPTIONS"].get("pool"):
        connection.close()
    else:
        connection.close_if_unusable_or_obsolete()


def start_anew(connection: Any) -> None:
    """Roll back a transaction that a consumer has left open; the wrapper itself would remember it."""
    connection.close()
    del connections[connection.alias]


@contextmanager
def _closing_if_broken(connection: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # drivers, pools and other people's backends raise what they like
        if not isinstance(error, Error):
            logger.exception("the connection to database %r is given up", connection.alias)
        raw, connection.connection = connection.connection, None
        with suppress(Exception):  # it may not even be possible to close it
            raw.close()


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
