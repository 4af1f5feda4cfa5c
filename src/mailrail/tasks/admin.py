"""The admin of tasks: found by what an index has, or in a window; and what people may decide about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext, pgettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.keyset_admin import (
    ActionAdmin,
    Filter,
    KeysetChangeList,
    ReadOnlyAdminMixin,
    ShownText,
    WordFilter,
    breakable,
    few_of,
    short_time,
)
from mailrail.moments import seconds_between
from mailrail.record_links import link_records
from mailrail.redaction import redacted_arguments, shown_json
from mailrail.terminal import single_line

from . import control
from .batch_admin import BatchRecordAdmin, DatabaseFilter, OfTaskDatabasesMixin
from .models import FAILED, FINAL, READY, RUNNING, STATUSES, TaskRecord
from .overview import last_error, steps_of
from .queues import PREFIX, known_channels, queue_of

__all__ = ["BatchRecordAdmin", "TaskRecordAdmin"]

MAX_SHOWN_STEPS = 200
"""Steps on the page of a task, the newest."""
MAX_LISTED_CHARACTERS = 120
"""Characters of an error in a row of the list."""
NOT_LISTED = ("args", "kwargs", "return_value", "metadata", "progress", "options")
"""Columns that the list does not read: they may be large."""


@dataclass(frozen=True)
class TaskAction:
    """Describe an action of people: by a button, for tasks of these statuses, and in the list."""

    label: Any
    run: Callable[[Iterable[UUID]], control.TaskChanges]
    permission: str
    statuses: tuple[str, ...]

    def is_offered(self, task: TaskRecord) -> bool:
        """Tell whether the page of a task has a button for it."""
        is_stopping = task.status == RUNNING and task.cancelled_at is not None
        return task.status in self.statuses and not is_stopping


class KillAction(TaskAction):
    """Describe the action for tasks that run in processes of their own, also if they were told to stop."""

    def is_offered(self, task: TaskRecord) -> bool:
        return task.status in self.statuses and task.is_killable and not task.is_cancelled_hard


ACTIONS = {
    "retry": TaskAction(_("Run again"), control.retry_all, "retry_task", (FAILED,)),
    "copy": TaskAction(_("Run again as a new task"), control.run_again_all, "retry_task", FINAL),
    "cancel": TaskAction(
        pgettext_lazy("task", "Cancel"), control.cancel_all, "cancel_task", (READY, RUNNING)
    ),
    "kill": KillAction(
        pgettext_lazy("task", "Kill"), partial(control.cancel_all, hard=True), "kill_task", (RUNNING,)
    ),
}


class TaskStatusFilter(Filter):
    """Filter by an index in the order of the list."""

    title = pgettext_lazy("tasks", "status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(STATUSES)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(status=self.value()) if self.value() in dict(STATUSES) else queryset


class QueueFilter(Filter):
    """Filter by the queues that the settings name."""

    title = pgettext_lazy("tasks", "queue")
    parameter_name = "queue"
    is_windowed = True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        names = {queue_of(channel) for channel in known_channels()}
        if self.value() is not None:
            names.add(str(self.value()))
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset if self.value() is None else queryset.filter(queue=self.value())


class TaskFilter(WordFilter):
    """Filter by the dotted path of a task."""

    title = pgettext_lazy("tasks", "task")
    parameter_name = "task"
    is_windowed = True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(task=self.value()) if self.value() else queryset


class BatchFilter(Filter):
    """Filter by the batch of which tasks are members, as the page of a batch links here."""

    title = pgettext_lazy("tasks", "batch")
    parameter_name = "batch"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [] if self.value() is None else [(str(self.value()), breakable(str(self.value())))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        try:
            id = None if self.value() is None else UUID(str(self.value()))
        except ValueError:
            return queryset.none()
        if id is None:
            return queryset
        members = TaskRecord.objects.using(queryset.db).filter(batch_id=id)
        ids = few_of(members, "batch_id", "status", "pk")
        self.is_windowed = ids is None
        return queryset.filter(batch_id=id) if ids is None else queryset.filter(pk__in=ids)


class TaskChangeList(KeysetChangeList):
    """List tasks, the newest first."""

    time_field = "enqueued_at"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[TaskRecord]:
        tasks = super().get_queryset(request, exclude_parameters).defer(*NOT_LISTED)
        term = self.query.strip()
        if not term:
            return tasks
        try:
            return tasks.filter(pk=UUID(term))
        except ValueError:
            self.is_windowed = True
            return tasks.filter(task__icontains=term)

    def indexed(self) -> QuerySet[TaskRecord]:
        status = self.params.get(TaskStatusFilter.parameter_name)
        rows = super().indexed()
        return rows.filter(status=status) if status in dict(STATUSES) else rows


link_records(f"{PREFIX}*", TaskRecord)


@admin.register(TaskRecord)
class TaskRecordAdmin(OfTaskDatabasesMixin, ReadOnlyAdminMixin, ActionAdmin):
    """Show tasks and act on them. They are neither made, changed nor deleted here: workers remove them in time."""

    change_form_template = "mailrail_tasks/admin/task.html"
    list_display = ("title", "shown_status", "queue", "attempts", "reason", "enqueued", "finished")
    list_filter = (TaskStatusFilter, QueueFilter, TaskFilter, BatchFilter, DatabaseFilter)
    search_fields = ("task",)
    search_help_text = _("The whole id; or a part of the task's path, which is looked for page by page.")
    actions = ("retry", "copy", "cancel", "kill")
    fieldsets = (
        (None, {"fields": (("shown_status", "queue", "attempts", "failures"), ("title", "id"))}),
        (
            pgettext_lazy("tasks", "Times"),
            {
                "fields": (
                    ("enqueued_at", "started_at", "last_attempted_at", "finished_at"),
                    ("run_after", "expires_at", "cancelled_at", "kept_until"),
                )
            },
        ),
        (
            pgettext_lazy("tasks", "Options"),
            {"fields": (("backend", "priority", "timeout"), ("shown_options", "workers"))},
        ),
    )
    readonly_fields = ("id", "title", "shown_status", "attempts", "shown_options", "workers")

    # -- the list -------------------------------------------------------------------------------------------------

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Return the task with this id, whichever database keeps it."""
        try:
            found = control.find(TaskRecord._meta.pk.to_python(object_id))
        except ValidationError:
            return None
        return found and found[0]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[TaskChangeList]:
        return TaskChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset, False  # TaskChangeList searches: it has to know whether an index helps

    @admin.display(description=pgettext_lazy("tasks", "task"))
    def title(self, task: TaskRecord) -> str:
        return breakable(task.task)

    @admin.display(description=pgettext_lazy("tasks", "status"))
    def shown_status(self, task: TaskRecord) -> str:
        label = task.get_status_display()
        if task.status == RUNNING and task.cancelled_at is not None:
            label = pgettext("task", "running, cancelled")
        elif task.status == READY and task.held:
            label = pgettext("task", "waits for its batch")
        return format_html(
            '<span class="mailrail-status" data-status="{}">{}</span>', task.status.lower(), label
        )

    @admin.display(description=pgettext_lazy("tasks", "attempts"))
    def attempts(self, task: TaskRecord) -> int:
        return len(_objects(task.worker_ids, str))

    @admin.display(description=pgettext_lazy("tasks", "last error"))
    def reason(self, task: TaskRecord) -> str:
        error = single_line(last_error(task))
        is_cut = len(error) > MAX_LISTED_CHARACTERS
        return breakable(f"{error[: MAX_LISTED_CHARACTERS - 1]}…" if is_cut else error)

    @admin.display(description=pgettext_lazy("tasks", "enqueued"))
    def enqueued(self, task: TaskRecord) -> str | None:
        return short_time(task.enqueued_at)

    @admin.display(description=pgettext_lazy("tasks", "finished"))
    def finished(self, task: TaskRecord) -> str | None:
        return short_time(task.finished_at)

    @admin.display(description=pgettext_lazy("tasks", "options"))
    def shown_options(self, task: TaskRecord) -> str:
        empty = str(self.get_empty_value_display())
        return shown_json(task.options, whole=False).shown if task.options else empty

    @admin.display(description=pgettext_lazy("tasks", "workers"))
    def workers(self, task: TaskRecord) -> str:
        return single_line(", ".join(_objects(task.worker_ids, str))) or str(self.get_empty_value_display())

    @admin.action(description=_("Run selected tasks again"), permissions=("retry",))
    def retry(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "retry")

    @admin.action(description=_("Run selected tasks again as new ones"), permissions=("retry",))
    def copy(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "copy")

    @admin.action(description=_("Cancel selected tasks"), permissions=("cancel",))
    def cancel(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "cancel")

    @admin.action(description=_("Cancel selected tasks, and kill their processes"), permissions=("kill",))
    def kill(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "kill")

    # -- one task -------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        task = self.get_object(request, unquote(object_id))
        context = {}
        if task is not None and self.has_view_permission(request, task):
            context = self._shown(request, task)
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def _shown(self, request: HttpRequest, task: TaskRecord) -> dict[str, Any]:
        is_whole = "whole" in request.GET
        errors = [
            (
                breakable(str(error.get("class", ""))),
                ShownText.of(str(error.get("traceback", "")), is_whole),
            )
            for error in _objects(task.errors, dict)
        ]
        return {
            "shown_name": breakable(str(task)),
            "progress": task.mailrail_progress() if task.progress and _may_see_contents(request) else None,
            "contents": _contents(task, is_whole) if _may_see_contents(request) else None,
            "attempt_errors": errors,  # "errors" are those of Django's form
            "steps": _steps(task, is_whole, _may_see_contents(request)),
            "decisions": [
                (name, action.label)
                for name, action in ACTIONS.items()
                if action.is_offered(task) and self._may(request, action)
            ],
        }

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        task = self.get_object(request, object_id)
        if not self.has_view_permission(request, task):
            raise PermissionDenied
        if task is None or name not in ACTIONS:
            raise Http404
        if not self._may(request, ACTIONS[name]):
            raise PermissionDenied
        copies = self._decide(request, [task.pk], name)
        shown = copies.get(task.pk, task.pk)
        return redirect(reverse(f"{self.admin_site.name}:mailrail_tasks_taskrecord_change", args=(shown,)))

    def _decide(self, request: HttpRequest, ids: Iterable[UUID], name: str) -> dict[UUID, UUID]:
        """Run the action, log and show what was done, and show the reasons for what was refused."""
        action = ACTIONS[name]
        changed = action.run(list(ids))
        for id in changed.done:
            self.log_change(request, TaskRecord(pk=id), str(action.label))
        if changed.done:
            count = len(changed.done)
            text = ngettext("%(what)s: %(count)d task.", "%(what)s: %(count)d tasks.", count)
            self.message_user(request, text % {"what": action.label, "count": count}, messages.SUCCESS)
        for reason, count in Counter(changed.refused.values()).items():
            text = ngettext(
                "Refused for %(count)d task: %(why)s.", "Refused for %(count)d tasks: %(why)s.", count
            )
            self.message_user(request, text % {"count": count, "why": gettext(reason)}, messages.WARNING)
        return changed.copies

    def _may(self, request: HttpRequest, action: TaskAction) -> bool:
        return request.user.has_perm(f"mailrail_tasks.{action.permission}")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return self._may(request, ACTIONS["retry"])

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self._may(request, ACTIONS["cancel"])

    def has_kill_permission(self, request: HttpRequest) -> bool:
        return self._may(request, ACTIONS["kill"])

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _may_see_contents(request: HttpRequest) -> bool:
    return request.user.has_perm("mailrail_tasks.view_task_arguments")


