"""Routes with a mistake, which stands before the error that ends the module's import."""

from __future__ import annotations

from mailrail.routing import route
from tests.routes import first

more_routing = [route("five", first, lease=0)]
raise RuntimeError("this module does not import")
