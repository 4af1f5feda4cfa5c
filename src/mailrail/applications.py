"""Run consumers of Channels 4: the applications that ``ASGI_APPLICATION`` has for named channels.

    application = ProtocolTypeRouter({
        "channel": ChannelNameRouter({"thumbs": ThumbnailConsumer.as_asgi()}),
    })

``manage.py runworker thumbs`` runs them, each message in an instance of its own, which ends when it has handled it.
Under Channels' own worker one instance handles all messages of its channel, until it raises. State that must outlive a
message belongs on the class, or into the database.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels.exceptions import StopConsumer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, get_default_application
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.db import connections

from .errors import InvalidSettings
from .layers.cancelling import end

_WRAPPED_IN = ("inner", "application")  # attributes of middleware that lead to what it wraps


def application() -> Any:
    """Import the application that ``ASGI_APPLICATION`` names. Raises ``InvalidSettings``."""
    try:
        return get_default_application()
    except ImproperlyConfigured as error:
        raise InvalidSettings(f"ASGI_APPLICATION: {error}") from error


def serves(channel: str) -> bool:
    """Tell whether ``ASGI_APPLICATION`` has a consumer for this channel; also true if that cannot be found out."""
    if not getattr(django_settings, "ASGI_APPLICATION", None):
        return False
    app = application()
    while not isinstance(app, ASGIHandler):
        if isinstance(app, ChannelNameRouter):
            return channel in app.application_mapping
        if isinstance(app, ProtocolTypeRouter):
            app = app.application_mapping.get("channel")
        else:
            app = next((getattr(app, name) for name in _WRAPPED_IN if hasattr(app, name)), True)
        if app is None or app is True:
            return bool(app)
    return False  # Django's own knows HTTP only


async def run_application(message: Any) -> None:
    """Let the consumer behind ``ASGI_APPLICATION`` handle a message; routes use this function as a consumer.

    If the handler raises, the run fails as with any consumer. A message without a usable ``type`` is buried, because
    another run would end the same way.
    """
    if (defect := _defect_of(message.content)) is not None:
        message.bury(defect)
        return
    async with ThreadSensitiveContext():  # so sync consumers run in parallel, each on its own thread
        try:
            await _handle(message)
        finally:
            await sync_to_async(connections.close_all)()  # those of the thread


def _defect_of(content: dict[str, Any]) -> str | None:
    kind = content.get("type")
    if isinstance(kind, str) and kind and not kind.startswith(("_", ".")):
        return None
    return (
        f"Its type is {kind!r}. Consumers of Channels are told by the type which method handles a message: it must be "
        "that method's name, and must not begin with an underscore."
    )


async def _handle(message: Any) -> None:
    """Give the application one message, and end it when it asks for the next: it has handled the first by then."""
    is_handled = asyncio.Event()
    unread = [dict(message.content)]

    async def receive() -> Any:
        if unread:
            return unread.pop()
        is_handled.set()
        # Wait for ever: the application gets one message only.
        return await asyncio.get_running_loop().create_future()

    async def send(event: Any) -> None:
        raise RuntimeError(
            f"A consumer of channel {message.channel!r} called send(): nobody is connected to it. Send to a channel or "
            "a group of the channel layer."
        )

    scope = {"type": "channel", "channel": message.channel}
    running = asyncio.ensure_future(application()(scope, receive, send))
    asking = asyncio.ensure_future(is_handled.wait())
    try:
        await asyncio.wait({running, asking}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    except StopConsumer:
        pass
    finally:
        asking.cancel()
        await _ended(running)


async def _ended(running: asyncio.Future[Any]) -> None:
    """Cancel the application and wait for its cleanup. Raises whatever the cleanup raises."""
    if running.done():
        return
    await end(running)
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error
