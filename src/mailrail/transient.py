"""Classify transient errors by their codes, for PostgreSQL, SQLite, and Redis or Valkey.

Layers, worker and mail ask here whether waiting helps. Any other error stays until somebody fixes a statement, a
permission or a disk.

Sources: PostgreSQL manual, appendix A; SQLite, "Result and Error Codes"; the error codes in ``server.c`` of Valkey.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from enum import Enum

from django.db import Error, InterfaceError, OperationalError

from .errors import LayerUnavailable

OUTAGES = (LayerUnavailable, Error, OSError)
"""What layers raise of their server or file. No worker ends over it: it tries again, whatever it is."""


class Remedy(Enum):
    """Name what to do about a transient error."""

    REPEAT = "the same again: nothing has happened, and somebody else is out of the way soon"
    RECONNECT = "again, on a new connection: this one leads nowhere, or to a server that may not write"
    WAIT = "again, later: the server itself has to recover"


SQLSTATES: Mapping[str, Remedy] = {
    "08": Remedy.RECONNECT,  # the whole class: connection exceptions
    "25006": Remedy.RECONNECT,  # read_only_sql_transaction: a standby, or a primary that was demoted
    "25P03": Remedy.RECONNECT,  # idle_in_transaction_session_timeout
    "40001": Remedy.REPEAT,  # serialization_failure
    "40P01": Remedy.REPEAT,  # deadlock_detected
    "53": Remedy.WAIT,  # the whole class: disk full, out of memory, too many connections
    "55P03": Remedy.WAIT,  # lock_not_available
    "57P01": Remedy.RECONNECT,  # admin_shutdown
    "57P02": Remedy.RECONNECT,  # crash_shutdown
    "57P03": Remedy.RECONNECT,  # cannot_connect_now
    "58": Remedy.WAIT,  # the whole class: the operating system's errors
}
"""Remedies by SQLSTATE: five characters, or the first two for a whole class."""

SQLITE_CODES: Mapping[int, Remedy] = {
    sqlite3.SQLITE_BUSY: Remedy.REPEAT,
    sqlite3.SQLITE_LOCKED: Remedy.REPEAT,
    sqlite3.SQLITE_NOMEM: Remedy.WAIT,
    sqlite3.SQLITE_READONLY: Remedy.RECONNECT,  # also READONLY_DBMOVED: another file is in its place
    sqlite3.SQLITE_IOERR: Remedy.WAIT,
    sqlite3.SQLITE_FULL: Remedy.WAIT,
    sqlite3.SQLITE_CANTOPEN: Remedy.RECONNECT,
    sqlite3.SQLITE_PROTOCOL: Remedy.WAIT,  # the locks of the WAL could not be acquired
}
"""Remedies by primary result code: the lower eight bits of an extended one."""

REDIS_CODES: Mapping[str, Remedy] = {
    "BUSY": Remedy.WAIT,  # a script runs for too long
    "CLUSTERDOWN": Remedy.REPEAT,
    "LOADING": Remedy.WAIT,
    "MASTERDOWN": Remedy.RECONNECT,
    "MISCONF": Remedy.WAIT,  # a snapshot or the append-only file cannot be written
    "NOREPLICAS": Remedy.WAIT,
    "OOM": Remedy.WAIT,
    "READONLY": Remedy.RECONNECT,  # a replica, or a master that was demoted
    "TRYAGAIN": Remedy.REPEAT,  # a slot is being moved
}
"""Remedies by the first word of the server's error reply."""

_OF_A_CLASS = {
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""The codes of those classes of redis-py whose texts leave the code out."""
_OF_THE_DATA = "WRONGTYPE"
"""The code of Redis for a key of another type: it was overwritten, and the rest of the layer can be used."""
_REDIS_REFUSES = {"AuthenticationError", "AuthorizationError"}
"""Subclasses of redis-py's ``ConnectionError`` that are not transient."""
_OF_THE_CONNECTION = {"OperationalError", "InterfaceError"}
"""The classes of DB-API drivers for errors without a code, because no server has answered (PEP 249)."""


def is_outage(error: BaseException) -> bool:
    """Tell whether waiting helps, as opposed to a statement that will be refused again."""
    return isinstance(error, OSError) or is_transient(error)


def is_transient(error: BaseException) -> bool:
    """Tell whether a retry may work later, once the server has recovered."""
    return remedy_for(error) is not None


def remedy_for(error: BaseException) -> Remedy | None:
    """Return what to do about an error of a database or a layer; ``None`` if it is not transient.

    Django's exceptions wrap those of the driver, whose code decides. ``LayerUnavailable`` is transient, unless it is
    about an overwritten key.
    """
    if isinstance(error, LayerUnavailable):
        if str(error.__cause__).startswith(_OF_THE_DATA):
            return None
        return (error.__cause__ and remedy_for(error.__cause__)) or Remedy.WAIT
    if isinstance(error, Error) and error.__cause__ is not None:
        return remedy_for(error.__cause__)
    if (code := sqlstate_of(error)) is not None:
        return SQLSTATES.get(code) or SQLSTATES.get(code[:2])
    if isinstance(number := getattr(error, "sqlite_errorcode", None), int):
        return SQLITE_CODES.get(number & 0xFF)
    # redis-py may not be installed, so its classes are compared by name.
    if names := [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "redis.exceptions"]:
        return _of_redis(error, names)
    return Remedy.RECONNECT if _is_of_the_connection(error) else None


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that psycopg 3 or psycopg 2 gives to an error, or to the cause of Django's error."""
    for exception in (error, error.__cause__):
        code = getattr(exception, "sqlstate", None) or getattr(exception, "pgcode", None)
        if isinstance(code, str):
            return code
    return None


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether PostgreSQL has ended a statement because it has waited too long for a lock."""
    return sqlstate_of(error) == "55P03"


def _of_redis(error: BaseException, names: list[str]) -> Remedy | None:
    code = next((_OF_A_CLASS[name] for name in names if name in _OF_A_CLASS), None)
    if code is None and "ResponseError" in names:
        code = str(error).partition(" ")[0]
    if code is not None:
        return REDIS_CODES.get(code)
    is_lost = {"ConnectionError", "TimeoutError"} & {*names} and not _REDIS_REFUSES & {*names}
    return Remedy.RECONNECT if is_lost else None


def _is_of_the_connection(error: BaseException) -> bool:
    if isinstance(error, OperationalError | InterfaceError):
        return True
    kinds = type(error).__mro__
    is_of_a_driver = any(kind.__name__ == "Error" and kind.__base__ is Exception for kind in kinds)
    return is_of_a_driver and any(kind.__name__ in _OF_THE_CONNECTION for kind in kinds)
