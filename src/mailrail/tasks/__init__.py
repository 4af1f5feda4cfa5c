"""Run the tasks of ``django.tasks`` in Mailrail's workers, and keep their results.

    TASKS = {"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": {"attempts": 5}}}

The names below are imported at first use. A module with a ``@task`` makes the backend while it is imported, and that
may be before there can be models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import ChannelBackend
    from .batches import Batch, BatchProgress, batch
    from .context import ChannelContext
    from .control import acancel, cancel
    from .definition import ChannelTask, task
    from .enqueuing import aenqueue_many, enqueue_many
    from .models import BatchRecord, TaskRecord
    from .results import ChannelResult

__all__ = [
    "Batch",
    "BatchProgress",
    "BatchRecord",
    "ChannelBackend",
    "ChannelContext",
    "ChannelResult",
    "ChannelTask",
    "TaskRecord",
    "acancel",
    "aenqueue_many",
    "batch",
    "cancel",
    "enqueue_many",
    "task",
]

_HOMES = {
    "backend": ("ChannelBackend",),
    "batches": ("Batch", "BatchProgress", "batch"),
    "context": ("ChannelContext",),
    "control": ("acancel", "cancel"),
    "enqueuing": ("aenqueue_many", "enqueue_many"),
    "models": ("BatchRecord", "TaskRecord"),
    "results": ("ChannelResult",),
    "definition": ("ChannelTask", "task"),
}
_home_of = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _home_of:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_home_of[name]}", __name__), name)
