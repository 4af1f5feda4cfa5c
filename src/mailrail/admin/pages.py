"""Show a list of messages, one message, and the actions on them: shared by dead and waiting messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import get_content_type_for_model
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext, ngettext, pgettext_lazy

from mailrail.errors import MailrailError
from mailrail.keyset_admin import (
    ActionAdmin,
    KeysetChangeList,
    ReadOnlyAdminMixin,
    confirmation,
    is_confirmed,
)
from mailrail.layers import DurableLayer
from mailrail.messages import Cursor, Message, MessageSummary
from mailrail.record_links import link_of
from mailrail.redaction import redacted_text, shown_json
from mailrail.terminal import escape_control_characters, single_line

from ..moments import from_timestamp
from .sources import MAX_CHANNELS_LISTED, Address, ListRequest, Source, source_of

MAX_LISTED_CHARACTERS = 120
"""Characters of a content or an error in a row of a list."""


@dataclass(frozen=True)
class MessageAction:
    """Describe an action: what carries it out, its permission and its texts. ``done`` and ``missed`` take a count.

    ``run``: changes messages of a channel of a layer, and returns the ids of those that it has changed.
    """

    run: Callable[[DurableLayer, str, list[UUID]], list[UUID]]
    label: Any
    permission: str
    question: Any
    done: Callable[[int], str]
    missed: Callable[[int], str]


class LayerChangeList(KeysetChangeList):
    """List a layer's messages as unsaved model instances, each with its ``listed`` summary."""

    model_admin: LayerAdmin

    def get_results(self, request: HttpRequest) -> None:
        page: list[MessageSummary] = []
        try:
            list_request = ListRequest.by(request)
            source = list_request.source
            page = self.model_admin.find_page(list_request, self.list_per_page + 1, _read_cursor(self.behind))
            if not list_request.channel and len(list_request.in_use) > MAX_CHANNELS_LISTED:
                text = gettext("These are messages of the first %(count)d channels only; choose one.")
                messages.warning(request, text % {"count": MAX_CHANNELS_LISTED})
        except MailrailError as error:
            messages.error(request, escape_control_characters(str(error)))
        is_more = len(page) > self.list_per_page
        rows = [self._row(source, listed) for listed in page[: self.list_per_page]]
        self.show(rows, _write_cursor(page[self.list_per_page - 1].cursor) if is_more else None)

    def _row(self, source: Source, listed: MessageSummary) -> Any:
        row: Any = self.model(pk=str(Address(source.name, listed.channel, listed.id)), channel=listed.channel)
        row.listed = listed
        return row


