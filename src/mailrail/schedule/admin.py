"""The admin of the schedule: what is due when, what became of it, and what people may decide about it.

Entries that code declares are defined there: here they are paused, resumed and run. People make entries of their own
from what code has marked with ``schedulable``. It is chosen in a select, so no form runs a dotted path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext, ngettext, pgettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.keyset_admin import ActionAdmin, Filter, KeysetChangeList, breakable, short_time
from mailrail.moments import as_django
from mailrail.terminal import escape_control_characters, single_line
from mailrail.transient import is_outage
from mailrail.write_transactions import write_transaction

from . import control, registry
from .choices import ADMIN, CODE, SOURCES
from .enqueuing import database
from .entries import server_time
from .forms import ScheduleEntryForm
from .models import ScheduleEntry
from .showing import (
    create_missing_rows,
    fill,
    hide,
    in_zone,
    next_runs,
    past_ticks,
    state_in_words,
    state_of_run,
    times_in_words,
    used_zone_data,
)
from .zones import load_zone

__all__ = ["ScheduleEntryAdmin"]

MAX_REASON_LENGTH = 1000


def _run(name: str, request: HttpRequest) -> str:
    control.run_now(name)
    return ""


def _pause(name: str, request: HttpRequest) -> str:
    reason = request.POST.get("reason", "")[:MAX_REASON_LENGTH].replace("\0", "")
    is_changed = control.pause(name, by=request.user.get_username(), reason=reason.strip())
    return "" if is_changed else pgettext("entry of the schedule", "it is paused already")


def _resume(name: str, request: HttpRequest) -> str:
    return "" if control.resume(name) else pgettext("entry of the schedule", "it is not paused")


@dataclass(frozen=True)
class EntryAction:
    """Describe an action of people. ``run`` returns why nothing was done, or an empty text."""

    label: Any
    run: Callable[[str, HttpRequest], str]
    permission: str


ACTIONS = {
    "pause": EntryAction(pgettext_lazy("schedule", "Pause"), _pause, "pause_scheduleentry"),
    "resume": EntryAction(pgettext_lazy("schedule", "Resume"), _resume, "pause_scheduleentry"),
    "run": EntryAction(pgettext_lazy("schedule", "Run now"), _run, "run_scheduleentry"),
}
"""In the order of the buttons: Enter in the field of the reason presses the first."""


class SourceFilter(Filter):
    """Filter by who has made an entry."""

    title = pgettext_lazy("schedule", "source")
    parameter_name = "source"
    is_windowed = True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(SOURCES)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(source=self.value()) if self.value() in (CODE, ADMIN) else queryset


class PausedFilter(Filter):
    """Filter by whether an entry is paused."""

    title = pgettext_lazy("schedule", "state")
    parameter_name = "paused"
    is_windowed = True

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("no", pgettext_lazy("entry of the schedule", "on")),
            ("yes", pgettext_lazy("entry of the schedule", "paused")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in ("no", "yes"):
            return queryset
        return queryset.filter(paused_at__isnull=self.value() == "no")


class ScheduleChangeList(KeysetChangeList):
    """List entries, the newest first, each with its definition and the state of its last run."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        self.is_windowed = self.is_windowed or bool(self.query.strip())
        return rows

    def show(self, page: list[Any], last: Any) -> None:
        fill(page)
        super().show(page, last)


class ScheduleActionForm(ActionForm):
    """Ask for the reason of a pause beside the action."""

    reason = forms.CharField(
        label=pgettext_lazy("schedule", "Reason of a pause:"), required=False, max_length=MAX_REASON_LENGTH
    )


