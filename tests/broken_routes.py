"""A routing with a mistake, which raises wherever the routing is not being looked for."""

from __future__ import annotations

from mailrail.routing import route

channel_routing = [route("no spaces", print)]
