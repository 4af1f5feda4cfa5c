"""Rows of the tables of history as values, and back: the same on every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .history import BUCKETS, HistoryRow, Series, TroubleRow


def read_row(series: Series, start: float | None, values: Sequence[Any]) -> HistoryRow:
    """Build a row from its sums: the counts, the longest wait, and both histograms, as the statements name them."""
    sent, done, retried, buried, expired, longest_wait, *times = values
    waits, runs = tuple(times[:BUCKETS]), tuple(times[BUCKETS:])
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
