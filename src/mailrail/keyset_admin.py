"""List tables of any size in the admin, and offer actions on their rows.

Django counts all rows to number its pages, and skips the rows of all pages before. Here nothing is counted, and a page
begins where the page before ended. Rows come in the order of the primary key's index. A filter without an index scans a
bounded number of rows per page. Every action asks for confirmation on a page of its own, and runs by POST.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.templatetags.admin_list import result_list
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.db.models.expressions import Combinable
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import gettext

from .terminal import escape_control_characters

EMPTY_CELL = re.compile(r"<t[dh][^>]*>(-|&nbsp;|)</t[dh]>")
NUL = "\0"
"""PostgreSQL refuses a query for this character, because no text of PostgreSQL can hold it."""
BEHIND = "behind"
"""The parameter of the query string that holds the key before the page."""
SCAN_WINDOW_ROWS = 20_000
"""Rows that one page scans at most."""
MAX_SHOWN_CHARACTERS = 20_000
"""Characters of a text that the page of a record shows, unless the whole text is requested."""
MAX_SORTED_ROWS = 1000
"""Rows found by an index in another order that are sorted; if there are more, a window is scanned."""


class KeysetChangeList(ChangeList):
    """List rows in the order of their keys. ``direction``: ``"-"`` puts the highest key first.

    The admin's own parameters for order and page are ignored.
    """

    direction = "-"
    behind: str | None = None
    is_windowed = False
    """True if no index serves one of the conditions."""
    scanned_until: Any = None
    """The last key of the scanned window, if rows follow it."""
    time_field = ""
    """The name of the field with the creation time, if there is one; it dates the end of a scanned window."""
    scanned_until_time: Any = None
    next_page: str | None = None
    """The query string of the next page."""
    first_page = "?"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        # Django checks the search term itself.
        if any(NUL in value for name, value in self.params.items() if name != SEARCH_VAR):
            raise IncorrectLookupParameters  # PostgreSQL would raise; Django shows the list without filters
        if BEHIND in self.params:  # the links of filters leave it out, so they begin at the first page
            self.behind = self.params.pop(BEHIND)
            del self.filter_params[BEHIND]
        rows: QuerySet[Any] = super().get_queryset(request, exclude_parameters)
        specs: list[Any] = self.filter_specs
        self.is_windowed = any(
            getattr(spec, "is_windowed", False) and spec.value() is not None for spec in specs
        )
        return rows

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str | Combinable]:
        return [f"{self.direction}pk"]

    def indexed(self) -> QuerySet[Any]:
        """Return the rows that a window counts: restricted by the conditions that an index serves in key order."""
        return self.root_queryset

    def get_results(self, request: HttpRequest) -> None:
        rows, last = self._from(self.queryset), None
        if self.is_windowed:
            rows, last = self._windowed(rows)
        page = list(rows[: self.list_per_page + 1])
        if len(page) > self.list_per_page:
            del page[self.list_per_page :]
            last = page[-1].pk
        elif last is not None:
            self.scanned_until = last
            if self.time_field:
                times = self.root_queryset.filter(pk=last).values_list(self.time_field, flat=True)
                self.scanned_until_time = times.first()
        self.show(page, last)

    def show(self, page: list[Any], last: Any) -> None:
        """Show these rows, and a link to the rows after ``last`` unless it is ``None``."""
        if last is not None:
            self.next_page = self.get_query_string({BEHIND: str(last)})
        self.first_page = self.get_query_string()
        self.result_list = page
        self.result_count = self.full_result_count = len(page)
        self.show_full_result_count = self.can_show_all = self.multi_page = False
        self.show_admin_actions = bool(page)
        self.paginator = None

    @property
    def table(self) -> dict[str, Any]:
        """Return the headers and the cells of each row. Cells carry the label of their column, for narrow screens."""
        shown: Any = result_list(self)
        labels = [header["text"] for header in shown["result_headers"]]
        rows = [[_labelled(*pair) for pair in zip(labels, row, strict=False)] for row in shown["results"]]
        return {"headers": shown["result_headers"], "rows": rows}

    def _from(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        if self.behind is None:
            return rows
        try:
            key = self.model._meta.pk.to_python(self.behind)
        except ValidationError:
            return rows
        return rows.filter(**{"pk__lt" if self.direction else "pk__gt": key})

    def _windowed(self, rows: QuerySet[Any]) -> tuple[QuerySet[Any], Any]:
        """Return the rows in the window, and its last key if more rows may follow.

        The condition names both ends, so that a scan of any index begins where the window does.
        """
        keys = self._from(self.indexed()).order_by(f"{self.direction}pk").values_list("pk", flat=True)
        first, last = keys.first(), keys[SCAN_WINDOW_ROWS - 1 : SCAN_WINDOW_ROWS].first()
        if first is None:
            return rows.none(), None
        low, high = ("pk__gte", "pk__lte") if self.direction else ("pk__lte", "pk__gte")
        rows = rows.filter(**{high: first})
        if last is not None:
            rows = rows.filter(**{low: last})
        return rows, last


def _labelled(label: str, cell: str) -> SafeString:
    """Add the role and the label of its column to a cell that Django has rendered."""
    role = "rowheader" if cell.startswith("<th") else "cell"
    words = "" if "action-checkbox" in cell[:30] else capfirst(label)
    empty = mark_safe(' data-empty=""') if EMPTY_CELL.fullmatch(cell) else ""
    named = format_html(' role="{}" data-label="{}"{}', role, words, empty)
    return mark_safe(cell[:3] + named + cell[3:])  # noqa: S308 - Django has escaped it


def breakable(text: str) -> SafeString:
    """Allow line breaks after the punctuation of an address, or of another text without spaces.

    Invisible characters are escaped, because most of these texts come from other people.
    """
    return mark_safe(_signs.sub(r"\1<wbr>", escape(escape_control_characters(text))))  # noqa: S308 - escaped


_signs = re.compile(r"([@._+/=?-])(?=\w)")


def short_time(moment: datetime | None, zone: tzinfo | None = None) -> str | None:
    """Return a time that fits into a column: the date, and below it the time of day. ``zone``: not the current one."""
    if moment is None:
        return None
    local = timezone.localtime(moment, zone) if timezone.is_aware(moment) else moment
    date, time = date_format(local, "SHORT_DATE_FORMAT"), date_format(local, "TIME_FORMAT")
    return format_html(
        '<time class="mailrail-time" datetime="{}">{} <span>{}</span></time>', moment.isoformat(), date, time
    )


def few_of(rows: QuerySet[Any], *order: str) -> list[Any] | None:
    """Return the keys of these rows, or ``None`` if there are more than ``MAX_SORTED_ROWS``.

    ``order``: that of an index which does not have the order of the list. It makes the planner use that index, even
    where it expects to find enough rows by another one.
    """
    keys = list(rows.order_by(*order).values_list("pk", flat=True)[: MAX_SORTED_ROWS + 1])
    return None if len(keys) > MAX_SORTED_ROWS else keys


@dataclass(frozen=True)
class ShownText:
    """Hold the shown part of a text, and the number of characters left out."""

    shown: str
    left_out: int = 0

    @classmethod
    def of(cls, text: str, whole: bool, *, at_end: bool = False) -> ShownText:
        """Shorten a text unless ``whole``. ``at_end`` keeps its end instead of its beginning."""
        text = escape_control_characters(text)
        if whole or len(text) <= MAX_SHOWN_CHARACTERS:
            return cls(text)
        shown = text[-MAX_SHOWN_CHARACTERS:] if at_end else text[:MAX_SHOWN_CHARACTERS]
        return cls(shown, len(text) - MAX_SHOWN_CHARACTERS)

    @classmethod
    def of_json(cls, value: Any, whole: bool) -> ShownText:
        return cls.of(json.dumps(value, indent=2, ensure_ascii=False), whole)


class Filter(admin.SimpleListFilter):
    """Filter a list without a query for its choices. ``is_windowed``: no index serves it in the list's order."""

    is_windowed = False


