"""The admin of batches: how far they are, and what people may decide about them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext, ngettext, pgettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.keyset_admin import (
    ActionAdmin,
    Filter,
    KeysetChangeList,
    ReadOnlyAdminMixin,
    WordFilter,
    breakable,
    few_of,
    short_time,
)

from .batches import Batch
from .models import UNFINISHED, BatchRecord, TaskRecord
from .queues import used_databases

# By name: a label, the permission of the app, and the method of a batch, which returns how many tasks it has changed.
DECISIONS = {
    "retry": (_("Run the failed tasks again"), "retry_task", Batch.retry_failed),
    "cancel": (pgettext_lazy("batch", "Cancel"), "cancel_task", Batch.cancel),
}
FOLLOWERS = (
    ("then", pgettext_lazy("batch", "when all have succeeded")),
    ("on_failure", pgettext_lazy("batch", "at the first failure")),
    ("on_finish", pgettext_lazy("batch", "when all have ended")),
)


class DatabaseFilter(Filter):
    """Choose among the databases that keep tasks, if there are several. ``OfTaskDatabasesMixin`` reads the choice."""

    title = pgettext_lazy("tasks", "database")
    parameter_name = "database"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        aliases = used_databases()
        return [(alias, alias) for alias in aliases] if len(aliases) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset


class OfTaskDatabasesMixin:
    """List the rows of one database that keeps tasks: the one that was asked for, or the first."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        aliases, asked = used_databases(), request.GET.get(DatabaseFilter.parameter_name)
        rows: QuerySet[Any] = super().get_queryset(request)  # type: ignore[misc]
        return rows.using(asked if asked in aliases else aliases[0]) if aliases else rows


