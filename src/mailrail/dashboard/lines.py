"""Bring what happened over an hour, a day or a week, for the charts of the live page."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any, NamedTuple

from mailrail.layers import default_alias, durable_aliases, get_layer
from mailrail.layers.history import ALL, HOUR, MINUTE, Series, percentile
from mailrail.messages import check_channel_name

SPANS = {"hour": (60 * MINUTE, MINUTE), "day": (24 * HOUR, 10 * MINUTE), "week": (7 * 24 * HOUR, HOUR)}
"""Seconds of each span, and of its steps."""
CACHED_S = 5
"""Seconds for which lines are the same for all who ask."""
MAX_ALIAS_LENGTH = 100


class LineQuery(NamedTuple):
    """Say whose lines are drawn, over which of ``SPANS``."""

    layer: str
    series: Series
    span: str

    @classmethod
    def read(cls, series: str, span: str) -> LineQuery:
        """Read ``all``, ``channel:name``, ``channel:layer/name`` or ``mailer:alias``. Raises ``ValueError``."""
        kind, _, name = series.partition(":")
        layer = default_alias()
        if kind == "channel":
            alias, _, channel = name.rpartition("/")
            layer, name = alias or layer, check_channel_name(channel)
        is_known = series == "all" or kind == "channel" or (kind == "mailer" and _is_alias(name))
        if not is_known or layer not in durable_aliases() or span not in SPANS:
            raise ValueError(f"There are no lines of {series!r} over {span!r}.")
        return cls(layer, ALL if series == "all" else (kind, name), span)


def lines(query: LineQuery) -> dict[str, Any]:
    """Return the lines of a series, with one number for each step; ``None`` where nothing is known.

    Counts are those of a step. The present step is left out, as it has not ended. Raises what a layer raises.
    """
    return _lines(query, int(time.time() // CACHED_S))


@lru_cache(maxsize=128)
def _lines(query: LineQuery, now: int) -> dict[str, Any]:
    length, step = SPANS[query.span]
    until = now * CACHED_S // step * step
    since = until - length
    found = get_layer(query.layer).history(query.series, since, until, step)
    rows = {int(row.start or 0): row for row in found}
    steps = [rows.get(start) for start in range(since, until, step)]
    return {
        "from": since,
        "to": until,
        "step": step,
        "lines": {
            "sent": [row.sent if row else 0 for row in steps],
            "done": [row.done if row else 0 for row in steps],
            "failed": [row.retried + row.buried if row else 0 for row in steps],
            "oldest": [_seconds(row.longest_wait) if row else None for row in steps],
            **_percentiles("start", [row and row.waits for row in steps]),
            **_percentiles("run", [row and row.runs for row in steps]),
        },
    }


def _percentiles(name: str, histograms: list[Any]) -> dict[str, list[float | None]]:
    return {
        f"{name}_p{share}": [
            _seconds(percentile(times, share / 100)) if times else None for times in histograms
        ]
        for share in (50, 95)
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _is_alias(name: str) -> bool:
    return name.isprintable() and len(name) <= MAX_ALIAS_LENGTH
