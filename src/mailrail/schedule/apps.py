"""Configure the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy

from mailrail.worker import register_service


class ScheduleConfig(AppConfig):
    """Configure ``"mailrail.schedule"`` in ``INSTALLED_APPS``."""

    name = "mailrail.schedule"
    label = "mailrail_schedule"
    verbose_name = pgettext_lazy("schedule", "Schedule")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, engine  # noqa: F401 - the checks register themselves

        register_service("the schedule", engine.look)
