"""Layers that note in the ledger what workers hand to the history, and a routing whose outcomes are noted, too.

Heartbeats come often, so that workers that are killed at random have sent some. So this is for workers alone to import.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mailrail.layers import DatabaseChannelLayer, RedisChannelLayer
from mailrail.layers.history import HistoryRow, TroubleRow
from mailrail.routing import route
from mailrail.signals import message_finished
from mailrail.worker import leases

leases.HEARTBEAT_INTERVAL_S = 0.25
SERIES = ("channel", "counted")


def note(what: str, number: int) -> None:
    """Append a line to the ledger, in one atomic step."""
    with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
        ledger.write(f"{what} - {number} 0 {os.getpid()}\n")


class Recording:
    """Note the messages of each call: before it, and once it has returned."""

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow] = ()) -> None:
        done = sum(row.done for row in rows if row.series == SERIES)
        if rows:  # troubles come in a call of their own
            note("recording", done)
        super().record(rows, troubles)  # type: ignore[misc]
        if rows:
            note("recorded", done)


class RecordingDatabaseLayer(Recording, DatabaseChannelLayer):
    """The database layer."""


class RecordingRedisLayer(Recording, RedisChannelLayer):
    """The Redis layer."""


def work(message: Any) -> None:
    time.sleep(0.002)


def published(sender: Any, outcome: str, **facts: Any) -> None:
    if outcome == "finished":
        note("published", 1)


message_finished.connect(published, dispatch_uid="tests.recording")
routing = [route("counted", work)]
