"""List dead messages in the admin, with their last errors, and requeue or discard them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.keyset_admin import ShownText, short_time
from mailrail.messages import Cursor, MessageSummary
from mailrail.models import BuriedMessage
from mailrail.tracebacks import first_line

from .filters import NO_EXCEPTION, ChannelFilter, ErrorFilter, LayerFilter
from .pages import LayerAdmin, MessageAction, counted, facts_of, moment, shortened
from .sources import Address, ListRequest, Source

_GONE = counted(
    "%(count)d message is not dead any more: it was requeued or discarded meanwhile.",
    "%(count)d messages are not dead any more: they were requeued or discarded meanwhile.",
)
REQUEUE = MessageAction(
    lambda layer, channel, ids: layer.requeue(channel, ids),
    _("Send again"),
    "requeue_message",
    _("Send these messages again, with all their attempts?"),
    counted("%(count)d message was sent again.", "%(count)d messages were sent again."),
    _GONE,
)
DISCARD = MessageAction(
    lambda layer, channel, ids: layer.discard(channel, ids),
    pgettext_lazy("message", "Discard"),
    "discard_message",
    _("Discard these messages for good? Nothing of them is kept."),
    counted("%(count)d message was discarded.", "%(count)d messages were discarded."),
    _GONE,
)


@admin.register(BuriedMessage)
class DeadMessageAdmin(LayerAdmin):
    """List dead messages, the last buried first."""

    message_template = "mailrail/admin/dead.html"
    decisions = {"requeue": REQUEUE, "discard": DISCARD}  # noqa: RUF012 - never changed
    list_display = ("on_channel", "buried", "exception", "error_text", "preview", "attempts")
    list_filter = (LayerFilter, ChannelFilter, ErrorFilter)
    actions = ("requeue", "discard")

    def find_page(self, list_request: ListRequest, limit: int, cursor: Cursor | None) -> list[MessageSummary]:
        name = list_request.error_class
        error_class = "" if name == NO_EXCEPTION else name or None
        return list_request.source.layer.list_messages(
            list_request.looked_at, limit, "dead", cursor, error_class
        )

    def shown(self, source: Source, address: Address, whole: bool) -> dict[str, Any] | None:
        messages = source.layer.get(address.channel, [address.id], dead=True)
        if not messages:
            return None
        [dead] = messages
        return {
            **facts_of(dead, whole),
            "buried_at": moment(dead.buried_at),
            "error": ShownText.of(dead.error.strip(), whole, at_end=True),
        }

    def text_when_gone(self, address: Address) -> str:
        text = gettext("%(message)s is not dead any more: it was requeued or discarded.")
        return text % {"message": f"{address.channel} {address.id}"}

    @admin.display(description=pgettext_lazy("message", "buried"))
    def buried(self, row: Any) -> str | None:
        return short_time(moment(row.listed.at))

    @admin.display(description=pgettext_lazy("message", "error"))
    def exception(self, row: Any) -> str:
        return str(row.listed.error_class.rpartition(".")[2] or gettext("no exception"))

    @admin.display(description=_("error message"))
    def error_text(self, row: Any) -> str:
        return shortened(first_line(row.listed.error).removeprefix(f"{row.listed.error_class}: "))

    @admin.display(description=pgettext_lazy("message", "attempts"))
    def attempts(self, row: Any) -> int:
        return int(row.listed.attempt)

    @admin.action(description=_("Send selected messages again"), permissions=("requeue",))
    def requeue(self, request: HttpRequest, queryset: Any) -> None:
        """Declare the action; ``response_action`` carries it out."""

    @admin.action(description=_("Discard selected messages"), permissions=("discard",))
    def discard(self, request: HttpRequest, queryset: Any) -> None:
        """Declare the action; ``response_action`` carries it out."""

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return self._may(request, REQUEUE)

    def has_discard_permission(self, request: HttpRequest) -> bool:
        return self._may(request, DISCARD)
