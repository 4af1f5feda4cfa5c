"""Carry the permissions of the live page."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Dashboard(models.Model):
    """Stand for the live page in the admin and in its permissions. It has no table and no rows."""

    class Meta:
        managed = False
        verbose_name = _("live page")
        verbose_name_plural = _("live page")
        default_permissions = ()
        permissions = (
            ("view_dashboard", _("Can view the live page")),
            ("operate_dashboard", _("Can act on the live page")),
        )

    def __str__(self) -> str:
        return str(self._meta.verbose_name)
