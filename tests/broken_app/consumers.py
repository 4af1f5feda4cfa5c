"""An app whose consumers cannot be imported: a route with a wrong option."""

from __future__ import annotations

from typing import Any

from mailrail.routing import consumer


@consumer("broken", attempts=0)
def broken(message: Any) -> None: ...
