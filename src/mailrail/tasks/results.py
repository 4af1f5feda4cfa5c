"""Make results of records: Django's ``TaskResult`` with progress and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from .compat import TaskError, TaskResult, TaskResultStatus
from .definition import changed, find_task, missing_task
from .models import TaskRecord
from .options import from_json

STATUSES = {status.value: status for status in TaskResultStatus}
"""Django's statuses by what records have: to call the enumeration costs several times as much."""
_REFRESHED = (
    *("errors", "_return_value", "finished_at", "started_at", "last_attempted_at", "status", "enqueued_at"),
    *("worker_ids", "progress", "metadata"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelResult(TaskResult):  # type: ignore[misc,type-arg,unused-ignore]
    """The result of a task.

    ``progress``: what the task said last by ``context.progress``: ``{"done": …, "total": …, "text": …}``, or ``None``.
    ``metadata``: a small JSON object that the task keeps between its attempts.
    """

    progress: dict[str, Any] | None = field(init=False, default=None)
    metadata: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Take the arguments as they are: they are JSON, and to look at each costs half of a result."""

    def refresh(self) -> None:
        """Load what the database has now."""
        self._take(self.task.get_backend().get_result(self.id))

    async def arefresh(self) -> None:
        """Load what the database has now."""
        self._take(await self.task.get_backend().aget_result(self.id))

    def _take(self, other: Any) -> None:
        for name in _REFRESHED:
            object.__setattr__(self, name, getattr(other, name))


def result_of(record: TaskRecord, task: Any = None) -> ChannelResult:
    """Return the result that a record holds. ``task``: the one that was enqueued, if the caller has it."""
    result = ChannelResult(
        task=task_of(record) if task is None else task,
        id=str(record.id),
        status=STATUSES[record.status],
        enqueued_at=record.enqueued_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        last_attempted_at=record.last_attempted_at,
        args=record.args,
        kwargs=record.kwargs,
        backend=record.backend,
        errors=[_error(error) for error in record.errors] if record.errors else [],
        worker_ids=list(record.worker_ids),
    )
    update(
        result,
        _return_value=record.return_value,
        progress=record.progress,
        metadata=deepcopy(record.metadata) if record.metadata else {},
    )
    return result


def update(result: Any, **values: Any) -> None:
    """Set attributes of a frozen result."""
    for name, value in values.items():
        object.__setattr__(result, name, value)


def task_of(record: TaskRecord) -> Any:
    """Return the task of a record as it was enqueued; a stand-in if its function is gone, or cannot be imported."""
    values = {
        "priority": record.priority,
        "backend": record.backend,
        "queue_name": record.queue,
        "run_after": record.run_after,
    }
    return task_at(record.task, values, record.options)


def task_at(path: str, values: dict[str, Any], options: Mapping[str, Any]) -> Any:
    """Return the task at a dotted path, with other ``values`` and with ``options`` as they are stored.

    It is a stand-in if the function is gone, or cannot be imported.
    """
    try:
        found = find_task(path)
    except Exception:  # its module raises: the result can be read all the same
        found = None
    if found is None:
        return missing_task(path, values)
    others = [name for name, value in values.items() if getattr(found, name) != value]
    if options or others:
        return changed(found, {**values, **from_json(options)})
    return found


def _error(error: Mapping[str, str]) -> TaskError:
    return TaskError(exception_class_path=error["class"], traceback=error["traceback"])
