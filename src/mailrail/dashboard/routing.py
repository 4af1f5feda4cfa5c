"""Route the WebSocket of the live page, for the ASGI application.

Where the URLs of the page are below ``mailrail/``::

    URLRouter([path("mailrail/", URLRouter(websocket_urlpatterns))])
"""

from __future__ import annotations

from typing import Any

from django.urls import path

from .live import LiveConsumer

_live: Any = LiveConsumer.as_asgi()

websocket_urlpatterns = [path("live/", _live)]
