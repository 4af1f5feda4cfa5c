"""The app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy


class MailConfig(AppConfig):
    """Configure ``"mailrail.mail"`` in ``INSTALLED_APPS``."""

    name = "mailrail.mail"
    label = "mailrail_mail"
    verbose_name = pgettext_lazy("email", "Email")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, health, unused  # noqa: F401 - register theirs
        from .records import flow  # noqa: F401 - likewise
