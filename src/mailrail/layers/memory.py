"""The in-memory layer: the reference implementation of the contract, for tests and development.

Nothing of it outlives the process, and no other process sees it: ``runworker`` refuses it, ``runserver`` runs its
worker in a thread.
"""

from __future__ import annotations

from typing import Any

from .channels_bridge import LocalChannels
from .layer import DurableLayer
from .memory_store import MemoryStore


class InMemoryChannelLayer(LocalChannels, DurableLayer):
    """``CONFIG``: ``routing``, ``using`` (whose transactions sends wait for), and Channels' own options."""

    def __init__(self, *, using: str = "default", routing: str | None = None, **of_channels: Any) -> None:
        LocalChannels.__init__(self, **of_channels)
        DurableLayer.__init__(self, MemoryStore(), using, routing)
