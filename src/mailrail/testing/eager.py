"""The backend of ``eager_tasks``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..tasks.backend import ChannelBackend
from ..tasks.compat import TaskResultDoesNotExist, task_finished
from ..tasks.queues import channel_of
from ..tasks.results import ChannelResult


class EagerBackend(ChannelBackend):
    """Run what is due on a task's queue as the task is enqueued."""

    @property
    def sender(self) -> type[ChannelBackend]:
        return ChannelBackend

    def enqueue_many(
        self, task: Any, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
    ) -> list[ChannelResult]:
        from ..tasks.batch_membership import outside_batches

        ended: dict[str, Any] = {}

        def note(*, task_result: Any, **facts: Any) -> None:
            ended[task_result.id] = task_result

        results = super().enqueue_many(task, calls)
        task_finished.connect(note, sender=self.sender, weak=False)
        try:
            with outside_batches():
                self._drain(task)
        finally:
            task_finished.disconnect(note, sender=self.sender)
        for result in results:
            _refresh(result, ended)
        return results

    def tell_released(self, result: ChannelResult) -> None:
        super().tell_released(result)
        self._drain(result.task)

    def _drain(self, task: Any) -> None:
        from . import drain

        drain(channel_of(task.queue_name), raise_errors=False)


def _refresh(result: ChannelResult, ended: Mapping[str, Any]) -> None:
    """Let a result say what has become of its task. ``ended``: results that have ended, by their ids."""
    try:
        result.refresh()
    except TaskResultDoesNotExist:  # it has results=False
        if result.id in ended:
            result._take(ended[result.id])
