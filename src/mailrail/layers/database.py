"""The database layer: messages as rows, next to the records they point at.

``DatabaseChannelLayer(using="default")`` is the layer of that database's vendor; this module holds what the
vendors share.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import Error, connections
from django.utils.connection import ConnectionDoesNotExist

from ..errors import InvalidSettings, LayerUnavailable
from ..messages import DeadMessage, Message, MessageSummary, decode
from ..namespace import current, owns
from ..tracebacks import error_class
from .base import DurableLayer
from .channels_bridge import LocalChannels

COLUMNS = (
    *(
        "id",
        "channel",
        "content",
        "headers",
        "v",
        "lane",
        "lane_seq",
        "attempt",
        "losses",
        "alone",
        "max_attempts",
    ),
    *("priority", "due", "expires", "sent_at", "key", "worker", "token"),
)
"""Of a message, as all statements that return whole ones name them and ``read_message`` takes them."""

SHIFTED = ("messages", "dead", "buckets", "workers")
"""What holds times; there is a statement ``shift_…`` for each."""


class DatabaseChannelLayer(LocalChannels, DurableLayer):
    """``CONFIG``: ``using`` (database alias), ``routing``, and Channels' own options for ``!`` names and groups."""

    is_durable = True
    is_shared = True
    joins_transactions = True
    supports_atomic = True

    #: What the stored names of its channels, buckets and workers begin with, where the project has a namespace.
    prefix = ""

    def __new__(cls, *, using: str = "default", **config: Any) -> DatabaseChannelLayer:
        if cls is DatabaseChannelLayer:
            cls = class_for(using)
            if current():
                from .namespaced import NamespacedLayer

                cls = NamespacedLayer
        layer: DatabaseChannelLayer = object.__new__(cls)
        return layer

    def _owns(self, name: str) -> bool:
        """Tell whether a stored name is one of the layer's namespace: without one, names that have one are others'."""
        return owns(name, self.prefix)

    @property
    def _connection(self) -> Any:
        """The calling thread's own connection."""
        return connections[self.using]


def class_for(using: str) -> type[DatabaseChannelLayer]:
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
        from .sqlite import SqliteLayer

        return SqliteLayer
    if vendor == "postgresql":
        if find_spec("psycopg") is None:
            raise InvalidSettings(
                f"The database layer needs psycopg 3 for DATABASES[{using!r}], and it is not installed: "
                'pip install "mailrail[postgresql]".'
            )
        from .postgresql import PostgresqlLayer

        return PostgresqlLayer
    raise InvalidSettings(
        f"The database layer runs on PostgreSQL and SQLite, and DATABASES[{using!r}] is {vendor}. "
        'Put one of these into DATABASES and name it: "CONFIG": {"using": "…"}.'
    )


def lacks_tables(using: str) -> str | None:
    """What to say of a database in which one of Mailrail's tables is missing. Asks it; raises ``LayerUnavailable``."""
    try:
        with connections[using].cursor() as cursor:
            found = connections[using].introspection.table_names(cursor)
    except Error as error:
        raise LayerUnavailable(f"The database {using!r} cannot be asked for its tables: {error}") from error
    wanted = [model._meta.db_table for model in apps.get_app_config("mailrail").get_models()]
    if not (missing := [table for table in wanted if table not in found]):
        return None
    return (
        f"The database {using!r} has no table {missing[0]}: no send can be kept there. Run: {_migrate(using)}"
    )


def _migrate(using: str) -> str:
    database = "" if using == "default" else f" --database {using}"
    return f"python manage.py migrate mailrail{database}"


def tables_are_missing(error: Exception, using: str) -> LayerUnavailable:
    """What to raise when the tables are not there."""
    [first, *_] = str(error).splitlines()
    first_of_all = "" if apps.is_installed("mailrail") else 'Put "mailrail" at the top of INSTALLED_APPS. '
    return LayerUnavailable(f"{first.rstrip('.')}. {first_of_all}Run: {_migrate(using)}")


def storable(text: str) -> str:
    """Text as every database takes it: no zero bytes (PostgreSQL), no halves of surrogate pairs (UTF-8)."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def read_message(row: Sequence[Any]) -> Message:
    """Build a message from the columns ``COLUMNS`` of a row; whatever is unreadable becomes its ``defect``.

    Behind them, perhaps, the column ``error``.
    """
    id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, *rest = row
    priority, due, expires, sent_at, key, worker, token, *error = rest
    content, headers, defect = decode(content, headers, v)
    try:
        return Message(
            channel=channel,
            content=content,
            id=_read_id(id),
            headers=headers,
            v=v,
            lane=lane,
            lane_seq=lane_seq,
            attempt=int(attempt),
            losses=int(losses),
            alone=bool(alone),
            max_attempts=None if max_attempts is None else int(max_attempts),
            priority=int(priority),
            due=float(due),
            expires=None if expires is None else float(expires),
            sent_at=float(sent_at),
            key=key,
            worker=worker,
            token=token,
            defect=defect,
            error=error[0] if error else "",
        )
    except (TypeError, ValueError, OverflowError) as error:
        return Message(
            channel=channel,
            content=content,
            id=_read_id(id),
            due=due if isinstance(due, float) else 0.0,
            token=token,
            defect=f"its row cannot be read: {error}",
        )


def _read_id(id: object) -> UUID:
    """Zero for what is no id. Only SQLite can hold such a thing, and its ``claim`` gives it another."""
    try:
        return id if isinstance(id, UUID) else UUID(str(id))
    except ValueError:
        return UUID(int=0)


def read_dead(row: Sequence[Any]) -> DeadMessage:
    """Build a dead message from its columns, those of ``read_message`` first."""
    *columns, error, buried_at = row
    return DeadMessage(read_message(columns), error, float(buried_at))


def read_summary(row: Sequence[Any], is_dead: bool = False) -> MessageSummary:
    """Build a summary from the columns of a row as ``list_waiting.sql`` or ``list_dead.sql`` return them."""
    id, channel, at, state, preview, attempt, losses, priority, lane, key, *rest = row
    if is_dead:
        worker, (died_of, error) = None, rest
    else:
        worker, error = rest
        died_of = error_class(error)
    return MessageSummary(
        channel=str(channel),
        id=_read_id(id),
        at=float(at) if isinstance(at, int | float) else 0.0,
        state=state,
        preview=str(preview),
        attempt=_whole(attempt),
        losses=_whole(losses),
        priority=_whole(priority),
        lane=lane,
        key=key,
        worker=None if worker is None else str(worker),
        error_class=str(died_of),
        error=str(error),
    )


def _whole(value: Any) -> int:
    """Only SQLite can hold another thing in a column of numbers."""
    return value if isinstance(value, int) else 0
