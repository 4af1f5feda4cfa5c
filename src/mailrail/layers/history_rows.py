"""Rows of the tables of history as values, and back: the same on every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .history import BUCKETS, NO_TIMES, HistoryRow, Series, TroubleRow


def read_row(series: Series, start: float | None, values: Sequence[Any]) -> HistoryRow:
    """Build a row from its sums, as the statements name them: the counts, the longest wait, both histograms, if any."""
    sent, done, retried, buried, expired, longest_wait, *times = values
    waits, runs = (tuple(times[:BUCKETS]), tuple(times[BUCKETS:])) if times else (NO_TIMES, NO_TIMES)
    return HistoryRow(
        series,
        start,
        sent=sent,
        done=done,
        retried=retried,
        buried=buried,
        expired=expired,
        longest_wait=longest_wait,
        waits=waits,
        runs=runs,
    )


def read_trouble(row: Sequence[Any]) -> TroubleRow:
    """Build the group of a row of ``troubles.sql``."""
    return TroubleRow(*row)
