"""What Daphne serves: the site, and its static files, as there is no other server in front of it here."""

from __future__ import annotations

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
site = ASGIStaticFilesHandler(get_asgi_application())

from mailrail.dashboard.routing import websocket_urlpatterns  # noqa: E402 - needs the settings

# Below the address of the page, as in urls.py.
live = URLRouter([path("live/", URLRouter(websocket_urlpatterns))])
application = ProtocolTypeRouter({"http": site, "websocket": live})
