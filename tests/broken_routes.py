"""A routing whose module does not import."""

from __future__ import annotations

from mailrail.routing import route

channel_routing = [route("no spaces", print)]
