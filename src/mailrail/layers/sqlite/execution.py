"""Running statements on Django's connection: in the caller's transaction, or in a short one of our own."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

from django.db import OperationalError, transaction

from ...transient import Remedy, remedy_for
from ..database import DatabaseChannelLayer, tables_are_missing

PATIENCE = 30.0
"""Seconds a write of ours waits for the database's one write lock, on top of the connection's own ``timeout``."""
STATEMENT_GRACE = 0.1
"""Seconds a statement gets to end in a transaction that is to be undone; then it is interrupted."""

_any_text = partial(str, encoding="utf-8", errors="backslashreplace")


class SqliteExecution(DatabaseChannelLayer):
    """How the verbs below run their statements."""

    @contextmanager
    def _write(self) -> Iterator[Any]:
        """A cursor in a write transaction: the caller's, if there is one, else a short one of our own."""
        connection = self._connection
        with plain_words(self.using):
            if connection.in_atomic_block:
                with transaction.atomic(self.using), connection.cursor() as cursor:
                    yield cursor
            elif not connection.get_autocommit():  # the caller commits by hand
                with connection.cursor() as cursor:
                    yield cursor
            else:
                with connection.cursor() as cursor:
                    yield from self._short_transaction(cursor)

    def _short_transaction(self, cursor: Any) -> Iterator[Any]:
        patiently(lambda: cursor.execute("BEGIN IMMEDIATE"))
        try:
            yield cursor
            # In journal modes other than WAL, COMMIT waits for readers, and may be repeated.
            patiently(lambda: cursor.execute("COMMIT"))
        except BaseException:
            if self._connection.connection is not None and self._connection.connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Takes the write lock at the start: a transaction that reads first and writes later may fail half-way."""
        connection = self._connection
        connection.ensure_connection()  # which sets the mode that the settings ask for
        mode, connection.transaction_mode = connection.transaction_mode, "IMMEDIATE"
        with ExitStack() as stack:
            try:
                patiently(lambda: stack.enter_context(transaction.atomic(self.using)))
            finally:
                connection.transaction_mode = mode
            yield

    def breaker(self) -> Callable[[], None]:
        """Rolls back and closes: whatever the abandoned code does from then on, it does not do to the database."""
        connection = self._connection
        raw = connection.connection

        def interrupt() -> None:
            with suppress(sqlite3.Error):  # closed by now
                raw.interrupt()

        def undo() -> None:
            connection.needs_rollback = True  # Django refuses statements from here on, a COMMIT too
            interrupting = threading.Timer(STATEMENT_GRACE, interrupt)
            interrupting.start()
            with suppress(sqlite3.Error), closing(raw):
                raw.rollback()  # waits for the statement that runs, if one does
            interrupting.cancel()

        return undo

    def _read(self, statement: str, **values: Any) -> list[Any]:
        with plain_words(self.using), self._connection.cursor() as cursor:
            rows: list[Any] = patiently(partial(rows_of, cursor, statement, values))
            return rows


def rows_of(cursor: Any, statement: str, values: Mapping[str, Any]) -> list[Any]:
    """What a statement returns; text that is not UTF-8, edited by hand or otherwise, with its odd bytes escaped.

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


def ids_of(ids: Iterable[UUID]) -> str:
    return json.dumps([id.hex for id in ids])


# -- the one write lock -----------------------------------------------------------------------------------------


def patiently(action: Any) -> Any:
    """Run a statement, again while the database is locked. Only for statements that are safe to repeat."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except OperationalError as error:
            if remedy_for(error) is not Remedy.REPEAT or time.monotonic() > deadline:
                raise
        # The connection's own busy timeout has waited already; this only guards against one of 0.
        time.sleep(random.uniform(0.001, 0.02))


@contextmanager
def plain_words(using: str) -> Iterator[None]:
    """Say what a database error means for the layer, where that is known."""
    try:
        yield
    except OperationalError as error:
        if "no such table: mailrail_" in str(error):
            raise tables_are_missing(error, using) from error
        raise