class LayerAdmin(ReadOnlyAdminMixin, ActionAdmin):
    """Show messages and offer actions on them. Messages are neither created nor changed in the admin."""

    message_template: ClassVar[str]
    decisions: ClassVar[Mapping[str, MessageAction]]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[LayerChangeList]:
        return LayerChangeList

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return []  # a message has a page of its own, and no form

    def find_page(self, list_request: ListRequest, limit: int, cursor: Cursor | None) -> list[MessageSummary]:
        """Return one page of messages. Raises ``MailrailError``."""
        raise NotImplementedError

    @admin.display(description=pgettext_lazy("message", "channel"))
    def on_channel(self, row: Any) -> str:
        return str(row.channel)

    @admin.display(description=pgettext_lazy("message", "content"))
    def preview(self, row: Any) -> str:
        return shortened(redacted_text(row.listed.preview))

    # -- one message ----------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        address = Address.read(unquote(object_id))
        try:
            facts = self.shown(source_of(address.source, address.channel), address, "whole" in request.GET)
        except MailrailError as error:
            self.message_user(request, str(error), messages.ERROR)
            return self._to_list()
        if facts is None:
            self.message_user(request, self.text_when_gone(address), messages.WARNING)
            return self._to_list()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{address.channel} {address.id}",
            "media": self.media,
            "original": f"{address.channel} {address.id}",
            "has_view_permission": True,
            "address": address,
            "quoted": quote(str(address)),
            "allowed": [
                (name, action.label) for name, action in self.decisions.items() if self._may(request, action)
            ],
            "record": link_of(address.channel, facts["message"].content, request, self.admin_site),
            **facts,
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.message_template, context)

    def shown(self, source: Source, address: Address, whole: bool) -> dict[str, Any] | None:
        """Return the template's context for a message, or ``None`` if the message is gone. Raises ``MailrailError``."""
        raise NotImplementedError

    def text_when_gone(self, address: Address) -> str:
        raise NotImplementedError

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Ask for confirmation; the answer carries the action out."""
        address = Address.read(object_id)
        back = self._url("change", quote(str(address)))
        return self._decide(request, name, "decision", [address], back)

    def response_action(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> Any:
        """Carry out an action of the list. There is no queryset: the layer gets the selected ids."""
        if "1" in request.POST.getlist("select_across"):
            return super().response_action(request, queryset, *args, **kwargs)  # Django's view refuses it
        names = [name for name in request.POST.getlist("action") if name]
        selected = [Address.read(text) for text in request.POST.getlist(ACTION_CHECKBOX_NAME)]
        if not names:
            self.message_user(request, gettext("No action selected."), messages.WARNING)
            return None
        return self._decide(request, names[0], "action", selected, request.get_full_path())

    def _decide(
        self, request: HttpRequest, name: str, field: str, addresses: list[Address], back: str
    ) -> HttpResponse:
        if name not in self.decisions:
            raise Http404
        decision = self.decisions[name]
        if not (self.has_view_permission(request) and self._may(request, decision)):
            raise PermissionDenied
        if not is_confirmed(request):
            rows = [(str(address), f"{address.channel} {address.id}") for address in addresses]
            question, label = decision.question, decision.label
            return confirmation(self, request, question, rows, name=field, value=name, label=label, back=back)
        self._carry_out(request, decision, addresses)
        return self._to_list() if field == "decision" else HttpResponseRedirect(back)

    def _carry_out(self, request: HttpRequest, decision: MessageAction, addresses: list[Address]) -> None:
        """Carry the action out, log it, and report how many messages were done and how many were gone."""
        done = missed = 0
        for (name, channel), ids in _by_channel(addresses).items():
            source = source_of(name, channel)
            try:
                # A layer on the log's database shares this transaction, so both commit or neither does.
                with transaction.atomic(using=router.db_for_write(LogEntry)):
                    done_ids = decision.run(source.layer, channel, ids)
                    self._log(request, decision, [Address(name, channel, id) for id in done_ids])
            except MailrailError as error:
                self.message_user(request, str(error), messages.ERROR)
                break
            done, missed = done + len(done_ids), missed + len(ids) - len(done_ids)
        if done:
            self.message_user(request, decision.done(done), messages.SUCCESS)
        if missed:
            self.message_user(request, decision.missed(missed), messages.WARNING)

    def _log(self, request: HttpRequest, decision: MessageAction, addresses: Iterable[Address]) -> None:
        """Log channels and ids only: the log outlives the messages, so it must not hold their contents."""
        content_type = get_content_type_for_model(self.model)
        LogEntry.objects.bulk_create(
            LogEntry(
                user_id=str(request.user.pk),
                content_type=content_type,
                object_id=str(address),
                object_repr=f"{address.channel} {address.id}"[:200],
                action_flag=CHANGE,
                change_message=str(decision.label),
            )
            for address in addresses
        )

    def _may(self, request: HttpRequest, decision: MessageAction) -> bool:
        return request.user.has_perm(f"{self.opts.app_label}.{decision.permission}")

    def _to_list(self) -> HttpResponse:
        return HttpResponseRedirect(self._url("changelist"))

    def _url(self, name: str, *args: str) -> str:
        prefix = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}"
        return reverse(f"{prefix}_{name}", args=args)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def facts_of(message: Message, whole: bool) -> dict[str, Any]:
    """Return the context that the pages of all messages share."""
    return {
        "message": message,
        "sent_at": moment(message.sent_at),
        "expires": moment(message.expires),
        "content": shown_json(message.content, whole),
        "headers": shown_json(message.headers, whole),
    }


def moment(seconds: float | None) -> datetime | None:
    """Return the moment, or ``None`` where no calendar has it."""
    try:
        return None if seconds is None else from_timestamp(seconds)
    except (OverflowError, ValueError, OSError):
        return None


def shortened(text: str) -> str:
    text = single_line(text)
    return text if len(text) <= MAX_LISTED_CHARACTERS else text[: MAX_LISTED_CHARACTERS - 1] + "…"


def counted(singular: str, plural: str) -> Callable[[int], str]:
    """Return a function that puts a count into a text, in the reader's language."""
    return lambda count: ngettext(singular, plural, count) % {"count": count}


def _by_channel(addresses: Iterable[Address]) -> dict[tuple[str, str], list[UUID]]:
    ids_by_channel: dict[tuple[str, str], list[UUID]] = {}
    for address in dict.fromkeys(addresses):
        ids_by_channel.setdefault((address.source, address.channel), []).append(address.id)
    return ids_by_channel


def _write_cursor(cursor: Cursor) -> str:
    return f"{cursor[0]!r}_{cursor[1]}"


def _read_cursor(text: str | None) -> Cursor | None:
    """Read a position from the query string. An invalid one means the beginning: ``None``."""
    at, _, id = (text or "").partition("_")
    try:
        return float(at), UUID(id)
    except ValueError:
        return None
