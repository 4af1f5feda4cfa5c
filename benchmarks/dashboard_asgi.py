"""What Daphne serves for the benchmark of the live page."""

from __future__ import annotations

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

_pages = get_asgi_application()

from mailrail.dashboard.routing import websocket_urlpatterns  # noqa: E402 - Django is set up now

application = ProtocolTypeRouter(
    {"http": _pages, "websocket": URLRouter([path("live/", URLRouter(websocket_urlpatterns))])}
)
