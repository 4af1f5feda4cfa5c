"""Cancel messages that wait, and tell the apps whose records they are about."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from .layers import DurableLayer
from .signals import message_cancelled


def cancel_messages(layer: DurableLayer, channel: str, ids: Iterable[UUID]) -> list[UUID]:
    """Remove messages that nobody has claimed, send ``message_cancelled`` for each, and return their ids."""
    ids = list(ids)
    messages = layer.get(channel, ids) if message_cancelled.has_listeners(channel) else []
    cancelled = layer.cancel(channel, ids)
    for message in messages:
        if message.id in cancelled:
            message_cancelled.send_robust(channel, message=message)
    return cancelled
