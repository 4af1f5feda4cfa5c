"""Filter the lists of messages. The choices come from settings, routes and indexes."""

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
"""The value of the error filter, in URLs, for messages that died without an exception."""
STATES = {
    "ready": pgettext_lazy("message", "ready"),
    "scheduled": pgettext_lazy("message", "scheduled"),
    "claimed": pgettext_lazy("message", "claimed"),
}


class AskedFilter(WordFilter):
    """Let the layer apply a filter. While the layer cannot be reached, the filter offers no choices."""

    template = admin.SimpleListFilter.template

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        try:
            return self.offered(ListRequest.by(request))
        except MailrailError:
            return []

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        """Return the value and the label of each choice."""
        raise NotImplementedError

    def choices(self, changelist: Any) -> Iterator[Any]:
        is_typed_in = self.template == WordFilter.template
        yield from super().choices(changelist) if is_typed_in else self.listed(changelist)

    def listed(self, changelist: Any) -> Iterator[Any]:
        return admin.SimpleListFilter.choices(self, changelist)

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset  # unused: the layer filters, and may have no table


class LayerFilter(AskedFilter):
    """Choose one of several layers; by default, the first one is shown."""

    title = pgettext_lazy("message", "layer")
    parameter_name = "layer"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        return [(name, name) for name in list_request.sources] if len(list_request.sources) > 1 else []

    def listed(self, changelist: Any) -> Iterator[Any]:
        _all, *layers = super().listed(changelist)
        chosen = any(choice["selected"] for choice in layers)
        for number, choice in enumerate(layers):
            yield {**choice, "selected": choice["selected"] or (not chosen and number == 0)}


class ChannelFilter(AskedFilter):
    """Choose a channel that has a route or messages. If there are many, the name is typed in."""

    title = pgettext_lazy("message", "channel")
    parameter_name = "channel"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        if len(list_request.known) > MAX_CHANNELS_LISTED:
            self.template = WordFilter.template
            return [("", "")]
        named = {list_request.channel} if list_request.channel else set()
        return [(name, name) for name in sorted({*list_request.known, *named})]


class StateFilter(AskedFilter):
    """Choose a state: ready, scheduled or claimed."""

    title = pgettext_lazy("message", "state")
    parameter_name = "state"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        return list(STATES.items())


class ErrorFilter(AskedFilter):
    """Choose the exception class of the last error."""

    title = pgettext_lazy("message", "error")
    parameter_name = "error"

    def offered(self, list_request: ListRequest) -> list[tuple[str, Any]]:
        names = list_request.source.layer.error_classes(list_request.looked_at)
        return [(name or NO_EXCEPTION, name or _("no exception")) for name in names]