class OpenFilter(Filter):
    """Filter by whether batches have ended; the open ones have an index."""

    title = pgettext_lazy("batch", "status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", pgettext_lazy("batch", "open")), ("ended", pgettext_lazy("batch", "ended"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        self.is_windowed = self.value() == "ended"
        if self.value() not in ("open", "ended"):
            return queryset
        return queryset.filter(finished_at__isnull=self.value() == "open")


class BatchAboutFilter(WordFilter):
    """Filter by what batches are about."""

    title = pgettext_lazy("batch", "about")
    parameter_name = "about"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        found = queryset.filter(related_object=self.value())
        ids = few_of(BatchRecord.objects.using(queryset.db).filter(related_object=self.value()))
        self.is_windowed = ids is None
        return found if ids is None else queryset.filter(pk__in=ids)


class BatchChangeList(KeysetChangeList):
    """List batches, the newest first, with how many tasks of the open ones are unfinished."""

    time_field = "created_at"

    def show(self, page: list[BatchRecord], last: Any) -> None:
        opened = [batch.pk for batch in page if batch.finished_at is None]
        members = TaskRecord.objects.using(self.queryset.db).filter(
            batch_id__in=opened, status__in=UNFINISHED
        )
        counts = dict(members.order_by().values_list("batch_id").annotate(Count("pk"))) if opened else {}
        for batch in page:
            vars(batch)["unfinished"] = counts.get(batch.pk, 0)
        super().show(page, last)


@admin.register(BatchRecord)
class BatchRecordAdmin(OfTaskDatabasesMixin, ReadOnlyAdminMixin, ActionAdmin):
    """Show batches of tasks and act on them. They are neither made, changed nor deleted here."""

    change_form_template = "mailrail_tasks/admin/batch.html"
    list_display = ("title", "about", "shown_status", "tasks", "made", "ended")
    list_filter = (OpenFilter, BatchAboutFilter, DatabaseFilter)
    actions = ()
    fieldsets = (
        (None, {"fields": (("shown_status", "progress"), ("about", "id"), ("members", "followers"))}),
        (
            pgettext_lazy("tasks", "Times"),
            {"fields": (("created_at", "failed_at", "finished_at"), ("cancelled_at", "kept_until"))},
        ),
    )
    readonly_fields = ("id", "about", "shown_status", "progress", "members", "followers")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the batch with this id, whichever database keeps it."""
        try:
            return Batch.get(BatchRecord._meta.pk.to_python(object_id)).record
        except (ValidationError, BatchRecord.DoesNotExist):
            return None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[BatchChangeList]:
        return BatchChangeList

    # -- columns --------------------------------------------------------------------------------------------------

    @admin.display(description=pgettext_lazy("tasks", "batch"))
    def title(self, batch: BatchRecord) -> str:
        return breakable(str(batch.pk))

    @admin.display(description=pgettext_lazy("batch", "about"))
    def about(self, batch: BatchRecord) -> str:
        return breakable(batch.related_object) or str(self.get_empty_value_display())

    @admin.display(description=pgettext_lazy("batch", "status"))
    def shown_status(self, batch: BatchRecord) -> str:
        name, label = _status(batch)
        return format_html('<span class="mailrail-status" data-status="{}">{}</span>', name, label)

    @admin.display(description=pgettext_lazy("batch", "tasks"))
    def tasks(self, batch: Any) -> str:
        if batch.finished_at is None:
            text = ngettext("%(count)d unfinished", "%(count)d unfinished", batch.unfinished)
            return text % {"count": batch.unfinished}
        return _counts(batch.total or 0, batch.failed or 0)

    @admin.display(description=pgettext_lazy("batch", "made"))
    def made(self, batch: BatchRecord) -> str | None:
        return short_time(batch.created_at)

    @admin.display(description=pgettext_lazy("batch", "ended"))
    def ended(self, batch: BatchRecord) -> str | None:
        return short_time(batch.finished_at)

    # -- one batch ------------------------------------------------------------------------------------------------

    @admin.display(description=pgettext_lazy("tasks", "progress"))
    def progress(self, batch: BatchRecord) -> str:
        found = _handle(batch).progress
        if found.done == found.total:
            return _counts(found.total, found.failed)
        values = {"done": found.done, "total": found.total, "failed": found.failed, "running": found.running}
        text = gettext(
            "%(done)d of %(total)d have ended, of which %(failed)d failed; %(running)d are running"
        )
        return text % values

    @admin.display(description=pgettext_lazy("batch", "tasks"))
    def members(self, batch: BatchRecord) -> str:
        url = reverse(f"{self.admin_site.name}:mailrail_tasks_taskrecord_changelist")
        asked = f"?batch={batch.pk}&database={batch._state.db}"
        return format_html('<a href="{}{}">{}</a>', url, asked, gettext("Show its tasks"))

    @admin.display(description=pgettext_lazy("batch", "followed by"))
    def followers(self, batch: BatchRecord) -> str:
        ids = {getattr(batch, f"{name}_id"): label for name, label in FOLLOWERS}
        records = TaskRecord.objects.using(batch._state.db).filter(
            pk__in=[id for id in ids if id is not None]
        )
        name = f"{self.admin_site.name}:mailrail_tasks_taskrecord_change"
        links = [
            (reverse(name, args=(record.pk,)), breakable(record.task), ids[record.pk]) for record in records
        ]
        shown = format_html_join("", '<div><a href="{}">{}</a> {}</div>', links)
        return shown or str(self.get_empty_value_display())

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        batch = self.get_object(request, unquote(object_id))
        context: dict[str, Any] = {}
        if batch is not None and self.has_view_permission(request, batch):
            context = {
                "shown_name": breakable(str(batch)),
                "decisions": self._decisions(request, batch),
                "progress": _handle(batch).mailrail_progress(),
            }
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def _decisions(self, request: HttpRequest, batch: BatchRecord) -> list[tuple[str, Any]]:
        """Return the buttons that this user may press now."""
        applies = {
            "cancel": batch.finished_at is None,
            "retry": bool(_handle(batch).progress.failed),
        }
        return [
            (name, label)
            for name, (label, permission, _) in DECISIONS.items()
            if applies[name] and _may(request, permission)
        ]

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        batch = self.get_object(request, object_id)
        if not self.has_view_permission(request, batch):
            raise PermissionDenied
        if batch is None or name not in DECISIONS:
            raise Http404
        label, permission, act = DECISIONS[name]
        if not _may(request, permission):
            raise PermissionDenied
        count = act(_handle(batch))
        self.log_change(request, batch, str(label))
        text = ngettext("%(what)s: %(count)d task.", "%(what)s: %(count)d tasks.", count)
        self.message_user(request, text % {"what": label, "count": count}, messages.SUCCESS)
        return redirect(
            reverse(f"{self.admin_site.name}:mailrail_tasks_batchrecord_change", args=(batch.pk,))
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _may(request: HttpRequest, permission: str) -> bool:
    return request.user.has_perm(f"mailrail_tasks.{permission}")


def _handle(batch: BatchRecord) -> Batch:
    return Batch(batch.pk, batch._state.db or "default")


def _status(batch: BatchRecord) -> tuple[str, str]:
    """Return the status of a batch, as style sheets know those of tasks, with its name for people."""
    if batch.finished_at is None:
        is_stopping = batch.cancelled_at is not None
        return "running", pgettext("batch", "open, cancelled") if is_stopping else pgettext("batch", "open")
    if batch.cancelled_at is not None:
        return "failed", pgettext("batch", "cancelled")
    return (
        ("failed", pgettext("batch", "failed"))
        if batch.failed
        else ("successful", pgettext("batch", "successful"))
    )


def _counts(total: int, failed: int) -> str:
    text = gettext("%(successful)d successful, %(failed)d failed")
    return text % {"successful": total - failed, "failed": failed}
