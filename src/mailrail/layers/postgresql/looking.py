"""The database layer on PostgreSQL, as people look at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ...messages import DeadMessage, Listed, Message, Place
from .. import database_sql
from ..database import read_dead, read_listed, read_message
from ..looking import WINDOW, Waiting
from . import looking_sql as sql
from .execution import PostgresqlExecution

FIRST: Place = (float("-inf"), UUID(int=0))
LAST: Place = (float("inf"), UUID(int=0))


class PostgresqlLooking(PostgresqlExecution):
    """One statement for each verb."""

    def list_channels(self) -> list[str]:
        return sorted(channel for (channel,) in self._execute(sql.CHANNELS, {}))

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[Listed]:
        at, id = after or FIRST
        most = max(limit, WINDOW // max(1, len(channels))) if state == "claimed" else limit
        values = {"channels": list(channels), "limit": limit, "most": most, "after_at": at, "after_id": id}
        return [read_listed(row) for row in self._execute(sql.WAITING[state], values)]

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[Listed]:
        at, id = before or LAST
        values: dict[str, Any] = {"channels": list(channels), "limit": limit}
        values |= {"before_at": at, "before_id": id, "error_class": error_class}
        rows = self._execute(sql.DEAD if error_class is None else sql.DEAD_OF_CLASS, values)
        return [read_listed(row, is_dead=True) for row in rows]

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return sorted(name for (name,) in self._execute(sql.ERROR_CLASSES, {"channels": list(channels)}))

    def find(self, channel: str, id: UUID) -> Message | None:
        rows = self._execute(database_sql.FOUND, {"channel": channel, "id": id})
        return read_message(rows[0]) if rows else None

    def find_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        rows = self._execute(database_sql.FOUND_DEAD, {"channel": channel, "id": id})
        return read_dead(rows[0]) if rows else None
