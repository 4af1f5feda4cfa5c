"""Layers: what carries messages. Name one in ``CHANNEL_LAYERS``, or none at all for the database layer."""

from typing import TYPE_CHECKING

from .base import DurableLayer, Lease
from .registry import default_alias, durable_aliases, get_layer

__all__ = [
    "DatabaseChannelLayer",
    "DurableLayer",
    "InMemoryChannelLayer",
    "Lease",
    "default_alias",
    "durable_aliases",
    "get_layer",
]

if TYPE_CHECKING:
    from .database import DatabaseChannelLayer
    from .memory import InMemoryChannelLayer


def __getattr__(name: str) -> type[DurableLayer]:
    # Imported when asked for, so that each layer's own requirements are, too.
    if name == "DatabaseChannelLayer":
        from .database import DatabaseChannelLayer

        return DatabaseChannelLayer
    if name == "InMemoryChannelLayer":
        from .memory import InMemoryChannelLayer

        return InMemoryChannelLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
