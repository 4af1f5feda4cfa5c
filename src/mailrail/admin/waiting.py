"""List waiting, scheduled and claimed messages in the admin, with channel counts, and cancel messages."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.http import urlencode
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.cancelling import cancel_messages
from mailrail.errors import MailrailError
from mailrail.keyset_admin import ShownText, short_time
from mailrail.messages import ChannelStats, Cursor, MessageSummary
from mailrail.models import StoredMessage
from mailrail.pauses import Pause
from mailrail.terminal import single_line
from mailrail.tracebacks import first_line

from .filters import STATES, ChannelFilter, LayerFilter, StateFilter
from .pages import LayerAdmin, MessageAction, counted, facts_of, moment, shortened
from .sources import Address, ListRequest, Source

MAX_COUNTED = 1_000
"""Messages counted exactly per state and channel; larger numbers are estimated where counting would take long."""
CANCEL = MessageAction(
    cancel_messages,
    pgettext_lazy("message", "Cancel"),
    "cancel_message",
    _("Cancel these messages? They are removed, and nothing of them is kept."),
    counted("%(count)d message was cancelled.", "%(count)d messages were cancelled."),
    counted(
        "%(count)d message was not cancelled: a worker has claimed it, or it is gone.",
        "%(count)d messages were not cancelled: workers have claimed them, or they are gone.",
    ),
)


@admin.register(StoredMessage)
class WaitingMessageAdmin(LayerAdmin):
    """List the messages due soonest first, below the counts of each channel."""

    change_list_template = "mailrail/admin/waiting_list.html"
    message_template = "mailrail/admin/waiting.html"
    decisions = {"cancel": CANCEL}  # noqa: RUF012 - never changed
    list_display = ("on_channel", "due_at", "state", "preview", "attempts", "failed", "in_lane", "by_worker")
    list_filter = (LayerFilter, ChannelFilter, StateFilter)
    actions = ("cancel",)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        dead_url = reverse(f"{self.admin_site.name}:mailrail_buriedmessage_changelist")
        context = {"channel_counts": self._channel_counts(request), "dead_url": dead_url}
        return super().changelist_view(request, {**context, **(extra_context or {})})

    def _channel_counts(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Return the counts of each channel, on the page without filters; on other pages, none."""
        if request.method != "GET" or request.GET.keys() - {"layer"} or not self.has_view_permission(request):
            return []
        try:
            source = ListRequest.by(request).source
            stats = source.layer.stats(MAX_COUNTED).items()
        except MailrailError:
            return []  # the list reports it
        return [_row(source, channel, counts) for channel, counts in stats if source.only in (None, channel)]

    def find_page(self, list_request: ListRequest, limit: int, cursor: Cursor | None) -> list[MessageSummary]:
        state: Any = list_request.state if list_request.state in STATES else None
        return list_request.source.layer.list_messages(list_request.looked_at, limit, state, cursor)

    def shown(self, source: Source, address: Address, whole: bool) -> dict[str, Any] | None:
        messages = source.layer.get(address.channel, [address.id])
        if not messages:
            return None
        [message] = messages
        return {
            **facts_of(message, whole),
            "due": moment(message.due),
            "is_claimed": message.token is not None,
            "error": ShownText.of(message.error.strip(), whole, at_end=True),
        }

    def text_when_gone(self, address: Address) -> str:
        text = gettext("%(message)s does not wait any more: it is finished, dead, cancelled or expired.")
        return text % {"message": f"{address.channel} {address.id}"}

    @admin.display(description=_("due, or claimed until"))
    def due_at(self, row: Any) -> str | None:
        return short_time(moment(row.listed.at))

    @admin.display(description=pgettext_lazy("message", "state"))
    def state(self, row: Any) -> str:
        return str(STATES[row.listed.state])

    @admin.display(description=pgettext_lazy("message", "attempts"))
    def attempts(self, row: Any) -> int:
        return int(row.listed.attempt)

    @admin.display(description=pgettext_lazy("message", "last error"))
    def failed(self, row: Any) -> str:
        return shortened(first_line(row.listed.error))

    @admin.display(description=pgettext_lazy("message", "lane"))
    def in_lane(self, row: Any) -> str:
        return row.listed.lane or ""

    @admin.display(description=pgettext_lazy("message", "worker"))
    def by_worker(self, row: Any) -> str:
        return row.listed.worker or ""

    @admin.action(description=_("Cancel selected messages"), permissions=("cancel",))
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Declare the action; ``response_action`` carries it out."""

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self._may(request, CANCEL)


def _row(source: Source, channel: str, stats: ChannelStats) -> dict[str, Any]:
    numbers = {name: _number(getattr(stats, name)) for name in ("ready", "scheduled", "claimed", "dead")}
    oldest = None if stats.oldest_due is None else timedelta(seconds=round(stats.oldest_due))
    query = urlencode({"layer": source.name, "channel": channel})
    pause = {"paused": stats.paused, "pause": "" if stats.pause is None else _describe(stats.pause)}
    return {"channel": channel, "query": query, "oldest_due": oldest, **pause, **numbers}


def _describe(pause: Pause) -> str:
    """Return since when, by whom and why, in the language of the reader."""
    texts = {
        "since": short_time(moment(pause.since)) or "",
        "by": single_line(pause.by),
        "reason": single_line(pause.reason),
    }
    if pause.by and pause.reason:
        text = gettext("since %(since)s by %(by)s: %(reason)s")
    elif pause.by:
        text = gettext("since %(since)s by %(by)s")
    else:
        text = gettext("since %(since)s: %(reason)s") if pause.reason else gettext("since %(since)s")
    return text % texts


def _number(value: int) -> str:
    return (
        f"≈ {number_format(value, force_grouping=True)}"
        if value > MAX_COUNTED
        else number_format(value, force_grouping=True)
    )
