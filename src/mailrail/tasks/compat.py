"""Import the names of ``django.tasks``, or before Django 6.0 those of its backport, the package ``django-tasks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import django

if TYPE_CHECKING or django.VERSION >= (6, 0):
    from django.tasks import (
        DEFAULT_TASK_BACKEND_ALIAS as DEFAULT_TASK_BACKEND_ALIAS,
    )
    from django.tasks import (
        DEFAULT_TASK_QUEUE_NAME as DEFAULT_TASK_QUEUE_NAME,
    )
    from django.tasks import (
        TaskContext as TaskContext,
    )
    from django.tasks import (
        TaskResult as TaskResult,
    )
    from django.tasks import (
        TaskResultStatus as TaskResultStatus,
    )
    from django.tasks import (
        signals as signals,
    )
    from django.tasks import (
        task_backends as task_backends,
    )
    from django.tasks.backends.base import BaseTaskBackend as BaseTaskBackend
    from django.tasks.base import DEFAULT_TASK_PRIORITY as DEFAULT_TASK_PRIORITY
    from django.tasks.base import Task as Task
    from django.tasks.base import TaskError as TaskError
    from django.tasks.exceptions import InvalidTask as InvalidTask
    from django.tasks.exceptions import TaskResultDoesNotExist as TaskResultDoesNotExist
    from django.tasks.exceptions import TaskResultMismatch as TaskResultMismatch
    from django.tasks.signals import task_enqueued as task_enqueued
    from django.tasks.signals import task_finished as task_finished
    from django.tasks.signals import task_started as task_started
else:
    try:
        from django_tasks import (
            DEFAULT_TASK_BACKEND_ALIAS,
            DEFAULT_TASK_QUEUE_NAME,
            TaskContext,
            TaskResult,
            TaskResultStatus,
            signals,
            task_backends,
        )
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import DEFAULT_TASK_PRIORITY, Task, TaskError
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
        from django_tasks.signals import task_enqueued, task_finished, task_started
    except ImportError as error:
        from django.core.exceptions import ImproperlyConfigured

        raise ImproperlyConfigured(
            f"mailrail.tasks needs Django 6.0, or the package django-tasks, and {error}: "
            'pip install "mailrail[tasks]".'
        ) from error

HAS_BACKPORT = not TYPE_CHECKING and django.VERSION < (6, 0)
"""Tell whether the names are those of the package ``django-tasks``."""
