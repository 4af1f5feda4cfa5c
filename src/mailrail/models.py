"""Define the tables of the database layer.

The layer itself writes SQL (``layers/``); these models are for migrations, the admin and queries by hand. Every column
has a database default, and migrations only add. So workers of the release before and of the one after run on the same
schema. Names of channels, buckets and workers are qualified here (``mailrail.namespace``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from .moments import aware, from_timestamp
from .namespace import MAX_PREFIX_LENGTH
from .pauses import MAX_BY_LENGTH
from .tracebacks import MAX_ERROR_CLASS_LENGTH


class Instant(models.FloatField):  # type: ignore[type-arg]  # generic only for the type checker
    """Store a moment as Unix seconds, the same on every database; read it as a datetime of this project."""

    def from_db_value(self, value: float | None, *args: Any) -> datetime | None:
        return None if value is None else from_timestamp(value)

    def get_prep_value(self, value: Any) -> Any:
        return aware(value).timestamp() if isinstance(value, datetime) else super().get_prep_value(value)

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, datetime) else super().to_python(value)


class MessageFields(models.Model):
    """Declare the columns that waiting and dead messages share, named as in ``mailrail.messages.Message``."""

    id = models.UUIDField(primary_key=True, editable=False)
    channel = models.CharField(max_length=99 + MAX_PREFIX_LENGTH, db_default="")
    content = models.TextField(db_default="{}", help_text=_("A JSON object."))
    headers = models.TextField(db_default="{}", help_text=_("A JSON object."))
    v = models.SmallIntegerField(db_default=1)
    lane = models.CharField(max_length=255, null=True, db_default=None)  # noqa: DJ001 - NULL: in no lane
    lane_seq = models.BigIntegerField(null=True, db_default=None)
    places = models.IntegerField(null=True, db_default=None, help_text=_("How many of its lane run at once."))
    attempt = models.IntegerField(db_default=0)
    losses = models.IntegerField(db_default=0)
    alone = models.BooleanField(db_default=False)
    max_attempts = models.IntegerField(null=True, db_default=None)
    priority = models.SmallIntegerField(db_default=0)
    due = Instant(db_default=0.0)
    expires = Instant(null=True, db_default=None)
    sent_at = Instant(db_default=0.0)
    key = models.CharField(max_length=255, null=True, db_default=None)  # noqa: DJ001 - NULL: has none

    class Meta:
        abstract = True


class StoredMessage(MessageFields):
    """Store a waiting or claimed message. Finished ones are deleted; dead ones move to ``BuriedMessage``."""

    unique_key = models.CharField(  # noqa: DJ001 - NULL: started, so the key is free
        max_length=255,
        null=True,
        db_default=None,
        help_text=_("The key, until the message is first claimed."),
    )
    # 0 or 1. A BooleanField would not do: Django's releases differ in how they write the condition of an index on one.
    # SQLite uses a partial index only for a query that repeats the condition word for word.
    held = models.SmallIntegerField(db_default=0, help_text=_("1: behind another message of its lane."))
    worker = models.CharField(  # noqa: DJ001 - NULL: not claimed
        max_length=255 + MAX_PREFIX_LENGTH, null=True, db_default=None
    )
    error = models.TextField(db_default="", help_text=_("The error of its last run."))
    token = models.BigIntegerField(null=True, db_default=None, help_text=_("Guards the claim."))

    class Meta:
        db_table = "mailrail_message"
        verbose_name = _("waiting message")
        verbose_name_plural = _("waiting messages")
        default_permissions = ("view",)
        permissions = (("cancel_message", _("Can cancel waiting messages")),)
        indexes = (
            # claim: per channel and priority in use, oldest due first
            models.Index(
                "channel",
                models.F("priority").desc(),
                "due",
                "id",
                name="mailrail_ready",
                condition=models.Q(held=0),
            ),
            # the order within a lane, and its tail; and who has one of several places
            models.Index(
                fields=["channel", "lane", "lane_seq"],
                name="mailrail_lane",
                condition=models.Q(lane__isnull=False, lane_seq__isnull=False),
            ),
            # what waits for a place in its lane, and what has not been looked at yet
            models.Index(
                "channel",
                "lane",
                models.F("priority").desc(),
                "due",
                "id",
                name="mailrail_parked",
                condition=models.Q(held=1, places__isnull=False),
            ),
            models.Index(
                fields=["channel", "lane", "due", "id"],
                name="mailrail_unplaced",
                condition=models.Q(held=0, places__isnull=False, lane_seq__isnull=True),
            ),
            # for counts and pages of held messages, which the first index leaves out; in the order of pages
            models.Index(
                fields=["channel", "due", "id"],
                name="mailrail_held",
                condition=models.Q(held=1),
            ),
            models.Index(
                fields=["channel", "expires"],
                name="mailrail_expires",
                condition=models.Q(expires__isnull=False),
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["channel", "unique_key"],
                name="mailrail_key",
                condition=models.Q(unique_key__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.channel} {self.id}"


class BuriedMessage(MessageFields):
    """Store a dead message until somebody requeues or discards it."""

    error = models.TextField(db_default="")
    error_class = models.CharField(max_length=MAX_ERROR_CLASS_LENGTH, db_default="")
    buried_at = Instant(db_default=0.0)

    class Meta:
        db_table = "mailrail_dead"
        verbose_name = _("dead message")
        verbose_name_plural = _("dead messages")
        default_permissions = ("view",)
        permissions = (
            ("requeue_message", _("Can send dead messages again")),
            ("discard_message", _("Can discard dead messages")),
        )
        indexes = (
            models.Index(fields=["channel", "-buried_at", "-id"], name="mailrail_dead_recent"),
            # for the admin's filter by error class, in the same order
            models.Index(fields=["channel", "error_class", "-buried_at", "-id"], name="mailrail_dead_class"),
        )

    def __str__(self) -> str:
        return f"{self.channel} {self.id}"


class PausedChannel(models.Model):
    """Store a paused channel: no worker claims its messages."""

    channel = models.CharField(max_length=99 + MAX_PREFIX_LENGTH, primary_key=True)
    since = Instant(db_default=0.0)
    paused_by = models.CharField(max_length=MAX_BY_LENGTH, db_default="")
    reason = models.TextField(db_default="")

    class Meta:
        db_table = "mailrail_pause"

    def __str__(self) -> str:
        return self.channel


class TokenBucket(models.Model):
    """Store the token bucket of a rate that all workers share."""

    name = models.CharField(max_length=255 + MAX_PREFIX_LENGTH, primary_key=True)
    tokens = models.FloatField(db_default=0.0)
    filled_at = Instant(db_default=0.0)

    class Meta:
        db_table = "mailrail_bucket"

    def __str__(self) -> str:
        return self.name


class LiveWorker(models.Model):
    """Store the last heartbeat of a worker."""

    id = models.CharField(max_length=255 + MAX_PREFIX_LENGTH, primary_key=True)
    details = models.TextField(db_default="{}", help_text=_("A JSON object."))
    seen = Instant(db_default=0.0)

    class Meta:
        db_table = "mailrail_worker"

    def __str__(self) -> str:
        return self.id


class HistoryRecord(models.Model):
    """Store what happened in a series within a minute or an hour (``mailrail.layers.history``)."""

    pk = models.CompositePrimaryKey("kind", "name", "start", "span")
    kind = models.CharField(max_length=10, db_default="")
    name = models.CharField(max_length=255 + MAX_PREFIX_LENGTH, db_default="")
    start = models.BigIntegerField(db_default=0)  # Unix seconds
    span = models.IntegerField(db_default=60)  # seconds
    sent = models.IntegerField(db_default=0)
    done = models.IntegerField(db_default=0)
    retried = models.IntegerField(db_default=0)
    buried = models.IntegerField(db_default=0)
    expired = models.IntegerField(db_default=0)
    longest_wait = models.FloatField(db_default=0.0)

    class Meta:
        db_table = "mailrail_history"
        default_permissions = ()
        # for rates of all series, and to merge and to forget
        indexes = (models.Index(fields=["span", "start"], name="mailrail_history_start"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.start}"


for _bucket in range(24):  # histograms: of the seconds from due to claim, and of the run
    HistoryRecord.add_to_class(f"wait{_bucket}", models.IntegerField(db_default=0))
    HistoryRecord.add_to_class(f"run{_bucket}", models.IntegerField(db_default=0))


class Trouble(models.Model):
    """Store a group of what went wrong: an exception on a channel, or a reply to a mailer."""

    pk = models.CompositePrimaryKey("kind", "name", "what")
    kind = models.CharField(max_length=10, db_default="")
    name = models.CharField(max_length=255 + MAX_PREFIX_LENGTH, db_default="")
    what = models.CharField(max_length=300, db_default="")
    count = models.IntegerField(db_default=0)
    buried = models.IntegerField(db_default=0)  # of count, ended for good
    first_at = Instant(db_default=0.0)
    last_at = Instant(db_default=0.0)

    class Meta:
        db_table = "mailrail_trouble"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}"
