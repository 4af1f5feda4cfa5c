"""A second connection to a database, for what is to be committed whatever becomes of the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import OperationalError, connections, transaction

from .errors import WouldDeadlock
from .transient import sqlstate_of

LOCK_TIMEOUT_S = 5.0
"""Seconds for which a lock is waited for that only the caller's own transaction may hold."""
_LOCK_NOT_AVAILABLE = "55P03"


def unpooled(connection: Any) -> Any:
    """Another connection (Django's wrapper) to the same database, in no pool: for what keeps it, or must not wait."""
    other = connection.copy()
    options = other.settings_dict["OPTIONS"]
    other.settings_dict["OPTIONS"] = {name: value for name, value in options.items() if name != "pool"}
    return other


def is_in_transaction(using: str) -> bool:
    """Also in one that ``set_autocommit(False)`` has begun."""
    connection = connections[using]
    return connection.in_atomic_block or not connection.get_autocommit()


@contextmanager
def outside_the_transaction(using: str, hint: str) -> Iterator[None]:
    """Run the block in a transaction of its own, beside the one that the caller has open on ``using``.

    Never on a connection of Django's pool: threads that each hold one and wait for another would wait for each other.
    Raise ``WouldDeadlock`` where the block waits for the caller itself, and give ``hint`` as what to do. On SQLite,
    which has one writer, it always raises.
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
        if sqlstate_of(error) != _LOCK_NOT_AVAILABLE:
            raise
        raise WouldDeadlock(
            "immediately=True waits for something that a transaction holds: most likely this one, which has sent the "
            f"same key or to the same lane. {hint}"
        ) from error
    finally:
        connections[using].close()
        connections[using] = usual
