"""Running statements on Django's connection: in the caller's transaction, or in short ones of our own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django.db import OperationalError, ProgrammingError, connections, transaction

from ...backoff import chance
from ...prepared_statements import execute_prepared
from ...second_connection import is_in_transaction
from ...transient import Remedy, remedy_for, sqlstate_of
from ...write_transactions import reading_committed
from ..tables import tables_are_missing

MOST_TRIES = 10

# SQLSTATEs that say something of their own to us (PostgreSQL manual, appendix A); ``transient`` has those that pass.
UNDEFINED_TABLE = "42P01"

PLANS_LAST_S = 5.0
"""Seconds that plans are kept: one made while the queue was empty would read the whole of a long one."""

Result = TypeVar("Result")

_OUR_TABLE = re.compile(r"\bmailrail_[a-z]+\b")
"""Those of apps on top have a second underscore in their names."""


class PostgresqlSession:
    """Run the statements of a store on the calling thread's own connection to the database ``using``."""

    def __init__(self, using: str) -> None:
        self.using = using

    def execute(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of one statement: a transaction of its own, or part of the caller's."""

        def execute(cursor: Any) -> list[Any]:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

        return self.run(execute)

    def execute_prepared(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        """Return the rows of one of the worker's statements."""
        connection = connections[self.using]
        return self._repeat_on_conflict(lambda: execute_prepared(connection, statement, values, PLANS_LAST_S))

    def run(self, action: Callable[[Any], Result]) -> Result:
        """Return what an action with a cursor returns. It executes one statement."""

        def run() -> Result:
            with connections[self.using].cursor() as cursor:
                return action(cursor)

        return self._repeat_on_conflict(run)

    def write(self, action: Callable[[Any], Result]) -> Result:
        """Run an action in a transaction: the caller's, if there is one, else a short one of our own."""

        def write() -> Result:
            with (
                reading_committed(self.using),
                transaction.atomic(self.using, savepoint=False),
                connections[self.using].cursor() as cursor,
            ):
                return action(cursor)

        return self._repeat_on_conflict(write)

    def _repeat_on_conflict(self, action: Callable[[], Result]) -> Result:
        """Again after a deadlock or a serialization failure, if the transaction is ours: nothing has happened."""
        tries = 0
        while True:
            try:
                return action()
            except OperationalError as error:
                tries += 1
                may_help = tries < MOST_TRIES and remedy_for(error) is Remedy.REPEAT
                if not may_help or is_in_transaction(self.using):
                    raise
            except ProgrammingError as error:
                if sqlstate_of(error) == UNDEFINED_TABLE and _OUR_TABLE.search(str(error).partition("\n")[0]):
                    raise tables_are_missing(error, self.using) from error
                raise
            time.sleep(chance.uniform(0, 0.01 * tries))
