"""The database layer on SQLite, as people look at it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from uuid import UUID

from ...messages import DeadMessage, Listed, Message, Place
from ..database import read_dead, read_listed, read_message
from ..looking import END, EXCERPT, Waiting
from .execution import SqliteExecution
from .statements import STATEMENTS


class SqliteLooking(SqliteExecution):
    """One statement for each verb."""

    def list_channels(self) -> list[str]:
        return sorted(
            channel for (channel,) in self._read(STATEMENTS["list_channels"]) if self._owns(channel)
        )

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[Listed]:
        at, id = (after[0], after[1].hex) if after else (float("-inf"), "")
        rows = self._read(
            STATEMENTS["list_waiting" if state is None else f"list_waiting_{state}"],
            channels=json.dumps(list(channels)),
            limit=limit,
            after_at=at,
            after_id=id,
            now=time.time(),
            preview=EXCERPT,
            error_length=END,
        )
        return [read_listed(row) for row in rows]

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[Listed]:
        at, id = (before[0], before[1].hex) if before else (float("inf"), "")
        rows = self._read(
            STATEMENTS["list_dead" if error_class is None else "list_dead_of_class"],
            channels=json.dumps(list(channels)),
            limit=limit,
            before_at=at,
            before_id=id,
            error_class=error_class,
            preview=EXCERPT,
            error_length=END,
        )
        return [read_listed(row, is_dead=True) for row in rows]

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return sorted(
            name for (name,) in self._read(STATEMENTS["error_classes"], channels=json.dumps(list(channels)))
        )

    def find(self, channel: str, id: UUID) -> Message | None:
        rows = self._read(STATEMENTS["get"], channel=channel, id=id.hex)
        return read_message(rows[0]) if rows else None

    def find_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        rows = self._read(STATEMENTS["get_dead"], channel=channel, id=id.hex)
        return read_dead(rows[0]) if rows else None
