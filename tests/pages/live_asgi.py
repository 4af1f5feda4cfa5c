"""The site of the tests under ASGI, with the WebSocket of the live page."""

from __future__ import annotations

from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import path

http: Any = ASGIStaticFilesHandler(get_asgi_application())

from mailrail.dashboard.routing import websocket_urlpatterns  # noqa: E402  # needs the apps

application = ProtocolTypeRouter(
    {"http": http, "websocket": URLRouter([path("mailrail/", URLRouter(websocket_urlpatterns))])}
)
