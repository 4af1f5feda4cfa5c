"""Carry messages: name a layer in ``CHANNEL_LAYERS``, or none at all for the database layer.

Where to look:

- ``base`` says what the verbs mean, and what becomes of a message whose worker died.
- ``layer`` carries them out, the same for all, above a ``Store`` for each technology.
- ``store`` declares the primitives of a technology: a further database implements its ``DatabaseStore``.
- ``database`` chooses the store by the vendor of the connection.
- ``postgresql``, ``sqlite``, ``redis`` and ``memory_store`` implement them; the statements are in ``sql`` and ``lua``.
- ``layer.DurableLayer.send_messages`` decides whether a send joins the transaction, waits for its commit
  (``deferred_sends``), or goes into the ``outbox``.
- ``waiting`` lets idle workers sleep, until its ``WaitStrategy.wake``. The ``listener`` of a technology calls that when
  a sender notifies (PostgreSQL: ``notify.sql``); ``notifications`` is what listeners have in common.
- ``registry`` finds the layer of an alias.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import InvalidSettings
from .base import Lease
from .layer import DurableLayer
from .registry import default_alias, durable_aliases, get_layer, read_layers, unbuilt_routing

__all__ = [
    "DatabaseChannelLayer",
    "DurableLayer",
    "InMemoryChannelLayer",
    "Lease",
    "RedisChannelLayer",
    "default_alias",
    "durable_aliases",
    "get_layer",
    "read_layers",
    "unbuilt_routing",
]

if TYPE_CHECKING:
    from .database import DatabaseChannelLayer
    from .memory import InMemoryChannelLayer
    from .redis import RedisChannelLayer


def __getattr__(name: str) -> type[DurableLayer]:
    # Imported when asked for, so that each layer's own requirements are, too.
    if name == "DatabaseChannelLayer":
        from .database import DatabaseChannelLayer

        return DatabaseChannelLayer
    if name == "InMemoryChannelLayer":
        from .memory import InMemoryChannelLayer

        return InMemoryChannelLayer
    if name == "RedisChannelLayer":
        for package in ("redis", "channels_redis"):
            if find_spec(package) is None:
                raise InvalidSettings(
                    f"The Redis layer needs the package {package}, and it is not installed: "
                    'pip install "mailrail[redis]".'
                )
        from .redis import RedisChannelLayer

        return RedisChannelLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
