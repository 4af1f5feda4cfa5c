"""Configure the app."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy

from mailrail.signals import message_cancelled


class TasksConfig(AppConfig):
    """Configure ``"mailrail.tasks"`` in ``INSTALLED_APPS``."""

    name = "mailrail.tasks"
    label = "mailrail_tasks"
    verbose_name = pgettext_lazy("tasks", "Tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, work  # noqa: F401 - register theirs

        message_cancelled.connect(_cancel_task, dispatch_uid="mailrail.tasks.cancelled")


def _cancel_task(*, message: Any, **kwargs: Any) -> None:
    """End the task of a message that somebody has cancelled."""
    from .control import end_task_of

    end_task_of(message)
