"""Transactions that read first and write later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connections, transaction


@contextmanager
def write_transaction(using: str) -> Iterator[None]:
    """Open a transaction on this database, or a savepoint in the caller's.

    On SQLite, it takes the write lock at its start, and waits for the lock as long as the connection's ``timeout``. A
    transaction that has read may not write any more once another one has committed (SQLITE_BUSY_SNAPSHOT): it fails at
    once, whatever the ``timeout``.
    """
    with ExitStack() as stack:
        with _immediate(connections[using]):
            stack.enter_context(transaction.atomic(using))
        yield


@contextmanager
def _immediate(connection: Any) -> Iterator[None]:
    """Let transactions that begin in the block begin as ``BEGIN IMMEDIATE``, if this is SQLite."""
    if connection.vendor != "sqlite":
        yield
        return
    connection.ensure_connection()  # which sets the mode that the settings ask for
    mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
    try:
        yield
    finally:
        connection.transaction_mode = mode


@contextmanager
def reading_committed(using: str) -> Iterator[None]:
    """Let a transaction that the block opens on PostgreSQL see in each statement what others have committed before it.

    OPTIONS or the role may ask for another isolation level. A transaction that is open already keeps its own.
    """
    connection = connections[using]
    if connection.vendor != "postgresql" or connection.in_atomic_block or not connection.get_autocommit():
        yield
        return
    from psycopg import IsolationLevel

    driver = connection.connection
    usual, driver.isolation_level = driver.isolation_level, IsolationLevel.READ_COMMITTED
    try:
        yield
    finally:
        if not driver.closed:
            driver.isolation_level = usual
