"""The records: one row for each enqueued task, which says what is to run, how it stands, and what came of it.

The message on ``tasks.<queue>`` carries a row's id and says "now"; the row is what ``get_result`` reads. Columns have
database defaults, and migrations only add. ``TaskRecord.objects`` are those of the namespace of this project.
"""

from __future__ import annotations

import json
from datetime import datetime
from math import isfinite
from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail import uuid7
from mailrail.moments import MomentField, aware
from mailrail.monitoring import FailedItem, WorkProgress
from mailrail.namespace import OwnRows, namespace_field
from mailrail.terminal import single_line

from .json_values import dumps

READY, RUNNING, FAILED, SUCCESSFUL = "READY", "RUNNING", "FAILED", "SUCCESSFUL"
UNFINISHED = (READY, RUNNING)
FINAL = (FAILED, SUCCESSFUL)
STATUSES = (
    (READY, pgettext_lazy("tasks", "ready")),
    (RUNNING, pgettext_lazy("tasks", "running")),
    (FAILED, pgettext_lazy("tasks", "failed")),
    (SUCCESSFUL, pgettext_lazy("tasks", "successful")),
)

HOLDS_KEY = models.Q(key__gt="") & (
    models.Q(status=READY, started_at=None) | models.Q(while_running=1, status__in=UNFINISHED)
)
"""Which records keep others with their key from being enqueued. Whatever ends a task frees its key."""


class JsonTextField(models.TextField):  # type: ignore[type-arg]  # generic only for the type checker
    """Store JSON as text, exactly. PostgreSQL's ``jsonb`` refuses NUL, and halves of surrogate pairs.

    Migrations see a ``TextField``.
    """

    def deconstruct(self) -> Any:
        name, _path, arguments, options = super().deconstruct()
        options.pop("default", None)
        return name, "django.db.models.TextField", arguments, options

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else dumps(value)

    def from_db_value(self, value: str | None, *args: Any) -> Any:
        return None if value is None else json.loads(value)


_OBJECT = models.Value("{}", output_field=models.TextField())
_LIST = models.Value("[]", output_field=models.TextField())


def new_id() -> UUID:
    """Return an id for a new record. Ids are in the order of their making."""
    return uuid7()


