"""Inspection of the database layer on SQLite."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from uuid import UUID

from ...messages import DeadMessage, Message, MessageSummary, Place
from ..database import read_dead, read_message, read_summary
from ..inspection import ERROR_LENGTH, PREVIEW_LENGTH, Waiting
from .execution import SqliteExecution
from .statements import STATEMENTS


class SqliteInspection(SqliteExecution):
    """Run one statement for each verb."""

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
    ) -> list[MessageSummary]:
        at, id = (after[0], after[1].hex) if after else (float("-inf"), "")
        rows = self._read(
            STATEMENTS["list_waiting" if state is None else f"list_waiting_{state}"],
            channels=json.dumps(list(channels)),
            limit=limit,
            after_at=at,
            after_id=id,
            now=time.time(),
            preview=PREVIEW_LENGTH,
            error_length=ERROR_LENGTH,
        )
        return [read_summary(row) for row in rows]

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        at, id = (before[0], before[1].hex) if before else (float("inf"), "")
        rows = self._read(
            STATEMENTS["list_dead" if error_class is None else "list_dead_of_class"],
            channels=json.dumps(list(channels)),
            limit=limit,
            before_at=at,
            before_id=id,
            error_class=error_class,
            preview=PREVIEW_LENGTH,
            error_length=ERROR_LENGTH,
        )
        return [read_summary(row, is_dead=True) for row in rows]

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return sorted(
            name for (name,) in self._read(STATEMENTS["error_classes"], channels=json.dumps(list(channels)))
        )

    def get(self, channel: str, id: UUID) -> Message | None:
        rows = self._read(STATEMENTS["get"], channel=channel, id=id.hex)
        return read_message(rows[0]) if rows else None

    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        rows = self._read(STATEMENTS["get_dead"], channel=channel, id=id.hex)
        return read_dead(rows[0]) if rows else None
