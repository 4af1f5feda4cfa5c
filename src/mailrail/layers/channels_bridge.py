"""The bridge to Channels 4: ``send`` and ``receive`` of a channel layer, on durable named channels.

Groups and process-local channels (``!`` names) are left to a layer of Channels.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer as ChannelsInMemoryLayer

from ..messages import Content, Message
from .layer import DurableLayer
from .waiting import POLL_INTERVAL_S


class NamedChannels:
    """What Channels' ``send`` and ``receive`` do on a named channel: its messages are durable, and must be JSON.

    Stands before the Channels 4 layer that keeps groups and ``!`` names.
    """

    async def send(self, channel: str, message: Content) -> None:
        """Channels' ``send``. On a named channel it follows the transaction it is called in, like a producer's."""
        self.require_valid_channel_name(channel)  # type: ignore[attr-defined]  # the Channels layer's
        if "!" in channel:
            await super().send(channel, message)  # type: ignore[misc]
        else:
            await sync_to_async(_verbs(self).send_messages)([Message(channel=channel, content=message)])

    async def receive(self, channel: str) -> Content:
        """Channels' ``receive``: at most once. On a named channel, the message is finished before it is returned.

        Consumers under ``runworker`` get theirs at least once; prefer them.
        """
        self.require_valid_channel_name(channel)  # type: ignore[attr-defined]
        if "!" in channel:
            local: Content = await super().receive(channel)  # type: ignore[misc]
            return local
        given_up = threading.Event()
        while True:
            taking = asyncio.ensure_future(sync_to_async(_take)(_verbs(self), channel, given_up))
            try:
                taken = await asyncio.shield(taking)
            except asyncio.CancelledError:  # the thread goes on: tell it, and see how far it has come
                given_up.set()
                await asyncio.wait([taking])
                taken = taking.result()
                if taken is None:
                    raise
            if taken is not None:
                return taken.content
            await asyncio.sleep(POLL_INTERVAL_S)


class LocalChannels(NamedChannels, ChannelsInMemoryLayer):  # type: ignore[misc]  # Channels has no types
    """A Channels 4 layer whose groups and ``!`` names live in this process only. Stands before ``DurableLayer``."""

    def __init__(
        self,
        *,
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: dict[str, int] | None = None,
    ) -> None:
        super().__init__(
            expiry=expiry, group_expiry=group_expiry, capacity=capacity, channel_capacity=channel_capacity
        )
        self.channel_capacity: Any = self.compile_capacities(channel_capacity or {})


def _take(layer: DurableLayer, channel: str, given_up: threading.Event) -> Message | None:
    """Finish the next message of a channel and return it; release it if nobody waits for it any more."""
    for claim in layer.claim("receive", {channel: 1}, 15.0).claims:
        if claim.defect:
            layer.bury(claim, claim.defect)
        elif given_up.is_set():
            layer.release([claim])
        elif not layer.finish([claim]):
            return claim
    return None


def _verbs(layer: NamedChannels) -> DurableLayer:
    """The same object, seen as what every subclass of ``NamedChannels`` is as well."""
    assert isinstance(layer, DurableLayer)
    return layer
