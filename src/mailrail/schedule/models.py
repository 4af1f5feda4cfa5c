"""The tables of the schedule: how each entry stands, and which ticks have been decided.

An entry that code declares has a row for its state alone: pauses, counts, and the tick that was decided last. An entry
of the admin is defined by its row. Columns have database defaults, and migrations only add.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail.moments import MomentField
from mailrail.namespace import OwnRows, namespace_field
from mailrail.terminal import single_line

from .choices import ADMIN, DECISIONS, ENQUEUED, MAX_NAME_LENGTH, MISSED, ONCE, OVERLAP, SKIP, SOURCES


class ScheduleTick(models.Model):
    """A tick of an entry that was decided. The row is the claim: of all workers, one can insert it.

    ``task`` and ``channel``: what was enqueued, the path of a task and the channel of its message, or the channel
    alone. ``run_id``: the id of the task's result, or of the message.
    """

    name = models.CharField(pgettext_lazy("schedule", "name"), max_length=MAX_NAME_LENGTH)
    tick = MomentField(pgettext_lazy("schedule", "tick"))
    decision = models.CharField(
        pgettext_lazy("schedule", "decision"),
        max_length=20,
        choices=DECISIONS,
        default=ENQUEUED,
        db_default=ENQUEUED,
    )
    decided_at = MomentField(pgettext_lazy("schedule", "decided"), default=timezone.now)
    task = models.TextField(pgettext_lazy("schedule", "task"), default="", db_default="")
    channel = models.CharField(pgettext_lazy("schedule", "channel"), max_length=99, default="", db_default="")
    run_id = models.UUIDField(pgettext_lazy("schedule", "run"), null=True, default=None, db_default=None)
    namespace = namespace_field()

    objects: ClassVar[models.Manager[ScheduleTick]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("schedule", "tick")
        verbose_name_plural = pgettext_lazy("schedule", "ticks")
        default_permissions = ("view",)
        constraints = (
            models.UniqueConstraint(fields=["namespace", "name", "tick"], name="mailrail_schedule_tick"),
        )
        indexes = (models.Index(fields=["namespace", "tick"], name="mailrail_schedule_by_tick"),)

    def __str__(self) -> str:
        return single_line(f"{self.name} {self.tick}")


class ScheduleEntry(models.Model):
    """An entry of the schedule: its state, and its definition if it was made in the admin.

    ``cron`` with ``zone``, or ``seconds``: when. ``task`` with ``args`` and ``kwargs``, or ``channel`` with
    ``content``: what. ``times``: the schedule that ``decided_until`` was counted by.
    """

    name = models.CharField(pgettext_lazy("schedule", "name"), max_length=MAX_NAME_LENGTH)
    source = models.CharField(
        pgettext_lazy("schedule", "source"),
        max_length=10,
        choices=SOURCES,
        default=ADMIN,
        db_default=ADMIN,
        editable=False,
    )
    cron = models.CharField(
        pgettext_lazy("schedule", "cron expression"),
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text=pgettext_lazy("schedule", "Minute, hour, day of month, month, day of week: 30 6 * * 1-5"),
    )
    zone = models.CharField(
        pgettext_lazy("schedule", "time zone"),
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text=pgettext_lazy("schedule", "Such as Europe/Berlin; empty: that of the site."),
    )
    seconds = models.PositiveIntegerField(
        pgettext_lazy("schedule", "every so many seconds"),
        null=True,
        blank=True,
        default=None,
        db_default=None,
    )
    task = models.TextField(pgettext_lazy("schedule", "task"), blank=True, default="", db_default="")
    args = models.JSONField(pgettext_lazy("schedule", "arguments"), blank=True, default=list, db_default=[])
    kwargs = models.JSONField(
        pgettext_lazy("schedule", "keyword arguments"), blank=True, default=dict, db_default={}
    )
    channel = models.CharField(
        pgettext_lazy("schedule", "channel"), max_length=99, blank=True, default="", db_default=""
    )
    content = models.JSONField(pgettext_lazy("schedule", "content"), blank=True, default=dict, db_default={})
    missed = models.CharField(
        pgettext_lazy("schedule", "missed ticks"),
        max_length=10,
        choices=MISSED,
        default=ONCE,
        db_default=ONCE,
    )
    overlap = models.CharField(
        pgettext_lazy("schedule", "while the last run has not ended"),
        max_length=10,
        choices=OVERLAP,
        default=SKIP,
        db_default=SKIP,
    )
    jitter = models.FloatField(
        pgettext_lazy("schedule", "jitter"),
        default=0.0,
        db_default=0.0,
        help_text=pgettext_lazy("schedule", "Seconds: each run is delayed at random, by so many at most."),
    )

    paused_at = MomentField(
        pgettext_lazy("schedule", "paused"), null=True, default=None, db_default=None, editable=False
    )
    paused_by = models.CharField(
        pgettext_lazy("schedule", "paused by"), max_length=200, default="", db_default="", editable=False
    )
    paused_reason = models.TextField(
        pgettext_lazy("schedule", "reason of the pause"), default="", db_default="", editable=False
    )
    times = models.TextField(default="", db_default="", editable=False)
    decided_until = MomentField(default=timezone.now, editable=False)
    """All ticks up to this moment are decided."""
    last = models.ForeignKey(
        ScheduleTick,
        models.SET_NULL,
        verbose_name=pgettext_lazy("schedule", "last run"),
        null=True,
        default=None,
        related_name="+",
        editable=False,
    )
    """The tick, or the order of a person, that was enqueued last."""
    missed_count = models.IntegerField(
        pgettext_lazy("schedule", "missed"), default=0, db_default=0, editable=False
    )
    """Ticks that nobody could decide in time, and that were not run later either."""
    skipped_count = models.IntegerField(
        pgettext_lazy("schedule", "skipped"), default=0, db_default=0, editable=False
    )
    """Ticks that were not run because the last run had not ended, or the channel was paused."""
    namespace = namespace_field()

    objects: ClassVar[models.Manager[ScheduleEntry]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("schedule", "entry")
        verbose_name_plural = pgettext_lazy("schedule", "entries")
        ordering = ("name",)
        permissions = (
            ("pause_scheduleentry", _("Can pause and resume entries of the schedule")),
            ("run_scheduleentry", _("Can run entries of the schedule now")),
        )
        constraints = (models.UniqueConstraint(fields=["namespace", "name"], name="mailrail_schedule_name"),)

    def __str__(self) -> str:
        return single_line(self.name)
