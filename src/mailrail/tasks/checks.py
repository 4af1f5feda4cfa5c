"""System checks of the tasks.

mailrail.tasks.E001  OPTIONS of a backend has an unknown key or a wrong value
mailrail.tasks.E002  a name in QUEUES cannot be part of a channel's name
mailrail.tasks.E003  ENQUEUE_ON_COMMIT is set, which nobody reads: enqueueing follows the transaction anyway
mailrail.tasks.E004  "mailrail.tasks" or "mailrail" is not in INSTALLED_APPS
mailrail.tasks.E005  the alias that DATABASE names is not in DATABASES
mailrail.tasks.E006  atomic is set, and the layer is not in the database of the records
mailrail.tasks.E007  a task calls context.step or context.each, and has results=False or atomic=True
mailrail.tasks.E008  a task calls context.step(…, atomic=True), and the layer is not in the database of the records
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, register

from mailrail import InvalidSettings

from .compat import HAS_BACKPORT, InvalidTask
from .definition import imported_tasks
from .queues import MAX_QUEUE_NAME_LENGTH, is_queue_name, our_backends
from .step_calls import step_calls

if TYPE_CHECKING:
    from .backend import ChannelBackend


def check_backend(backend: ChannelBackend) -> Iterator[CheckMessage]:
    """Yield what is wrong with the settings of a backend. Django calls it for each that ``TASKS`` has."""
    for mistake in backend.task_options.mistakes:
        yield Error(mistake, id="mailrail.tasks.E001")
    yield from _check_queues(backend)
    if "ENQUEUE_ON_COMMIT" in backend.params:
        yield Error(
            f"TASKS[{backend.alias!r}]['ENQUEUE_ON_COMMIT'] has no effect.",
            hint="Remove it. A task is enqueued in the transaction of its caller: rolled back, it was never enqueued.",
            id="mailrail.tasks.E003",
        )
    for app in ("mailrail", "mailrail.tasks"):
        if not apps.is_installed(app):
            yield Error(
                f"TASKS[{backend.alias!r}] keeps tasks in tables of {app!r}, which is not in INSTALLED_APPS.",
                hint=f"Add {app!r} to INSTALLED_APPS, and run: python manage.py migrate",
                id="mailrail.tasks.E004",
            )
    database = backend.task_options.database
    if database is not None and database not in django_settings.DATABASES:
        yield Error(
            f"TASKS[{backend.alias!r}]['OPTIONS']['DATABASE'] is {database!r}, which is not in DATABASES.",
            hint=f"Known aliases: {', '.join(map(repr, django_settings.DATABASES))}.",
            id="mailrail.tasks.E005",
        )
        return
    if backend.task_options.names_atomic and (mistake := _atomic_mistake(backend)):
        yield Error(f"TASKS[{backend.alias!r}]['OPTIONS']: {mistake}", id="mailrail.tasks.E006")
    yield from _check_steps(backend)


def _atomic_mistake(backend: ChannelBackend) -> str:
    try:
        backend.check_atomic()
    except InvalidTask as error:
        return str(error)
    except InvalidSettings:
        pass  # of the layer: checks of its own tell it
    return ""


def _check_steps(backend: ChannelBackend) -> Iterator[CheckMessage]:
    """Yield what is wrong with the steps of tasks that are imported by now."""
    for task in imported_tasks(backend.alias):
        options = backend.task_options.effective(task, task.module_path)
        calls = step_calls(task)
        if calls and (options.atomic or not options.results):
            wrong = "atomic=True" if options.atomic else "results=False"
            yield Error(
                f"{task.module_path} calls context.{calls[0].method}(), and has {wrong}: none of its steps is kept.",
                hint=f"Leave {wrong} out, also of OPTIONS, or leave out the steps.",
                id="mailrail.tasks.E007",
            )
        elif any(call.is_atomic for call in calls) and (mistake := _atomic_mistake(backend)):
            yield Error(f"Steps of {task.module_path}: {mistake}", id="mailrail.tasks.E008")


def _check_queues(backend: ChannelBackend) -> Iterator[CheckMessage]:
    for name in sorted(backend.queues, key=str):
        if not is_queue_name(name):
            yield Error(
                f"TASKS[{backend.alias!r}]['QUEUES'] has {name!r}, and no channel can have that name.",
                hint=f"Use 1 to {MAX_QUEUE_NAME_LENGTH} ASCII letters, digits, hyphens, underscores or periods.",
                id="mailrail.tasks.E002",
            )


def check_tasks(**kwargs: Any) -> list[CheckMessage]:
    """Check all our backends, where the backport is used and its own app is not installed to do so."""
    return [message for backend in our_backends() for message in backend.check()]


if HAS_BACKPORT and not apps.is_installed("django_tasks"):
    register(check_tasks)
