"""The filters of the lists of messages. Their choices come from settings and routes, and from indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail.errors import MailrailError
from mailrail.keyset_admin import WordFilter

from .sources import MAX_CHANNELS_LISTED, ListRequest

NO_EXCEPTION = "-"
"""Stands for it in addresses of pages."""
STATES = {
    "ready": pgettext_lazy("message", "ready"),
    "scheduled": pgettext_lazy("message", "scheduled"),
    "claimed": pgettext_lazy("message", "claimed"),
}


class AskedFilter(WordFilter):
    """One that the layer itself applies. While that cannot be reached, there is nothing to choose."""

    template = admin.SimpleListFilter.template

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        try:
            return self.offered(ListRequest.by(request))
        except MailrailError:
            return []

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        """Value and words of each choice."""
        raise NotImplementedError

    def choices(self, changelist: Any) -> Iterator[Any]:
        is_typed_in = self.template == WordFilter.template
        yield from super().choices(changelist) if is_typed_in else self.listed(changelist)

    def listed(self, changelist: Any) -> Iterator[Any]:
        return admin.SimpleListFilter.choices(self, changelist)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset  # of a table that the layer may not have


class LayerFilter(AskedFilter):
    """Of several layers, one is looked at: the first, if none is chosen."""

    title = pgettext_lazy("message", "layer")
    parameter_name = "layer"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        return [(name, name) for name in list_request.sources] if len(list_request.sources) > 1 else []

    def listed(self, changelist: Any) -> Iterator[Any]:
        _all, *layers = super().listed(changelist)
        chosen = any(each["selected"] for each in layers)
        for number, each in enumerate(layers):
            yield {**each, "selected": each["selected"] or (not chosen and number == 0)}


class ChannelFilter(AskedFilter):
    """Those that have a route, or hold something. Where they are many, the name is typed in."""

    title = pgettext_lazy("message", "channel")
    parameter_name = "channel"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        if len(list_request.known) > MAX_CHANNELS_LISTED:
            self.template = WordFilter.template
            return [("", "")]
        named = {list_request.channel} if list_request.channel else set()
        return [(name, name) for name in sorted({*list_request.known, *named})]


class StateFilter(AskedFilter):
    """Ready, scheduled or claimed."""

    title = pgettext_lazy("message", "state")
    parameter_name = "state"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        return list(STATES.items())


class ErrorFilter(AskedFilter):
    """What messages died of: the class of the exception."""

    title = pgettext_lazy("message", "error")
    parameter_name = "error"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        found = list_request.source.layer.error_classes(list_request.looked_at)
        return [(name or NO_EXCEPTION, name or _("no exception")) for name in found]
