"""Name the channels of queues: ``tasks.<queue>``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .compat import DEFAULT_TASK_QUEUE_NAME, task_backends

PREFIX = "tasks."
MAX_QUEUE_NAME_LENGTH = 93
"""Characters: a channel's name has at most 99 of them."""
_QUEUE = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_QUEUE_NAME_LENGTH}}}")


def is_queue_name(name: object) -> bool:
    """Tell whether a queue can have this name: with the prefix, it has to be a channel's."""
    return isinstance(name, str) and _QUEUE.fullmatch(name) is not None


def channel_of(queue: str) -> str:
    """Return the channel that carries the messages of a queue."""
    return f"{PREFIX}{queue}"


def queue_of(channel: str) -> str:
    """Return the queue whose messages a channel carries."""
    return channel.removeprefix(PREFIX)


def known_channels() -> list[str]:
    """Return the channels of the queues that settings name, and that of the default queue."""
    names = {DEFAULT_TASK_QUEUE_NAME}.union(*(backend.queues for backend in our_backends()))
    return sorted(channel_of(name) for name in names if is_queue_name(name))


def used_databases() -> list[str]:
    """Return the aliases of the databases that keep records. Raises ``InvalidSettings`` for those of layers."""
    return sorted({backend.database for backend in our_backends()})


def our_backends() -> Iterator[Any]:
    """Yield the backends of settings that keep their tasks here. What cannot be made is reported by a check."""
    for alias in task_backends:
        try:
            backend = task_backends[alias]
        except Exception:  # of Django, or of another package's backend
            continue
        if hasattr(backend, "task_options"):
            yield backend
