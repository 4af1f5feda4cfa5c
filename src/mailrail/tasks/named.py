"""Find what a message names: the record of its task, and the backend that has enqueued it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from .backend import ChannelBackend
from .compat import task_backends


def named_by(content: Mapping[str, Any]) -> tuple[UUID, int] | None:
    """Return the id and the dispatch of the record that a message names, if it names one."""
    try:
        return UUID(str(content.get("id"))), int(content.get("dispatch", 0))
    except (TypeError, ValueError):
        return None


def backend_of(content: Mapping[str, Any]) -> ChannelBackend:
    """Return the backend that enqueued a message, or one without options if settings have it no longer."""
    alias = str(content.get("backend", "default"))
    try:
        backend = task_backends[alias]
    except Exception:  # of Django, or of another package's backend
        backend = None
    return backend if isinstance(backend, ChannelBackend) else ChannelBackend(alias, {"QUEUES": []})
