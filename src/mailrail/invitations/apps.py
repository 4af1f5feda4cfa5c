"""The app."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InvitationsConfig(AppConfig):
    """``"mailrail.invitations"`` in ``INSTALLED_APPS``."""

    name = "mailrail.invitations"
    label = "mailrail_invitations"
    verbose_name = _("Invitations")
    default_auto_field = "django.db.models.BigAutoField"
