"""Find out how many messages a minute are sent to each channel, done and failed, over the last one or two minutes.

The history counts by whole minutes, so a rate is the average since the beginning of the minute before this one. What
was done and what failed is in the history. What was sent is there only once it has run, so that alone would say that
nothing is sent to a channel whose messages wait. But messages do not vanish: those that were sent are those that ended
and those by which the channel has grown. That needs an exact count at both ends of the time; see decision 0067.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..layers.history import MINUTE, HistoryRow, Series
from .facts import ChannelFacts

RECORDED_EVERY_S = 5.0
"""Seconds between two depths of a channel that are kept."""
KEPT_S = 2.0 * MINUTE + RECORDED_EVERY_S
"""Seconds for which depths are kept: those of the longest average."""
SOON_S = 10.0
"""Seconds for which a message may wait and be counted as sent nevertheless only when it has run."""


class Depths:
    """Remember how many messages each channel held during the last two minutes; ``None``: more than are counted."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, dict[str, int | None]]] = deque()

    def record(self, at: float, channels: Iterable[ChannelFacts]) -> None:
        """Keep the depths of a moment, unless the last ones are a few seconds old."""
        if self._kept and 0 <= at - self._kept[-1][0] < RECORDED_EVERY_S:
            return
        while self._kept and not at - KEPT_S <= self._kept[0][0] <= at:
            self._kept.popleft()
        self._kept.append((at, {channel.name: depth_of(channel) for channel in channels}))

    def at(self, moment: float) -> Mapping[str, int | None] | None:
        """Return the depths of that moment, give or take a few seconds."""
        near = min(self._kept, key=lambda kept: abs(kept[0] - moment), default=None)
        return near[1] if near is not None and abs(near[0] - moment) <= RECORDED_EVERY_S else None


def depth_of(channel: ChannelFacts) -> int | None:
    """Return how many messages wait or are claimed, if that was counted exactly."""
    counts = (channel.ready, channel.scheduled, channel.claimed)
    return None if any(count.is_estimate for count in counts) else sum(count.n for count in counts)


def begin_of_average(now: float) -> float:
    """Return the beginning of the minute before this one."""
    return (now - MINUTE) // MINUTE * MINUTE


def with_rates(
    channel: ChannelFacts,
    recent: Mapping[Series, HistoryRow],
    now: float,
    before: Mapping[str, int | None] | None,
) -> ChannelFacts:
    """Return a channel with its rates. ``before``: the depths at ``begin_of_average(now)``, if they are known."""
    row = recent.get(("channel", channel.name)) or HistoryRow(("channel", channel.name))
    minutes = (now - begin_of_average(now)) / MINUTE
    sent = _sent(channel, row, None if before is None else before.get(channel.name, 0))
    return replace(
        channel,
        sent_per_minute=None if sent is None else sent / minutes,
        done_per_minute=row.done / minutes,
        failed_per_minute=(row.retried + row.buried) / minutes,
    )


def _sent(channel: ChannelFacts, row: HistoryRow, before: int | None) -> int | None:
    """Return how many messages were sent, or ``None`` if nobody can know."""
    depth = depth_of(channel)
    if depth is not None and before is not None:
        return max(0, row.done + row.buried + row.expired + depth - before)
    keeps_up = channel.oldest_due is None or channel.oldest_due < SOON_S
    return row.sent if depth is not None and keeps_up else None
