"""A consumer under Channels' own ``runworker``."""

from __future__ import annotations

from typing import Any

from channels.consumer import SyncConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

from ..runs import note


class Count(SyncConsumer):  # type: ignore[misc]  # Channels has no types
    def count(self, event: dict[str, Any]) -> None:
        note(event["n"])


application = ProtocolTypeRouter({"channel": ChannelNameRouter({"count": Count.as_asgi()})})
