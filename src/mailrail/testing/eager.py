"""The backend of ``eager_tasks``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..tasks.backend import ChannelBackend
from ..tasks.queues import channel_of
from ..tasks.results import ChannelResult


class EagerBackend(ChannelBackend):
    """Run what is due on a task's queue as the task is enqueued."""

    @property
    def sender(self) -> type[ChannelBackend]:
        return ChannelBackend

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ChannelResult:
        from . import drain

        result = super().enqueue(task, args, kwargs)
        drain(channel_of(task.queue_name), raise_errors=False)
        result.refresh()
        return result
