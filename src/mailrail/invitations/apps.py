"""Configure the app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import pgettext_lazy


class InvitationsConfig(AppConfig):
    """Configure ``"mailrail.invitations"`` in ``INSTALLED_APPS``."""

    name = "mailrail.invitations"
    label = "mailrail_invitations"
    verbose_name = pgettext_lazy("invitation", "Invitations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks, and what people on call see."""
        from . import checks, work  # noqa: F401