@admin.register(ScheduleEntry)
class ScheduleEntryAdmin(ActionAdmin):
    """Show entries and act on them; make, change and delete those that code does not declare."""

    form = ScheduleEntryForm
    action_form = ScheduleActionForm
    change_form_template = "mailrail_schedule/admin/entry.html"
    change_list_template = "mailrail_schedule/admin/entries.html"
    list_display = (
        *("title", "shown_state", "when", "next_run", "last_run", "outcome"),
        *("missed_count", "skipped_count"),
    )
    list_filter = (PausedFilter, SourceFilter)
    search_fields = ("name",)
    actions = ("pause", "resume", "run")
    formfield_overrides: ClassVar = {
        models.JSONField: {"widget": forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField"})}
    }
    fieldsets = (
        (None, {"fields": ("name", "target")}),
        (pgettext_lazy("schedule", "When"), {"fields": (("cron", "zone"), "seconds", "jitter")}),
        (pgettext_lazy("schedule", "What it is given"), {"fields": ("args", "kwargs", "content")}),
        (pgettext_lazy("schedule", "When it cannot run in time"), {"fields": ("missed", "overlap")}),
    )

    # -- rows -----------------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[ScheduleEntry]:
        entries: QuerySet[ScheduleEntry] = super().get_queryset(request)
        return entries.using(database()).select_related("last")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            fill([row])
            if not self.has_change_permission(
                request, row
            ):  # Django shows the columns; the form hides its own
                hide(row)
        return row

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ScheduleChangeList]:
        return ScheduleChangeList

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if self.has_view_or_change_permission(request):
            create_missing_rows()
        return super().changelist_view(request, {"zone_data": used_zone_data(), **(extra_context or {})})

    # -- the columns ----------------------------------------------------------------------------------------------

    @admin.display(description=pgettext_lazy("schedule", "entry"))
    def title(self, row: Any) -> str:
        return breakable(row.name)

    @admin.display(description=pgettext_lazy("schedule", "state"))
    def shown_state(self, row: Any) -> str:
        return state_in_words(row.entry)

    @admin.display(description=pgettext_lazy("schedule", "when"))
    def when(self, row: Any) -> str:
        return times_in_words(row.entry) or str(self.get_empty_value_display())

    @admin.display(description=pgettext_lazy("schedule", "next run"))
    def next_run(self, row: Any) -> str | None:
        ticks = row.entry.next_ticks(1) if row.entry.is_on else []
        return in_zone(ticks[0], load_zone()) if ticks else None

    @admin.display(description=pgettext_lazy("schedule", "last run"))
    def last_run(self, row: Any) -> str | None:
        return short_time(row.last.tick) if row.last else None

    @admin.display(description=pgettext_lazy("schedule", "outcome"))
    def outcome(self, row: Any) -> str | None:
        return state_of_run(row.run_state)

    @admin.display(description=_("What it runs"))
    def target(self, row: Any) -> str:
        """Show what an entry runs, where the form with its select is not shown."""
        return breakable(row.task or row.channel)

    @admin.action(description=_("Pause selected entries"), permissions=("pause",))
    def pause(self, request: HttpRequest, queryset: QuerySet[ScheduleEntry]) -> None:
        self._decide(request, queryset, "pause")

    @admin.action(description=_("Resume selected entries"), permissions=("pause",))
    def resume(self, request: HttpRequest, queryset: QuerySet[ScheduleEntry]) -> None:
        self._decide(request, queryset, "resume")

    @admin.action(description=_("Run selected entries now"), permissions=("run",))
    def run(self, request: HttpRequest, queryset: QuerySet[ScheduleEntry]) -> None:
        self._decide(request, queryset, "run")

    # -- one entry ------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        context = {}
        if row is not None and self.has_view_or_change_permission(request, row):
            context = self._shown(request, row)
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def _shown(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        names = ["resume" if row.paused_at else "pause", *(["run"] if row.entry.definition else [])]
        decisions = [(name, ACTIONS[name].label) for name in names if self._may(request, ACTIONS[name])]
        return {
            "row": row,
            "state": state_in_words(row.entry),
            "why_fixed": self._why_fixed(row),
            "when": times_in_words(row.entry),
            "pause_reason": escape_control_characters(row.paused_reason),
            "next_runs": next_runs(row.entry),
            "past_ticks": past_ticks(row.name, request, self.admin_site),
            "zone_data": used_zone_data(),
            "decisions": decisions,
            "asks_reason": "pause" in dict(decisions),
            "max_reason_length": MAX_REASON_LENGTH,
        }

    def _why_fixed(self, row: Any) -> str:
        """Say why people cannot change an entry, or what is wrong with it."""
        if row.name in registry.definitions():
            return gettext(
                "Code declares this entry, so it is changed there. Here it is paused, resumed and run."
            )
        if row.source == CODE:
            return gettext("Code no longer declares this entry, so it does not run. It can be deleted.")
        return single_line(row.entry.problem)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save what the form has changed, as workers write the state of the row meanwhile."""
        fields = {"task", "channel", *form.changed_data} - {"target"}
        if not change:
            obj.decided_until = as_django(server_time())
        obj.save(using=database(), update_fields=fields if change else None)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_own = obj is None or (obj.source == ADMIN and obj.name not in registry.definitions())
        return is_own and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Tell whether an entry may be deleted; never several, as Django's action could not say why some may not."""
        is_declared = obj is None or obj.name in registry.definitions()
        return not is_declared and super().has_delete_permission(request, obj)

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        if row is None or name not in ACTIONS:
            raise Http404
        if not self._may(request, ACTIONS[name]):
            raise PermissionDenied
        self._decide(request, [row], name)
        return redirect(
            reverse(f"{self.admin_site.name}:mailrail_schedule_scheduleentry_change", args=(row.pk,))
        )

    def _decide(self, request: HttpRequest, rows: Iterable[ScheduleEntry], name: str) -> None:
        """Run the action, log and show what was done, and show why the rest was refused."""
        done = 0
        for row in rows:
            if refusal := self._decide_one(request, row, ACTIONS[name]):
                self.message_user(request, f"{row}: {refusal}", messages.WARNING)
            else:
                done += 1
        if done:
            text = ngettext("%(what)s: %(count)d entry.", "%(what)s: %(count)d entries.", done)
            self.message_user(request, text % {"what": ACTIONS[name].label, "count": done}, messages.SUCCESS)

    def _decide_one(self, request: HttpRequest, row: ScheduleEntry, action: EntryAction) -> str:
        """Act on an entry, and return why that was refused, or an empty text."""
        try:
            with write_transaction(database()):
                refusal = action.run(row.name, request)
                if not refusal:
                    self.log_change(request, row, str(action.label))
        except Exception as error:  # of the task's own code, too: what its arguments make of a key or a lane
            if is_outage(error):
                raise
            refusal = single_line(str(error))
        return refusal

    def _may(self, request: HttpRequest, action: EntryAction) -> bool:
        return request.user.has_perm(f"mailrail_schedule.{action.permission}")

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return self._may(request, ACTIONS["pause"])

    def has_run_permission(self, request: HttpRequest) -> bool:
        return self._may(request, ACTIONS["run"])