class TaskRecord(models.Model):
    """An enqueued task, and what became of it.

    ``options``: those that this call has changed (``mailrail.tasks.options``). ``worker_ids``: one for each attempt.
    ``errors``: ``{"class": dotted path, "traceback": text}``, the newest 20.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    status = models.CharField(
        pgettext_lazy("tasks", "status"), max_length=10, choices=STATUSES, default=READY, db_default=READY
    )
    task = models.TextField(pgettext_lazy("tasks", "task"), db_default="", help_text="shop.tasks.sync")
    queue = models.CharField(pgettext_lazy("tasks", "queue"), max_length=93, db_default="default")
    backend = models.TextField(pgettext_lazy("tasks", "backend"), db_default="default")
    priority = models.SmallIntegerField(pgettext_lazy("tasks", "priority"), default=0, db_default=0)
    run_after = MomentField(pgettext_lazy("tasks", "not before"), null=True, default=None, db_default=None)
    expires_at = MomentField(pgettext_lazy("tasks", "not after"), null=True, default=None, db_default=None)
    lane = models.CharField(pgettext_lazy("tasks", "lane"), max_length=255, default="", db_default="")
    key = models.CharField(pgettext_lazy("tasks", "key"), max_length=255, default="", db_default="")
    while_running = models.SmallIntegerField(default=0, db_default=0, editable=False)
    """1: the task has its key until it is finished, and not only until it begins. It is a number because releases of
    Django write conditions on a BooleanField differently, and SQLite compares the texts of conditions."""
    rate = models.CharField(pgettext_lazy("tasks", "rate"), max_length=40, default="", db_default="")
    places = models.IntegerField(null=True, default=None, db_default=None, editable=False)
    """How many of its lane run at once; ``None``: one, in order."""
    timeout = models.FloatField(
        pgettext_lazy("tasks", "time limit"),
        null=True,
        default=None,
        db_default=None,
        help_text=pgettext_lazy("tasks", "seconds"),
    )
    is_async = models.BooleanField(default=False, db_default=False, editable=False)
    """Whether the task is a coroutine function, and so runs on the event loop of a worker."""
    is_isolated = models.BooleanField(default=False, db_default=False, editable=False)
    """Whether it runs in a process of its own, which can be killed."""
    options = JsonTextField(pgettext_lazy("tasks", "options"), default=dict, db_default=_OBJECT)
    args = JsonTextField(pgettext_lazy("tasks", "arguments"), default=list, db_default=_LIST)
    kwargs = JsonTextField(pgettext_lazy("tasks", "keyword arguments"), default=dict, db_default=_OBJECT)

    return_value = JsonTextField(
        pgettext_lazy("tasks", "return value"), null=True, default=None, db_default=None
    )
    errors = JsonTextField(pgettext_lazy("tasks", "errors"), default=list, db_default=_LIST)
    failures = models.IntegerField(pgettext_lazy("tasks", "failed attempts"), default=0, db_default=0)
    worker_ids = models.JSONField(pgettext_lazy("tasks", "workers"), default=list, db_default=[])
    progress = JsonTextField(pgettext_lazy("tasks", "progress"), null=True, default=None, db_default=None)
    metadata = JsonTextField(pgettext_lazy("tasks", "metadata"), default=dict, db_default=_OBJECT)

    enqueued_at = MomentField(pgettext_lazy("tasks", "enqueued"), default=timezone.now)
    started_at = MomentField(
        pgettext_lazy("tasks", "first started"), null=True, default=None, db_default=None
    )
    last_attempted_at = MomentField(
        pgettext_lazy("tasks", "last started"), null=True, default=None, db_default=None
    )
    finished_at = MomentField(pgettext_lazy("tasks", "finished"), null=True, default=None, db_default=None)
    kept_until = MomentField(pgettext_lazy("tasks", "kept until"), null=True, default=None, db_default=None)
    cancelled_at = MomentField(pgettext_lazy("tasks", "cancelled"), null=True, default=None, db_default=None)
    """When somebody cancelled it while it ran. There is no other attempt then."""
    is_cancelled_hard = models.BooleanField(default=False, db_default=False, editable=False)
    """Whether the process that runs it is to be killed, as it was cancelled by ``hard=True``."""
    is_killable = models.BooleanField(default=False, db_default=False, editable=False)
    """Whether the attempt that began last runs in a process of its own, as with ``runworker --isolate``."""

    dispatch = models.IntegerField(default=0, db_default=0, editable=False)
    """The number of the message that may run it: a retry by a person sends a new one, and voids the older."""
    token = models.BigIntegerField(null=True, default=None, db_default=None, editable=False)
    """The fencing token of the claim whose attempt runs; only that attempt may write what came of it."""
    fence = models.FloatField(null=True, default=None, db_default=None, editable=False)
    """When the lease of that claim was to end, on the storage's clock. Of two claims of a message, the later one has
    the greater value. So an attempt of the earlier one is refused."""

    batch_id = models.UUIDField(null=True, default=None, db_default=None, editable=False)
    """The batch of which it is a member."""
    follows_id = models.UUIDField(null=True, default=None, db_default=None, editable=False)
    """The batch after which it is enqueued, as its ``then``, ``on_failure`` or ``on_finish``."""
    held = models.SmallIntegerField(default=0, db_default=0, editable=False)
    """1: that batch has not got so far, and it has no message yet. It is a number as ``while_running`` is."""

    namespace = namespace_field()

    began_in_transaction: bool = False
    """Of the attempt that this process has begun: whether that is not committed yet."""

    objects: ClassVar[models.Manager[TaskRecord]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("tasks", "task")
        verbose_name_plural = pgettext_lazy("tasks", "tasks")
        ordering = ("-id",)
        permissions = (
            ("view_task_arguments", _("Can view the arguments and results of tasks")),
            ("retry_task", _("Can run tasks again")),
            ("cancel_task", _("Can cancel tasks")),
            ("kill_task", _("Can cancel tasks and kill their processes")),
        )
        indexes = (
            models.Index(fields=["namespace", "status", "-id"], name="mailrail_tasks_status"),
            # Reconciliation: what is not finished, the oldest first, however many finished ones there are.
            models.Index(
                fields=["namespace", "queue", "id"],
                name="mailrail_tasks_unfinished",
                condition=models.Q(status__in=UNFINISHED),
            ),
            # Pruning: written once for each task, when it ends.
            models.Index(
                fields=["namespace", "kept_until"],
                name="mailrail_tasks_kept_until",
                condition=models.Q(kept_until__isnull=False),
            ),
            # Batches: whether a member is unfinished, and how many have which status.
            models.Index(
                fields=["batch_id", "status", "id"],
                name="mailrail_tasks_members",
                condition=models.Q(batch_id__isnull=False),
            ),
        )

        constraints = (
            models.UniqueConstraint(
                fields=["namespace", "queue", "key", "task"], name="mailrail_tasks_key", condition=HOLDS_KEY
            ),
        )

    def __str__(self) -> str:
        return single_line(f"{self.task} {self.id}")

    def mailrail_progress(self) -> WorkProgress:
        """Return how far it is, for ``{% mailrail_progress task %}``, as its attempt has told by ``context.progress``.

        A task that told nothing is one thing to do.
        """
        told = self.progress if isinstance(self.progress, dict) else {}
        is_over, failed = self.status in FINAL, int(self.status == FAILED)
        failures = [FailedItem(self.task)] if failed else []
        total = _amount(told.get("total"))
        if told.get("done") is None:
            return WorkProgress(int(self.status == SUCCESSFUL), 1, failed, failures, is_over)
        done = _amount(told["done"]) or 0
        text = str(told.get("text") or "")
        return WorkProgress(done if total is None else min(done, total), total, 0, failures, is_over, text)


def _amount(value: Any) -> float | None:
    """Return a number that a task has told, as far as it is one that a bar can show."""
    is_amount = isinstance(value, int | float) and isfinite(value)
    return max(0.0, value) if is_amount else None


class TaskStep(models.Model):
    """What a step of a task has returned, or how far a loop of ``context.each`` is. It goes with its record.

    ``value``: of a loop, its ``Position``. Attempts write steps only by ``kept_steps.keep``, which is fenced.
    """

    # Without a constraint in the database: it would cost something for each record that is removed, with steps or not.
    task = models.ForeignKey(
        TaskRecord, models.CASCADE, related_name="steps", db_constraint=False, db_index=False
    )
    name = models.CharField(max_length=255)
    is_loop = models.BooleanField(default=False, db_default=False)
    value = JsonTextField(null=True, default=None, db_default=None)
    started_at = MomentField()
    finished_at = MomentField()

    class Meta:
        verbose_name = pgettext_lazy("tasks", "step")
        verbose_name_plural = pgettext_lazy("tasks", "steps")
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=["task", "name"], name="mailrail_tasks_step"),)

    def __str__(self) -> str:
        return single_line(self.name)


class BatchRecord(models.Model):
    """Tasks that were enqueued together, and what is enqueued once they have ended. ``mailrail.tasks.batch`` makes it.

    ``then_id``, ``on_failure_id`` and ``on_finish_id``: of the records of its followers, held back until then.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    related_object = models.CharField(
        pgettext_lazy("batch", "about"),
        max_length=255,
        default="",
        db_default="",
        help_text="app_label.model:pk",
    )
    then_id = models.UUIDField(null=True, default=None, db_default=None, editable=False)
    on_failure_id = models.UUIDField(null=True, default=None, db_default=None, editable=False)
    on_finish_id = models.UUIDField(null=True, default=None, db_default=None, editable=False)
    created_at = MomentField(pgettext_lazy("batch", "made"), default=timezone.now)
    failed_at = MomentField(pgettext_lazy("batch", "first failure"), null=True, default=None, db_default=None)
    """When the first task was seen to have failed for good."""
    finished_at = MomentField(pgettext_lazy("batch", "ended"), null=True, default=None, db_default=None)
    """When all tasks had ended. Nothing that happens to a task later changes the batch."""
    cancelled_at = MomentField(pgettext_lazy("batch", "cancelled"), null=True, default=None, db_default=None)
    kept_until = MomentField(pgettext_lazy("batch", "kept until"), null=True, default=None, db_default=None)
    total = models.IntegerField(null=True, default=None, db_default=None, editable=False)
    """Its tasks, counted when it ended."""
    failed = models.IntegerField(null=True, default=None, db_default=None, editable=False)
    """Those that had failed when it ended."""
    forgotten = models.IntegerField(default=0, db_default=0, editable=False)
    """Successful tasks whose records had been removed when the batch was opened again, to retry the failed."""
    namespace = namespace_field()

    objects: ClassVar[models.Manager[BatchRecord]] = OwnRows()

    class Meta:
        verbose_name = pgettext_lazy("tasks", "batch")
        verbose_name_plural = pgettext_lazy("tasks", "batches")
        ordering = ("-id",)
        indexes = (
            models.Index(
                fields=["namespace", "id"],
                name="mailrail_tasks_open_batches",
                condition=models.Q(finished_at__isnull=True),
            ),
            models.Index(
                fields=["namespace", "kept_until"],
                name="mailrail_tasks_old_batches",
                condition=models.Q(kept_until__isnull=False),
            ),
            models.Index(
                fields=["namespace", "related_object"],
                name="mailrail_tasks_about",
                condition=models.Q(related_object__gt=""),
            ),
        )

    def __str__(self) -> str:
        return single_line(f"{self.related_object} {self.id}".strip())


def first_id(moment: datetime) -> UUID:
    """Return the lowest id of records that were made at that moment: a UUIDv7 begins with milliseconds (RFC 9562
    5.7)."""
    return UUID(int=int(aware(moment).timestamp() * 1000) << 80)
