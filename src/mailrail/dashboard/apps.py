"""Configure the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy


class DashboardConfig(AppConfig):
    """Configure ``"mailrail.dashboard"`` in ``INSTALLED_APPS``."""

    name = "mailrail.dashboard"
    label = "mailrail_dashboard"
    verbose_name = pgettext_lazy("dashboard", "Live page")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and what the page itself knows."""
        from mailrail.monitoring import register_operations

        from . import checks  # noqa: F401
        from .operation_words import recent_operations

        register_operations(recent_operations)
