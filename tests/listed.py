"""What a layer holds, message by message, by way of its lists: for tests that look at all of a channel."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from mailrail.layers import DurableLayer
from mailrail.messages import Message


class Dead(NamedTuple):
    """A dead message, what it died of, and when it was buried (Unix seconds)."""

    message: Message
    error: str
    buried_at: float


def waiting_on(layer: DurableLayer, channel: str, limit: int = 100) -> list[Message]:
    """The messages on a channel that nobody has claimed, soonest due first."""
    found: list[Message] = []
    last = None
    while len(found) < limit and (page := layer.list_messages([channel], limit, cursor=last)):
        last = page[-1].cursor
        messages = layer.get(channel, [summary.id for summary in page])
        found += [message for message in messages if message.token is None]
    return found[:limit]


def dead_on(layer: DurableLayer, channel: str, limit: int = 100, before: Dead | None = None) -> list[Dead]:
    """The dead messages of a channel, last buried first; ``before``: the page after that one."""
    last = None if before is None else (before.buried_at, before.message.id)
    page = layer.list_messages([channel], limit, "dead", last)
    messages = layer.get(channel, [summary.id for summary in page], dead=True)
    return [Dead(message, message.error, message.buried_at or 0.0) for message in messages]


def get_one(layer: DurableLayer, channel: str, id: UUID) -> Message | None:
    """The message with this id, if it waits or is claimed."""
    return next(iter(layer.get(channel, [id])), None)


def get_one_dead(layer: DurableLayer, channel: str, id: UUID) -> Dead | None:
    """The dead message with this id."""
    found = layer.get(channel, [id], dead=True)
    return next((Dead(message, message.error, message.buried_at or 0.0) for message in found), None)