class WordFilter(Filter):
    """Filter by a value that is typed in."""

    template = "mailrail/admin/word_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("", "")]  # without a choice, Django hides the filter

    def choices(self, changelist: Any) -> Iterator[Any]:
        other_parameters = {
            name: value for name, value in changelist.params.items() if name != self.parameter_name
        }
        yield {
            "name": self.parameter_name,
            "value": self.value() or "",
            "others": other_parameters,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
        }


class KeysetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for the type checker
    """List rows with a ``KeysetChangeList``."""

    change_list_template = "mailrail/admin/keyset_list.html"
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()  # any other order would sort the whole table

    class Media:
        css = {"all": ("mailrail/admin.css",)}  # noqa: RUF012 - as Django has it

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeysetChangeList]:
        return KeysetChangeList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        return None if NUL in object_id else super().get_object(request, object_id, from_field)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Refuse fields that the list has no filter for: each answer would tell what a hidden column holds."""
        field = lookup.partition("__")[0]
        if field in {column.name for column in self.opts.get_fields()} and field not in self._filtered(
            request
        ):
            return False
        return super().lookup_allowed(lookup, value, request)

    def _filtered(self, request: HttpRequest) -> set[str]:
        """Return the fields and parameters of the list's filters."""
        filters: Iterable[Any] = self.get_list_filter(request)
        fields = (entry[0] if isinstance(entry, list | tuple) else entry for entry in filters)
        named = (
            str(getattr(entry, "parameter_name", entry)) for entry in (*fields, self.date_hierarchy or "")
        )
        return {name.partition("__")[0] for name in named}

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **kwargs: Any
    ) -> Any:
        # Rows are not counted, so people could not know what they select.
        if "1" in request.POST.getlist("select_across"):
            self.message_user(request, gettext("Select rows of this page."), messages.ERROR)
            return None
        return super().response_action(request, queryset, *args, **kwargs)


class ActionAdmin(KeysetAdmin):
    """Offer actions on one record: its page posts them to ``…/decide/``."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.decide_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_decide"
        return [path("<path:object_id>/decide/", view, name=name), *super().get_urls()]

    def decide_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Handle the buttons of a record's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        return self.decide_by_button(request, unquote(object_id), request.POST.get("decision", ""))

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Carry out the action of a button. ``name``: its value. Raises ``PermissionDenied`` and ``Http404``."""
        raise NotImplementedError


class ReadOnlyAdminMixin:
    """Refuse to add and change: mixed into the admin of records that only programs write."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def is_confirmed(request: HttpRequest) -> bool:
    """Tell whether the request comes from the page that ``confirmation`` returns."""
    return request.method == "POST" and "post" in request.POST


def confirmation(
    model_admin: Any,
    request: HttpRequest,
    question: Any,
    rows: Iterable[tuple[str, Any]],
    *,
    name: str,
    value: str,
    label: Any,
    back: str,
) -> HttpResponse:
    """Return a page that asks whether to carry out an action on ``rows``: pairs of key and text.

    It posts the answer to the same URL: ``name`` with ``value``, the keys as Django posts selected rows, and ``post``.
    """
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": label,
        "media": model_admin.media,
        "question": question,
        "rows": list(rows),
        "checkbox": ACTION_CHECKBOX_NAME,
        "name": name,
        "value": value,
        "back": back,
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "mailrail/admin/confirmation.html", context)
