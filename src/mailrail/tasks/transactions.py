"""Keep the transactions of a task apart from the writes about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from mailrail import WouldDeadlock
from mailrail.log import logger_of
from mailrail.second_connection import is_in_transaction, outside_the_transaction
from mailrail.worker.connections import is_held, open_connections, start_anew

from .compat import InvalidTask

logger = logger_of("mailrail.tasks")

_WRITING = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "TRUNCATE"})
"""First words of statements that write."""


@contextmanager
def closing_transactions(path: str) -> Iterator[None]:
    """Close what the block leaves open: the next statement on this thread is about the task, and has to be committed.

    Raises ``TransactionManagementError`` if the block has ended well with writes that were not committed, for these
    are rolled back. ``path``: what errors call the task.
    """
    before = {connection.alias for connection in _open()}
    try:
        yield
    except BaseException:
        _close(before)
        raise
    if left := _close(before):
        raise TransactionManagementError(
            f"{path} has ended inside a transaction, which has been rolled back, on: {', '.join(left)}. "
            "Commit, or leave the block of transaction.atomic()."
        )


def open_blocks() -> dict[str, int]:
    """Return how many blocks of ``transaction.atomic`` are open on this thread, by the alias of their database.

    A transaction that ``set_autocommit(False)`` has begun counts as a database without a block.
    """
    return {connection.alias: len(connection.atomic_blocks) for connection in _open()}


@contextmanager
def writing_only_into(using: str, what: str) -> Iterator[None]:
    """Refuse statements of this thread that write into other databases while the block runs, by ``InvalidTask``.

    ``what``: how the error calls the block. A statement that writes is known by its first word.
    """

    def look(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if isinstance(sql, str) and sql.lstrip("( \n").partition(" ")[0].upper() in _WRITING:
            other = repr(context["connection"].alias)
            raise InvalidTask(
                f"{what} has atomic=True and writes into the database {other}. What it returns is kept in {using!r}, "
                f"so both cannot be committed at once. Write into {other} in a step of its own, without atomic."
            )
        return execute(sql, params, many, context)

    with ExitStack() as stack:
        for connection in connections.all():
            if connection.alias != using:
                stack.enter_context(connection.execute_wrapper(look))
        yield


def _open() -> Iterator[Any]:
    """Yield the connections of this thread that have a transaction open, or would begin one."""
    for connection in open_connections():
        is_off = connection.settings_dict["AUTOCOMMIT"] and not connection.autocommit
        if (connection.in_atomic_block or is_off) and is_held(connection):
            yield connection


def _close(before: set[str]) -> list[str]:
    """Close the transactions that are new, and return the aliases of those that had not been committed."""
    new = [connection for connection in _open() if connection.alias not in before]
    left = [
        repr(connection.alias) for connection in new if connection.in_atomic_block or _is_pending(connection)
    ]
    for connection in new:
        start_anew(connection)
    return left


def _is_pending(connection: Any) -> bool:
    driver = connection.connection
    if connection.vendor == "sqlite":
        return bool(driver.in_transaction)
    info = getattr(driver, "info", None)
    return getattr(info, "transaction_status", 1) != 0  # 0: libpq's PQTRANS_IDLE


def write_beside(write: Callable[[], object], using: str) -> None:
    """Write about a task whatever becomes of the transaction that it has open, and lock nothing until its end.

    On PostgreSQL that takes a connection of its own. On SQLite, which has one writer, it comes with the commit.
    """
    connection = connections[using]
    if not is_in_transaction(using):
        write()
    elif connection.vendor != "postgresql":
        if connection.in_atomic_block:
            transaction.on_commit(write, using, robust=True)
    else:
        try:
            with outside_the_transaction(using, ""):
                write()
        except WouldDeadlock:
            logger.warning("progress is not written this time: the record is locked by another transaction")
