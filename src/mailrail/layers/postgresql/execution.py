"""Running statements on Django's connection: in the caller's transaction, or in short ones of our own."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import OperationalError, ProgrammingError, transaction

from ...prepared_statements import execute_prepared
from ...transient import Remedy, remedy_for, sqlstate_of
from ..database import DatabaseChannelLayer, tables_are_missing

MOST_TRIES = 10

# SQLSTATEs that say something of their own to us (PostgreSQL manual, appendix A); ``transient`` has those that pass.
UNDEFINED_TABLE = "42P01"

PLANS_LAST_S = 5.0
"""Seconds that plans are kept: one made while the queue was empty would read the whole of a long one."""

Result = TypeVar("Result")

_OUR_TABLE = re.compile(r"\bmailrail_[a-z]+\b")
"""Those of apps on top have a second underscore in their names."""


class PostgresqlExecution(DatabaseChannelLayer):
    """How the verbs below run their statements."""

    @contextmanager
    def _write(self) -> Iterator[Any]:
        """A cursor in a transaction: the caller's, if there is one, else a short one of our own."""
        with (
            plain_words(self.using),
            self._reading_committed(),
            transaction.atomic(self.using, savepoint=False),
            self._connection.cursor() as cursor,
        ):
            yield cursor

    @contextmanager
    def _reading_committed(self) -> Iterator[None]:
        """Open a transaction in which each statement sees what others have committed before it. OPTIONS or the role may
        ask for another isolation level. Lanes and token buckets would go wrong, or fail, on an old snapshot."""
        if self._is_in_transaction():
            yield
            return
        from psycopg import IsolationLevel

        driver = self._connection.connection
        usual, driver.isolation_level = driver.isolation_level, IsolationLevel.READ_COMMITTED
        try:
            yield
        finally:
            if not driver.closed:
                driver.isolation_level = usual

    def _execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """One statement: a transaction of its own, or part of the caller's."""
        with plain_words(self.using), self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _execute_prepared(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """One of the worker's statements."""
        with plain_words(self.using):
            return execute_prepared(self._connection, statement, values, PLANS_LAST_S)

    def _patiently(self, action: Callable[[], Result]) -> Result:
        """Again after a deadlock or a serialization failure, if the transaction is ours: nothing has happened."""
        tries = 0
        while True:
            try:
                return action()
            except OperationalError as error:
                tries += 1
                may_help = tries < MOST_TRIES and remedy_for(error) is Remedy.REPEAT
                if not may_help or self._is_in_transaction():
                    raise
            time.sleep(random.uniform(0, 0.01 * tries))

    def _is_in_transaction(self) -> bool:
        """Also in one that ``set_autocommit(False)`` has begun."""
        return self._connection.in_atomic_block or not self._connection.get_autocommit()

    @contextmanager
    def atomic(self) -> Iterator[None]:
        with transaction.atomic(self.using):
            yield


@contextmanager
def plain_words(using: str) -> Iterator[None]:
    """Say what a database error means for the layer, where that is known."""
    try:
        yield
    except ProgrammingError as error:
        if sqlstate_of(error) == UNDEFINED_TABLE and _OUR_TABLE.search(str(error).partition("\n")[0]):
            raise tables_are_missing(error, using) from error
        raise
