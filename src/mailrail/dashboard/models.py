"""Carry the permissions of the live page, and record what people have asked for there."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail import uuid7
from mailrail.moments import MomentField
from mailrail.namespace import OwnRows, namespace_field
from mailrail.pauses import MAX_BY_LENGTH


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


class Operation(models.Model):
    """Record an action that somebody has asked for, on all that a filter meant then, and how far it is.

    ``units``: what it is about, one after the other, such as ``["default", "send-invite"]`` (layer and channel).
    ``place``: the number of the unit that is next, and where in it. ``doing``: ids whose outcome was not stored yet.
    ``subject``: the same for the same action, units and filters, of which one at a time is open.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    namespace = namespace_field()
    action = models.CharField(max_length=20)
    kind = models.CharField(max_length=20)
    units: Any = models.JSONField(default=list)
    filters: Any = models.JSONField(default=dict)
    until = MomentField(default=timezone.now)
    user_id = models.CharField(max_length=100, db_default="", default="")
    by = models.CharField(max_length=MAX_BY_LENGTH, db_default="", default="")
    reason = models.TextField(db_default="", default="")
    form = models.CharField(max_length=64, db_default="", default="")
    subject = models.CharField(max_length=64)
    total = models.BigIntegerField(null=True, db_default=None, default=None)
    done = models.BigIntegerField(db_default=0, default=0)
    left = models.BigIntegerField(db_default=0, default=0)
    place: Any = models.JSONField(default=list)
    doing: Any = models.JSONField(default=list)
    fence = models.BigIntegerField(db_default=0, default=0)
    begun_at = MomentField(null=True, db_default=None, default=None)
    ended_at = MomentField(null=True, db_default=None, default=None)
    is_cancelled = models.BooleanField(db_default=False, default=False)
    error = models.TextField(db_default="", default="")

    objects: ClassVar[models.Manager[Operation]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("dashboard", "operation")
        verbose_name_plural = pgettext_lazy("dashboard", "operations")
        default_permissions = ()
        base_manager_name = "objects"
        indexes = (models.Index(fields=["namespace", "-id"], name="mailrail_operation_recent"),)
        constraints = (
            models.UniqueConstraint(
                fields=["namespace", "subject"],
                condition=models.Q(ended_at=None),
                name="mailrail_operation_open_once",
            ),
            models.UniqueConstraint(
                fields=["namespace", "form"],
                condition=~models.Q(form=""),
                name="mailrail_operation_form_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.id}"
