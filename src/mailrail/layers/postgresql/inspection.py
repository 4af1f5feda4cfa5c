"""Inspection of the database layer on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from ...messages import DeadMessage, Message, MessageSummary, Place
from ..database import read_dead, read_message, read_summary
from ..inspection import ERROR_LENGTH, PREVIEW_LENGTH, WINDOW, Waiting
from .execution import PostgresqlExecution
from .statements import STATEMENTS

FIRST: Place = (float("-inf"), UUID(int=0))
LAST: Place = (float("inf"), UUID(int=0))
SHOWN = {"preview": PREVIEW_LENGTH, "error_length": ERROR_LENGTH}


class PostgresqlInspection(PostgresqlExecution):
    """Run one statement for each verb."""

    def list_channels(self) -> list[str]:
        return sorted(
            channel for (channel,) in self._execute(STATEMENTS["list_channels"], {}) if self._owns(channel)
        )

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[MessageSummary]:
        at, id = after or FIRST
        most = max(limit, WINDOW // max(1, len(channels))) if state == "claimed" else limit
        values = {"channels": list(channels), "limit": limit, "most": most, "after_at": at, "after_id": id}
        statement = STATEMENTS["list_waiting" if state is None else f"list_waiting_{state}"]
        return [read_summary(row) for row in self._execute(statement, values | SHOWN)]

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        at, id = before or LAST
        values: dict[str, Any] = {"channels": list(channels), "limit": limit}
        values |= {"before_at": at, "before_id": id, "error_class": error_class}
        statement = STATEMENTS["list_dead" if error_class is None else "list_dead_of_class"]
        return [read_summary(row, is_dead=True) for row in self._execute(statement, values | SHOWN)]

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return sorted(
            name for (name,) in self._execute(STATEMENTS["error_classes"], {"channels": list(channels)})
        )

    def get(self, channel: str, id: UUID) -> Message | None:
        rows = self._execute(STATEMENTS["get"], {"channel": channel, "id": id})
        return read_message(rows[0]) if rows else None

    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        rows = self._execute(STATEMENTS["get_dead"], {"channel": channel, "id": id})
        return read_dead(rows[0]) if rows else None
