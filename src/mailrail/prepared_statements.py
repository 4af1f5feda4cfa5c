"""Let PostgreSQL plan a statement once for many executions, where the connection allows that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

_pooled: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_planned_at: WeakKeyDictionary[Any, float] = WeakKeyDictionary()


def is_pooled(connection: Any) -> bool:
    """Tell whether this connection (Django's wrapper) leads to a pooler instead of one server process.

    A pooler invents the process id in the key for cancelling (PostgreSQL manual, 55.2.9). So that id differs from the
    one that the server process reports.
    """
    driver = connection.connection
    if driver not in _pooled:
        with connection.wrap_database_errors:
            (pid,) = driver.execute("SELECT pg_backend_pid()").fetchone()
        _pooled[driver] = pid != driver.info.backend_pid
    return _pooled[driver]


def execute_prepared(
    connection: Any, statement: str, values: Mapping[str, Any], plans_last: float = float("inf")
) -> list[Any]:
    """Execute a prepared statement past Django's cursor and return its rows, so that PostgreSQL plans it once.

    Behind a pooler it is executed unprepared, because the next execution may reach another server process; with
    psycopg 2, too. ``plans_last``: seconds after which plans are dropped. A plan made for a small table would scan all
    of it after it has grown, until autovacuum updates the statistics. Raises Django's database errors.
    """
    from django.db.backends.postgresql import psycopg_any

    connection.ensure_connection()
    if not psycopg_any.is_psycopg3 or is_pooled(connection):
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            rows: list[Any] = cursor.fetchall()
            return rows
    connection.validate_no_broken_transaction()
    from psycopg import Cursor

    with connection.wrap_database_errors:
        driver = connection.connection
        if plans_last < float("inf"):
            _forget_plans(driver, plans_last)
        # At once: to plan a statement may take longer than to execute it.
        usual, driver.prepare_threshold = driver.prepare_threshold, 0
        try:
            with Cursor(driver) as cursor:
                return cursor.execute(statement, values).fetchall()
        finally:
            driver.prepare_threshold = usual


def _forget_plans(driver: Any, age: float) -> None:
    now = time.monotonic()
    if now - _planned_at.setdefault(driver, now) >= age:
        driver.execute("DISCARD PLANS")
        _planned_at[driver] = now
