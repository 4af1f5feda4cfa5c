"""Configure the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy


class TasksConfig(AppConfig):
    """Configure ``"mailrail.tasks"`` in ``INSTALLED_APPS``."""

    name = "mailrail.tasks"
    label = "mailrail_tasks"
    verbose_name = pgettext_lazy("tasks", "Tasks")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401 - registers its own
