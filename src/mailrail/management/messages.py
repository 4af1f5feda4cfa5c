"""Read the messages of a channel for commands, and describe them as ``--json`` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from mailrail.layers import DurableLayer
from mailrail.messages import Cursor, Message, MessageSummary
from mailrail.moments import from_timestamp
from mailrail.redaction import redacted, redacted_text


def pages_of_dead(layer: DurableLayer, channel: str) -> Iterator[list[UUID]]:
    """Yield the ids of all messages that are dead now, page by page, without those that die meanwhile."""
    last: Cursor | None = None
    while page := layer.list_messages([channel], 500, "dead", last):
        last = page[-1].cursor
        yield [summary.id for summary in page]


def whole_messages(layer: DurableLayer, channel: str, listed: Iterable[MessageSummary]) -> list[Message]:
    """Return the dead messages of a channel that were listed."""
    return layer.get(channel, [summary.id for summary in listed if summary.channel == channel], dead=True)


def whole_error(layer: DurableLayer, listed: MessageSummary) -> str:
    """Return the whole error of a message; lists read only its end."""
    messages = layer.get(listed.channel, [listed.id]) if listed.error else []
    return messages[0].error if messages else listed.error


def waiting_facts(listed: MessageSummary, error: str) -> dict[str, Any]:
    return {
        "id": str(listed.id),
        "channel": listed.channel,
        "state": listed.state,
        "due": from_timestamp(listed.at),
        "content": redacted_text(listed.preview),
        "attempt": listed.attempt,
        "losses": listed.losses,
        "worker": listed.worker,
        "error": error,
    }


def dead_facts(message: Message) -> dict[str, Any]:
    return {
        "id": str(message.id),
        "channel": message.channel,
        "content": redacted(message.content),
        "headers": redacted(message.headers),
        "attempt": message.attempt,
        "losses": message.losses,
        "buried_at": from_timestamp(message.buried_at or 0.0),
        "error": message.error,
    }
