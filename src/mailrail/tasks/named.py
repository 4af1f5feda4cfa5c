"""Find what a message names: the record of its task, and the backend that has enqueued it."""

from __future__ import annotations

from collections.abc import Mapping
from threading import local
from typing import Any
from uuid import UUID

from django.core.signals import setting_changed
from django.dispatch import receiver

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
    known: dict[str, ChannelBackend] = vars(_of_thread)
    if (backend := known.get(alias)) is not None:
        return backend
    try:
        found = task_backends[alias]
    except Exception:  # of Django, or of another package's backend
        found = None
    if not isinstance(found, ChannelBackend):
        return ChannelBackend(alias, {"QUEUES": []})
    known[alias] = found
    return found


_of_thread = local()
"""The backends of the calling thread, by their aliases. Each message asks, and Django's own look-up costs 2 us."""


@receiver(setting_changed, dispatch_uid="mailrail.tasks.named")
def _forget(*, setting: str, **kwargs: Any) -> None:
    global _of_thread
    if setting == "TASKS":
        _of_thread = local()
