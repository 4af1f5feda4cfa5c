"""Configure the core app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class MailrailConfig(AppConfig):
    """Configure ``"mailrail"`` in ``INSTALLED_APPS``."""

    name = "mailrail"
    verbose_name = _("Mailrail")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, database_check, leftover_check, project_check  # noqa: F401 - register theirs
