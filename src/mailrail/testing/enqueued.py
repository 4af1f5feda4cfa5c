"""Test tasks of ``django.tasks``: list those that are enqueued, and run them as they are enqueued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.db.models import F
from django.test import override_settings
from django.utils.module_loading import import_string

from ..worker import IncomingMessage
from .messages import sent

if TYPE_CHECKING:
    from ..layers import DurableLayer
    from ..tasks import ChannelResult

_MOVED = (
    "run_after",
    "expires_at",
    "enqueued_at",
    "started_at",
    "last_attempted_at",
    "finished_at",
    "kept_until",
    "cancelled_at",
)
_MOVED_OF_BATCHES = ("created_at", "failed_at", "finished_at", "kept_until", "cancelled_at")


def tasks(task: Any = None, *, queue: str | None = None) -> list[ChannelResult]:
    """Return the results of enqueued tasks that are not finished, in the order of enqueueing.

    ``task``: a task, or its dotted path. ``queue``: the name of a queue.
    """
    _check_installed()
    from ..tasks.models import UNFINISHED, TaskRecord
    from ..tasks.queues import used_databases
    from ..tasks.results import result_of

    found = []
    path = getattr(task, "module_path", task)
    for using in used_databases():
        records = TaskRecord.objects.using(using).filter(status__in=UNFINISHED, held=0).order_by("pk")
        if path is not None:
            records = records.filter(task=path)
        found += [result_of(record) for record in (records if queue is None else records.filter(queue=queue))]
    return found + [result for result in _unrecorded(queue) if path in (None, result.task.module_path)]


def _unrecorded(queue: str | None) -> Iterator[ChannelResult]:
    """Yield the tasks with ``results=False``, of which there is a message alone."""
    from ..tasks.queues import PREFIX, channel_of
    from ..tasks.unrecorded import result_of_message

    messages = sent(PREFIX.rstrip(".") if queue is None else channel_of(queue))
    for message in sorted(messages, key=lambda message: message.id):
        if "task" in message.content:
            yield result_of_message(IncomingMessage(message))


def eager_tasks() -> override_settings:
    """Run each task as it is enqueued: a decorator of tests and test classes, and a context manager.

    It behaves as Django's ``ImmediateBackend`` does: ``enqueue`` returns a result that is finished, and raises nothing
    that the task raises but ``KeyboardInterrupt``. A task with ``run_after`` still waits for ``advance`` and ``drain``.
    """
    _check_installed()
    return override_settings(TASKS={alias: _eager(params) for alias, params in settings.TASKS.items()})


def _eager(params: Mapping[str, Any]) -> Mapping[str, Any]:
    from ..tasks.backend import ChannelBackend

    is_ours = issubclass(import_string(params["BACKEND"]), ChannelBackend)
    return {**params, "BACKEND": "mailrail.testing.eager.EagerBackend"} if is_ours else params


def advance_tasks(seconds: float, layer: DurableLayer) -> None:
    """Move the times of all records of tasks back by ``seconds``, if there can be any: a test may have no database."""
    if not apps.is_installed("mailrail.tasks"):
        return
    from ..tasks.models import BatchRecord, TaskRecord
    from ..tasks.queues import PREFIX, used_databases
    from ..tasks.rates import forget

    forget()
    if not layer.joins_transactions and not any(
        channel.startswith(PREFIX) for channel in layer.list_channels()
    ):
        return

    moved = {name: F(name) - timedelta(seconds=seconds) for name in _MOVED}
    for using in used_databases():
        TaskRecord.objects.using(using).update(**moved)
        BatchRecord.objects.using(using).update(
            **{name: F(name) - timedelta(seconds=seconds) for name in _MOVED_OF_BATCHES}
        )


def _check_installed() -> None:
    if not apps.is_installed("mailrail.tasks"):
        raise AssertionError('"mailrail.tasks" is not in INSTALLED_APPS, so no task is enqueued.')