def _contents(task: TaskRecord, is_whole: bool) -> list[tuple[Any, ShownText]]:
    """Return what only some people may see: what the task was given, has returned, and keeps."""
    values: list[tuple[Any, Any]] = [
        (pgettext_lazy("tasks", "arguments"), redacted_arguments(task.task, task.args)),
        (pgettext_lazy("tasks", "keyword arguments"), task.kwargs),
        (pgettext_lazy("tasks", "progress"), task.progress),
        (pgettext_lazy("tasks", "metadata"), task.metadata),
        (pgettext_lazy("tasks", "lane"), task.lane),  # this one and the key may be functions of the arguments
        (pgettext_lazy("tasks", "key"), task.key),
    ]
    shown = [(label, value) for label, value in values if value]
    if task.status not in (READY, RUNNING, FAILED):
        shown.append((pgettext_lazy("tasks", "return value"), task.return_value))
    return [(label, shown_json(value, is_whole)) for label, value in shown]


def _steps(
    task: TaskRecord, is_whole: bool, has_values: bool
) -> list[tuple[str, Any, str, ShownText | None]]:
    """Return the name of each step, when it was kept, the seconds that it took, and its value for those who may."""
    newest = steps_of(task).reverse()
    steps = (newest if has_values else newest.defer("value"))[:MAX_SHOWN_STEPS]
    return [
        (
            breakable(step.name),
            short_time(step.finished_at),
            number_format(seconds_between(step.started_at, step.finished_at), 3),
            shown_json(step.value, is_whole) if has_values else None,
        )
        for step in reversed(steps)
    ]


def _objects(value: Any, kind: type[Any]) -> list[Any]:
    """Return the members of this kind in a list of the record, which other hands may have written."""
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []
