"""Django's pool of connections to PostgreSQL, in a worker: a broken connection is replaced at once.

psycopg_pool can check each connection that it hands out. From the second broken one on, its check sleeps for 1 s, 2 s,
4 s and so on (``ConnectionPool._getconn_with_check_loop``, since 3.2.1). A thread that is alone with a pool of four
sleeps for 7 s after a server has ended all connections. So the check is done here, and the first broken connection
empties the pool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from .log import logger

MAX_ATTEMPTS = 10
"""Broken connections in a row until the error is raised, for a server that ends each connection at once."""

_emptied_at: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
_lock = threading.Lock()


def replace_broken_connections(wrapper: Any) -> None:
    """Check each connection that ``wrapper``, a class of Django's database wrappers, takes from a pool.

    Overriding ``get_new_connection`` on the class works for all threads and all versions. Django 5.2 passes a check of
    its own to the pool, and refuses another. The signal ``connection_created`` may reach other receivers first.
    """
    take = wrapper.get_new_connection
    if getattr(take, "replaces_broken", False):
        return

    @wraps(take)
    def get_new_connection(self: Any, conn_params: dict[str, Any]) -> Any:
        if not self.pool:
            return take(self, conn_params)
        return _take_working(self, lambda: take(self, conn_params))

    get_new_connection.replaces_broken = True  # type: ignore[attr-defined]
    wrapper.get_new_connection = get_new_connection


def _take_working(connection: Any, take: Callable[[], Any]) -> Any:
    """Return a connection of the driver's that answers. Raise the driver's error if ten in a row do not."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        asked_at = time.monotonic()
        raw = take()
        try:
            connection.pool.check_connection(raw)
        except connection.Database.Error as error:
            connection.pool.putconn(raw)  # which throws it away, and opens another
            if attempt == MAX_ATTEMPTS:
                raise
            _empty(connection, asked_at, error)
        else:
            return raw
    raise AssertionError


def _empty(connection: Any, asked_at: float, error: Exception) -> None:
    """Close what is idle in the pool, unless another thread has done so since this one asked for its connection.

    The others wait for that: until then they would be given one broken connection after the other.
    """
    pool = connection.pool
    with _lock:
        if _emptied_at.get(pool, 0.0) > asked_at:
            return
        logger.info(
            "database %r: a connection was broken, so its pool is emptied: %s", connection.alias, error
        )
        # Before 3.3 there is no ``drain``. ``check`` asks each idle connection, which takes as long as their answers.
        getattr(pool, "drain", pool.check)()
        _emptied_at[pool] = time.monotonic()
