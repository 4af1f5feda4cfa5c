"""The backend: ``TASKS = {"default": {"BACKEND": "mailrail.tasks.ChannelBackend"}}``.

Django makes one for each thread and async context, also while a module with a ``@task`` is imported. So nothing here
imports a model, makes a layer or opens a connection before a task is enqueued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.core.checks import CheckMessage

from mailrail import Channel

from .compat import BaseTaskBackend, InvalidTask, TaskResultDoesNotExist, task_enqueued
from .definition import ChannelTask
from .options import BackendOptions, atomic_mistake, conflicts
from .queues import MAX_QUEUE_NAME_LENGTH, channel_of, is_queue_name

if TYPE_CHECKING:
    from .results import ChannelResult

_channel = Channel(channel_of("default"))  # any of the layer's


class ChannelBackend(BaseTaskBackend):
    """Keep tasks as records of the database, and run them in Mailrail's workers.

    In ``OPTIONS``, ``DATABASE`` is the alias of the database that keeps the records, by default that of the layer.
    ``TASKS`` has options by the dotted path of a task. All others are defaults for every task (``ChannelTask``).
    """

    task_class = ChannelTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, dict(params))
        self.params = params
        self.task_options = BackendOptions(alias, self.options)
        self.supports_get_result = self.task_options.results

    @property
    def sender(self) -> type[ChannelBackend]:
        """Return the class that the signals of tasks have as their sender."""
        return type(self)

    @property
    def database(self) -> str:
        """Return the alias of the database that keeps the records."""
        return self.task_options.database or _channel.layer.using

    def validate_task(self, task: Any) -> None:
        """Raise ``InvalidTask`` for a task that cannot run here. Django calls it for each task that is made."""
        super().validate_task(task)
        if not is_queue_name(task.queue_name):
            raise InvalidTask(
                f"Queue {task.queue_name!r} is not valid for backend: it must be 1 to {MAX_QUEUE_NAME_LENGTH} ASCII "
                "letters, digits, hyphens, underscores or periods."
            )
        for mistake in conflicts(task, self.task_options.effective(task, task.module_path)):
            raise InvalidTask(mistake)

    def check_atomic(self) -> None:
        """Raise ``InvalidTask`` if a task's writes and its end cannot commit together with this layer and database."""
        if mistake := atomic_mistake(_channel.layer, self.database):
            raise InvalidTask(mistake)

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ChannelResult:
        """Store a task in the caller's transaction, and return its result, which is ready.

        Raises ``InvalidTask``, and ``TypeError`` or ``ValueError`` with the path of an argument that is no JSON.
        """
        [result] = self.enqueue_many(task, [(args, kwargs)])
        return result

    def enqueue_many(
        self, task: Any, calls: Sequence[tuple[Sequence[Any], Mapping[str, Any]]]
    ) -> list[ChannelResult]:
        """Store a task once for each call, as ``enqueue`` does, all or none of them."""
        from .enqueuing import enqueue_calls

        return enqueue_calls(self, task, calls)

    def tell_released(self, result: ChannelResult) -> None:
        """Send ``task_enqueued`` for a task that was held back, and is not any more."""
        task_enqueued.send_robust(self.sender, task_result=result)

    def get_result(self, result_id: str) -> ChannelResult:
        """Return the result with this id.

        Raises ``TaskResultDoesNotExist``, also for text that is no id, and for tasks with ``results=False``.
        """
        from .enqueuing import find_record
        from .results import result_of

        record = find_record(result_id, self.database)
        if record is None:
            raise TaskResultDoesNotExist(result_id)
        return result_of(record)

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what is wrong with the settings of this backend."""
        from .checks import check_backend

        return list(check_backend(self))
