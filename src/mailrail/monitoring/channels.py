"""Describe the channels of a layer, and put those that need somebody first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, TypeAlias

from ..applications import serves
from ..layers import DurableLayer, default_alias
from ..messages import ChannelStats
from ..routing import Routing
from .facts import ChannelFacts, Count

Severity: TypeAlias = Literal["bad", "warn", "ok"]

_RANKS: Mapping[Severity, int] = {"bad": 0, "warn": 1, "ok": 2}


def channel_facts(
    layer: DurableLayer,
    alias: str | None,
    stats: Mapping[str, ChannelStats],
    most: int,
    others: Iterable[str] = (),
) -> list[ChannelFacts]:
    """Describe the channels of ``stats``, counted to ``most``, the routed ones that are empty, and ``others``.

    Raises ``InvalidSettings`` if the routing cannot be read.
    """
    routing = Routing.of_layer(alias)
    outbox = layer.outbox.channel if layer.outbox else None
    return [
        _facts_of(
            name,
            alias or default_alias(),
            stats.get(name, ChannelStats()),
            most,
            is_routed=name == outbox or name in routing or serves(name),
        )
        for name in {**stats, **dict.fromkeys(routing.plans), **dict.fromkeys(others)}
    ]


def _facts_of(name: str, layer: str, stats: ChannelStats, most: int, *, is_routed: bool) -> ChannelFacts:
    return ChannelFacts(
        layer,
        name,
        Count(stats.ready, stats.ready > most),
        Count(stats.scheduled, stats.scheduled > most),
        Count(stats.claimed, stats.claimed > most),
        Count(stats.dead, stats.dead > most),
        oldest_due=stats.oldest_due,
        pause=stats.pause,
        is_routed=is_routed,
    )


def severity(channel: ChannelFacts, late: Collection[str] = ()) -> Severity:
    """Tell how much a channel needs somebody. ``late``: the names of those that are a problem of the health.

    A warning is for dead messages, for a pause, and for messages that no consumer of this project takes.
    """
    if channel.name in late:
        return "bad"
    holds = channel.ready.n or channel.scheduled.n or channel.claimed.n
    return "warn" if channel.dead.n or channel.pause or (holds and not channel.is_routed) else "ok"


def by_need(channels: Collection[ChannelFacts], late: Collection[str] = ()) -> tuple[ChannelFacts, ...]:
    """Sort channels: those that need somebody first, then those whose messages have been due for longest."""
    return tuple(
        sorted(
            channels,
            key=lambda c: (
                _RANKS[severity(c, late)],
                -(c.oldest_due or 0.0),
                -c.dead.n,
                -c.ready.n,
                -c.claimed.n - c.scheduled.n,
                c.name,
            ),
        )
    )
