"""Commit on a second connection, whatever becomes of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections, transaction

from .errors import WouldDeadlock
from .transient import is_lock_timeout

LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for a lock, which the caller's own transaction may hold."""


def unpooled(connection: Any) -> Any:
    """Return another connection (Django's wrapper) to the same database, outside any pool.

    It is for code that keeps its connection, or must not wait for one.
    """
    copied = connection.copy()
    options = copied.settings_dict["OPTIONS"]
    copied.settings_dict["OPTIONS"] = {name: value for name, value in options.items() if name != "pool"}
    return copied


def is_in_transaction(using: str) -> bool:
    """Tell whether a transaction is open, also one begun by ``set_autocommit(False)``."""
    connection = connections[using]
    return connection.in_atomic_block or not connection.get_autocommit()


@contextmanager
def outside_the_transaction(using: str, hint: str) -> Iterator[None]:
    """Run the block in a transaction of its own, beside the one that the caller has open on ``using``.

    The connection is none of Django's pool, because threads that each hold one and wait for another would deadlock.
    Raises ``WouldDeadlock``, with ``hint`` as advice, if the block waits for the caller itself. On SQLite, which has
    one writer, it always does.
    """
    if not is_in_transaction(using):
        yield
        return
    if connections[using].vendor == "sqlite":
        raise WouldDeadlock(
            "immediately=True inside a transaction would wait for that very transaction: SQLite has one writer "
            f"at a time. {hint}"
        )
    usual = connections[using]
    connections[using] = unpooled(usual)
    try:
        with transaction.atomic(using):
            with connections[using].cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            yield
    except OperationalError as error:
        if not is_lock_timeout(error):
            raise
        raise WouldDeadlock(
            "immediately=True waits for something that a transaction holds: most likely this one, which has sent the "
            f"same key or to the same lane. {hint}"
        ) from error
    finally:
        connections[using].close()
        connections[using] = usual
