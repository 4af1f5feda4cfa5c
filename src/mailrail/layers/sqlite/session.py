"""Running statements on Django's connection: in the caller's transaction, or in a short one of our own.

A connection goes on with the file that it has opened. When that was replaced (``rm db.sqlite3; manage.py migrate``, a
backup moved into place), nobody else sees what is written. So the session looks at the file now and then.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from django.db import OperationalError, connections, transaction

from ...backoff import chance
from ...errors import LayerUnavailable
from ...transient import Remedy, remedy_for
from ...write_transactions import write_transaction
from ..tables import tables_are_missing

LOCK_TIMEOUT_S = 30.0
"""Seconds a write of ours waits for the database's one write lock, on top of the connection's own ``timeout``."""
STATEMENT_GRACE = 0.1
"""Seconds a statement gets to end in a transaction that is to be undone; then it is interrupted."""
FILE_CHECK_INTERVAL_S = 1.0
"""Seconds between two looks at the database's file, per thread."""

_any_text = partial(str, encoding="utf-8", errors="backslashreplace")


class SqliteSession:
    """Run the statements of a store on the calling thread's own connection to the database ``using``."""

    def __init__(self, using: str) -> None:
        self.using = using
        self._of_thread = threading.local()

    def run(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement that is safe to repeat, for each of these rows of values: all or none.

        For one row, it is a transaction of its own, or part of the caller's.
        """
        connection = connections[self.using]
        if len(rows) != 1:
            with self.write() as cursor:
                cursor.executemany(statement, rows)
            return
        timeout = 0.0 if connection.in_atomic_block else LOCK_TIMEOUT_S
        with connection.cursor() as cursor:
            repeat_while_locked(lambda: cursor.execute(statement, rows[0]), self.using, timeout)

    def read(self, statement: str, **values: Any) -> list[Any]:
        """Return the rows of a statement that only reads."""
        with connections[self.using].cursor() as cursor:
            rows: list[Any] = repeat_while_locked(lambda: rows_of(cursor, statement, values), self.using)
            return rows

    @contextmanager
    def write(self) -> Iterator[Any]:
        """Open a cursor in a write transaction: the caller's, if there is one, else a short one of our own."""
        connection = connections[self.using]
        with connection.cursor() as cursor:
            try:
                if connection.in_atomic_block:
                    with transaction.atomic(self.using):
                        yield cursor
                elif not connection.get_autocommit():  # the caller commits by hand
                    yield cursor
                else:
                    repeat_while_locked(lambda: cursor.execute("BEGIN IMMEDIATE"), self.using)
                    yield cursor
                    # In journal modes other than WAL, COMMIT waits for readers, and may be repeated.
                    repeat_while_locked(lambda: cursor.execute("COMMIT"), self.using)
            except BaseException as error:
                raw = connection.connection
                if not connection.in_atomic_block and connection.autocommit and raw and raw.in_transaction:
                    cursor.execute("ROLLBACK")
                check_tables(error, self.using)
                raise

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Open a ``write_transaction``, and wait for the lock as long as other writes of the layer do."""
        with ExitStack() as stack:
            repeat_while_locked(lambda: stack.enter_context(write_transaction(self.using)), self.using)
            yield

    def connect(self) -> Any:
        """Return the connection, open. Raise ``LayerUnavailable`` where connecting anew would open another file.

        A missing file is waited for.
        """
        connection, seen, now = connections[self.using], self._of_thread, time.monotonic()
        connection.ensure_connection()
        file = str(connection.settings_dict["NAME"])
        if getattr(seen, "raw", None) is not connection.connection:
            seen.raw, seen.identity, seen.at = connection.connection, _identity(file), now
        elif now - seen.at >= FILE_CHECK_INTERVAL_S:
            seen.at, identity = now, _identity(file)
            if identity is not None and identity != seen.identity:
                raise LayerUnavailable(f"the database file {file} was replaced by another")
        return connection

    def transaction_aborter(self) -> Callable[[], None]:
        """Return what rolls back and closes: the database gets nothing that the abandoned code does from then on."""
        connection = connections[self.using]
        raw = connection.connection

        def interrupt() -> None:
            with suppress(sqlite3.Error):  # closed by now
                raw.interrupt()

        def abort() -> None:
            connection.needs_rollback = True  # Django refuses statements from here on, a COMMIT too
            interrupting = threading.Timer(STATEMENT_GRACE, interrupt)
            interrupting.start()
            with suppress(sqlite3.Error), closing(raw):
                raw.rollback()  # waits for the statement that runs, if one does
            interrupting.cancel()

        return abort


def _identity(file: str) -> tuple[int, int] | None:
    try:
        status = Path(file).stat()
    except OSError:  # or it is no file: ":memory:", a URI
        return None
    return status.st_dev, status.st_ino


def rows_of(cursor: Any, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement; text that is not UTF-8, edited by hand or otherwise, has its odd bytes escaped.

    In two steps: ``execute`` returns the driver's own cursor, whose errors are not Django's.
    """
    raw = cursor.db.connection
    usual, raw.text_factory = raw.text_factory, _any_text
    try:
        cursor.execute(statement, values)
        rows: list[Any] = cursor.fetchall()
        return rows
    finally:
        raw.text_factory = usual


def repeat_while_locked(action: Callable[[], Any], using: str, timeout: float = LOCK_TIMEOUT_S) -> Any:
    """Run a statement, again while the database is locked. Only for statements that are safe to repeat."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return action()
        except OperationalError as error:
            check_tables(error, using)
            if remedy_for(error) is not Remedy.REPEAT or time.monotonic() > deadline:
                raise
        # The connection's own busy timeout has waited already; this only guards against one of 0.
        time.sleep(chance.uniform(0.001, 0.02))


def check_tables(error: BaseException, using: str) -> None:
    """Raise ``LayerUnavailable`` for a database error that means missing tables."""
    if isinstance(error, OperationalError) and "no such table: mailrail_" in str(error):
        raise tables_are_missing(error, using) from error
