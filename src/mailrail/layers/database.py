"""The database layer: messages as rows, next to the records they point at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from ..errors import InvalidSettings
from ..messages import Message
from ..namespace import prefix
from ..second_connection import outside_the_transaction
from .channels_bridge import LocalChannels
from .layer import DurableLayer
from .store import DatabaseStore


class DatabaseChannelLayer(LocalChannels, DurableLayer):
    """``CONFIG``: ``using`` (database alias), ``routing``, and Channels' own options for ``!`` names and groups."""

    is_durable = True
    is_shared = True
    joins_transactions = True
    supports_atomic = True

    def __init__(self, *, using: str = "default", routing: str | None = None, **of_channels: Any) -> None:
        LocalChannels.__init__(self, **of_channels)
        self._database = store_of(using)
        DurableLayer.__init__(self, self._database, using, routing, prefix())

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        hint = "Leave it out (the message is sent when the transaction commits), or send before atomic()."
        with outside_the_transaction(self.using, hint):
            return self.enqueue(messages)

    def atomic(self) -> AbstractContextManager[None]:
        return self._database.atomic()

    def transaction_aborter(self) -> Callable[[], None]:
        return self._database.transaction_aborter()


def store_of(using: str) -> DatabaseStore:
    """Return the store for this database. Raises ``InvalidSettings`` for one that cannot be used."""
    try:
        connection = connections[using]
    except ConnectionDoesNotExist:
        raise InvalidSettings(
            f"The database layer uses the database {using!r}, which is not in DATABASES."
        ) from None
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise InvalidSettings(
            f"DATABASES[{using!r}]['AUTOCOMMIT'] is False: nobody would commit what the database layer writes. "
            'Leave it out, or name another database: "CONFIG": {"using": "…"}.'
        )
    vendor = connection.vendor
    if vendor == "sqlite":
        from .sqlite import SqliteStore

        return SqliteStore(using)
    if vendor == "postgresql":
        if find_spec("psycopg") is None:
            raise InvalidSettings(
                f"The database layer needs psycopg 3 for DATABASES[{using!r}], and it is not installed: "
                'pip install "mailrail[postgresql]".'
            )
        from .postgresql import PostgresqlStore

        return PostgresqlStore(using)
    raise InvalidSettings(
        f"The database layer runs on PostgreSQL and SQLite, and DATABASES[{using!r}] is {vendor}. "
        'Put one of these into DATABASES and name it: "CONFIG": {"using": "…"}.'
    )
