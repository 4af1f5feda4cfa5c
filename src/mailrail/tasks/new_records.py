"""Make the records of calls, and check that their task can run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any

from django.db.models.base import ModelState
from django.utils import timezone

from .definition import check_importable
from .json_values import normalized
from .models import TaskRecord, new_id
from .options import RECORDED_OPTIONS, Effective, differing, to_json
from .unrecorded import Call


def checked(backend: Any, task: Any) -> tuple[Any, Effective]:
    """Return the task that a worker will find at the path of this one, and the options that apply.

    Raises ``InvalidTask``, and ``InvalidSettings``.
    """
    backend.task_options.check()
    backend.validate_task(task)
    decorated = check_importable(task)
    effective = backend.task_options.effective(task, task.module_path)
    if effective.atomic:
        backend.check_atomic()
    return decorated, effective


def new_records(task: Any, decorated: Any, effective: Effective, calls: Sequence[Call]) -> list[TaskRecord]:
    """Return a record for each call, not stored. Raises for arguments that are no JSON."""
    template = _template(task, decorated, effective)
    return [_record(template, effective, args, kwargs) for args, kwargs in calls]


def _template(task: Any, decorated: Any, effective: Effective) -> dict[str, Any]:
    """Return the attributes that the records of all calls share. Those that are changed in place are not among them."""
    values = {
        "task": task.module_path,
        "queue": task.queue_name,
        "backend": task.backend,
        "priority": int(task.priority),
        "run_after": task.run_after,
        "expires_at": effective.expires_at(),
        "rate": effective.rate or "",
        "timeout": effective.limit(),
        "is_async": iscoroutinefunction(task.func),
        "is_isolated": effective.isolate,
        "options": to_json(differing(task, decorated, RECORDED_OPTIONS)),
        "enqueued_at": timezone.now(),
    }
    return vars(TaskRecord(**values))


def _record(
    template: Mapping[str, Any], effective: Effective, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> TaskRecord:
    """Make a record as unpickling makes one: the ORM takes several times as long."""
    values: dict[str, Any] = {
        **template,
        "id": new_id(),
        "_state": ModelState(),
        "args": normalized(args, "args"),
        "kwargs": normalized(kwargs, "kwargs") if kwargs else {},
        "errors": [],
        "worker_ids": [],
        "metadata": {},
    }
    if effective.has_lane:
        lane = effective.lane_of(template["task"], args, kwargs)
        values["lane"], values["places"] = lane if isinstance(lane, tuple) else (lane or "", None)
    if effective.key is not None:
        values["key"] = effective.key_of(args, kwargs) or ""
        values["while_running"] = int(effective.while_running)
    record = TaskRecord.__new__(TaskRecord)
    record.__dict__ = values
    return record
