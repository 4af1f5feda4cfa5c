"""Consumers as Channels 4 has them, behind ``ASGI_APPLICATION``, for tests and for the workers that tests start."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter
from django.core.asgi import get_asgi_application

handled: list[Any] = []
both = threading.Barrier(2)


class Sync(SyncConsumer):  # type: ignore[misc]  # Channels has no types
    def make(self, message: dict[str, Any]) -> None:
        handled.append((self.scope["channel"], message, id(self)))

    def fail(self, message: dict[str, Any]) -> None:
        handled.append("failed")
        raise RuntimeError("boom")

    def meet(self, message: dict[str, Any]) -> None:
        both.wait(20)
        handled.append("met")

    def stop(self, message: dict[str, Any]) -> None:
        handled.append("stopped")
        raise StopConsumer

    def answer(self, message: dict[str, Any]) -> None:
        self.send({"type": "answer"})

    def sleep(self, message: dict[str, Any]) -> None:
        time.sleep(message["seconds"])

    def note(self, message: dict[str, Any]) -> None:
        with Path(os.environ["MAILRAIL_LEDGER"]).open("a") as ledger:
            ledger.write(f"{message.get('what', 'ran')} {message['n']} 1 0 {os.getpid()}\n")
        if message.get("die"):
            os._exit(3)


class Async(AsyncConsumer):  # type: ignore[misc]
    async def make(self, message: dict[str, Any]) -> None:
        handled.append((self.scope["channel"], message, id(self)))

    async def make_dotted(self, message: dict[str, Any]) -> None:
        handled.append("dotted")

    async def fail(self, message: dict[str, Any]) -> None:
        raise RuntimeError("boom")

    async def chat(self, message: dict[str, Any]) -> None:
        """Ask somebody on a process-local channel, and hear the answer."""
        layer = get_channel_layer()
        await layer.group_add("room", self.channel_name)
        other = await layer.new_channel()
        await layer.send(other, {"from": self.channel_name})
        heard = await layer.receive(other)
        handled.append(heard["from"] == self.channel_name)

    async def forward(self, message: dict[str, Any]) -> None:
        await get_channel_layer().send("sync", {"type": "make", "n": message["n"]})


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application that is no consumer class, and returns after its first message."""
    handled.append((scope, await receive()))


class Middleware:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.inner({**scope, "user": "somebody"}, receive, send)


router = ChannelNameRouter({"sync": Sync.as_asgi(), "async": Async.as_asgi(), "bare": bare, "ledger": bare})
application = ProtocolTypeRouter({"http": get_asgi_application(), "channel": Middleware(router)})
without_channels = ProtocolTypeRouter({"http": get_asgi_application()})
opaque = lambda scope, receive, send: router(scope, receive, send)  # noqa: E731
