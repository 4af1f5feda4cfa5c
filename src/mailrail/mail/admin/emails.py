"""Emails: found by what an index has, or in a window; looked at safely; and what people may decide about them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import connections, models, router
from django.db.models import Q, QuerySet
from django.db.models.functions import Cast
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from mailrail.keyset_admin import (
    ActionAdmin,
    KeysetChangeList,
    ReadOnlyAdminMixin,
    breakable,
    short_time,
)
from mailrail.record_links import link_records
from mailrail.terminal import single_line

from ..mailers.channels import PATTERN
from ..models import FINAL, Email, Status
from ..records import control
from ..records.retention import delete_final
from . import translations
from .contents import CannotShow, Contents, download, preview
from .filters import AboutFilter, EmailStatusFilter, MailerFilter, TagFilter

MAX_SHOWN_BYTES = 1024 * 1024
"""Bytes of an email whose content is read for its page; that of a larger one on demand."""
WAITING = ("queued", translations.DEFERRED)
OPEN = (Status.QUEUED, Status.SENDING, Status.HELD)


@dataclass(frozen=True)
class EmailAction:
    """Describe an action of people: by a button, for emails of these statuses, and in the list."""

    label: Any
    run: Callable[[list[UUID]], control.Changed]
    permission: str
    statuses: tuple[str, ...]
    is_ambiguous: bool = False
    """Only for those that may have been sent: the decision of the same name without this is refused."""

    def is_about(self, email: Email) -> bool:
        return translations.shown_status(email) in self.statuses and (
            not self.is_ambiguous or control.may_be_sent(email)
        )


DECISIONS = {
    "send_now": EmailAction(_("Send now"), control.send_now, "resend_email", (translations.DEFERRED,)),
    "resend": EmailAction(_("Send again"), control.resend, "resend_email", FINAL),
    "cancel": EmailAction(
        pgettext_lazy("email", "Cancel"), control.cancel, "cancel_email", (*WAITING, "held")
    ),
    "cancel_anyway": EmailAction(
        pgettext_lazy("email", "Cancel, though it may have been sent"),
        partial(control.cancel, force=True),
        "cancel_email",
        (*WAITING, "held"),
        is_ambiguous=True,
    ),
    "hold": EmailAction(pgettext_lazy("email", "Hold"), control.hold, "hold_email", WAITING),
    "unhold": EmailAction(pgettext_lazy("email", "Unhold"), control.unhold, "hold_email", ("held",)),
}


class EmailChangeList(KeysetChangeList):
    """List emails, the newest first."""

    time_field = "created_at"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Email]:
        emails = super().get_queryset(request, exclude_parameters).defer("content")
        term = self.query.strip()
        if not term:
            return emails
        if named := _named(term, emails.db):
            return emails.filter(pk__in=named)
        self.is_windowed = True
        return _containing(emails, term)

    def indexed(self) -> QuerySet[Email]:
        status = self.params.get(EmailStatusFilter.parameter_name)
        rows = super().indexed()
        if status == translations.DEFERRED:
            status = Status.QUEUED
        return rows.filter(status=status) if status in Status.values else rows


def _named(term: str, using: str) -> list[UUID]:
    """Return the emails that have this id, key or Message-ID. Each is found by an index."""
    emails = Email.objects.using(using).order_by()
    names = Q(message_id__in=(term, f"<{term}>"), status__in=FINAL)
    for asked in (_is_id(term), Q(key=term[:256]), names):
        if asked and (ids := list(emails.filter(asked).values_list("pk", flat=True)[:100])):
            return ids
    return []


def _is_id(term: str) -> Q:
    try:
        return Q(pk=UUID(term))
    except ValueError:
        return Q()


def _containing(emails: QuerySet[Email], term: str) -> QuerySet[Email]:
    in_json = json.dumps(term, ensure_ascii=connections[emails.db].vendor != "postgresql")[1:-1]
    return emails.annotate(recipients_text=Cast("recipients", models.TextField())).filter(
        Q(subject__icontains=term, sensitive=False)
        | Q(recipients_text__icontains=in_json)
        | Q(message_id__icontains=term)
    )


link_records(PATTERN, Email)


@admin.register(Email)
class EmailAdmin(ReadOnlyAdminMixin, ActionAdmin):
    """Show emails and act on them. They are neither made nor changed here."""

    change_form_template = "mailrail_mail/admin/email.html"
    list_display = ("title", "to", "shown_status", "reason", "next_try", "mailer", "queued")
    list_filter = (EmailStatusFilter, MailerFilter, TagFilter, AboutFilter)
    search_fields = ("subject",)
    search_help_text = _(
        "The whole id, key or Message-ID; or a part of the subject or a recipient, which is looked for page by page."
    )
    actions = ("send_now", "resend", "cancel", "cancel_anyway", "hold", "unhold")
    fieldsets = (
        (None, {"fields": (("shown_status", "next_try", "mailer", "attempts"), ("title", "sender"))}),
        (
            pgettext_lazy("email", "Times"),
            {"fields": (("created_at", "changed_at", "sent_at"), ("send_at", "expires_at", "emptied_at"))},
        ),
        (
            pgettext_lazy("email", "Names"),
            {"fields": (("id", "message_id", "key"), ("tags", "related_object"), ("priority", "size"))},
        ),
    )
    readonly_fields = ("id", "title", "shown_status", "next_try")

    class Media:
        css = {"all": ("mailrail_mail/admin.css",)}  # noqa: RUF012 - as Django has it

    # -- the list -------------------------------------------------------------------------------------------------

    @admin.display(description=pgettext_lazy("email", "subject"))
    def title(self, email: Email) -> str:
        if email.sensitive:
            return gettext("(not shown)")
        return single_line(email.subject) or gettext("(no subject)")

    @admin.display(description=pgettext_lazy("email", "recipients"))
    def to(self, email: Email) -> str:
        addresses = [str(recipient.get("address", "")) for recipient in _objects(email.recipients)]
        more = len(addresses) - 1
        shown = [breakable(address) for address in addresses[:1]]
        return format_html("{}{}", *shown, f" (+{more})" if more > 0 else "") if shown else ""

    @admin.display(description=pgettext_lazy("email", "status"))
    def shown_status(self, email: Email) -> str:
        return format_html(
            '<span class="mailrail-status" data-status="{}">{}</span>',
            translations.shown_status(email),
            translations.status_label(email),
        )

    @admin.display(description=pgettext_lazy("email", "reason"))
    def reason(self, email: Email) -> str:
        return breakable(translations.reason(email))

    @admin.display(description=_("next try"))
    def next_try(self, email: Email) -> str:
        return short_time(translations.next_try(email)) or str(self.get_empty_value_display())

    @admin.display(description=pgettext_lazy("when an email was", "queued"))
    def queued(self, email: Email) -> str | None:
        return short_time(email.created_at)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[EmailChangeList]:
        return EmailChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset, False  # EmailChangeList searches: it has to know whether an index helps

    @admin.action(description=_("Send selected emails now"), permissions=("resend",))
    def send_now(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "send_now")

    @admin.action(description=_("Send selected emails again"), permissions=("resend",))
    def resend(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "resend")

    @admin.action(description=_("Cancel selected emails"), permissions=("cancel",))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "cancel")

    @admin.action(
        description=_("Cancel selected emails, also those that may have been sent"), permissions=("cancel",)
    )
    def cancel_anyway(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "cancel_anyway")

    @admin.action(description=_("Hold selected emails"), permissions=("hold",))
    def hold(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "hold")

    @admin.action(description=_("Unhold selected emails"), permissions=("hold",))
    def unhold(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        self._decide(request, queryset.values_list("pk", flat=True), "unhold")

    # -- one email ------------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        def named(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(view), name=f"mailrail_mail_email_{name}")

        return [
            named("<path:object_id>/preview/", self.preview_view, "preview"),
            named("<path:object_id>/source/", self.source_view, "source"),
            named("<path:object_id>/part/<int:number>/", self.part_view, "part"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        email = self.get_object(request, unquote(object_id))
        context = (
            {}
            if email is None or not self.has_view_permission(request, email)
            else self._shown(request, email)
        )
        return super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})

    def _shown(self, request: HttpRequest, email: Email) -> dict[str, Any]:
        contents, problem = None, self._why_hidden(request, email)
        is_large = not problem and email.size > MAX_SHOWN_BYTES and "contents" not in request.GET
        if not problem and not is_large:
            try:
                contents = Contents(email, email._state.db or "default")
            except CannotShow as error:
                problem = str(error)
        return {
            "recipients": [translations.recipient(entry) for entry in _objects(email.recipients)],
            "events": [translations.event(entry) for entry in _objects(email.events)],
            "contents": contents,
            "headers": [(name, breakable(value)) for name, value in contents.headers] if contents else [],
            "problem": problem,
            "is_large": is_large,
            "is_open": email.status in OPEN,
            "decisions": [
                (name, decision.label)
                for name, decision in DECISIONS.items()
                if decision.is_about(email) and self._may(request, decision)
            ],
        }

    def preview_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return preview(self._contents(request, object_id), as_text="text" in request.GET)

    def source_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        data = self._contents(request, object_id).data
        return download(data, f"{unquote(object_id)}.eml", "message/rfc822")

    def part_view(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        parts = self._contents(request, object_id).parts
        if number >= len(parts):
            raise Http404
        part = parts[number]
        return download(part.data, part.filename or f"part-{number}")

    def _contents(self, request: HttpRequest, object_id: str) -> Contents:
        email = self._viewed(request, unquote(object_id))
        if hidden := self._why_hidden(request, email):
            raise PermissionDenied(hidden)
        try:
            return Contents(email, email._state.db or "default")
        except CannotShow as error:
            raise Http404(str(error)) from error

    def _why_hidden(self, request: HttpRequest, email: Email) -> str:
        """Return why this user may not see the content of the email, or an empty text."""
        if email.sensitive:
            return gettext(
                "It may hold a secret, such as a link that sets a password: it is shown to nobody."
            )
        if not request.user.has_perm("mailrail_mail.view_email_content"):
            text = gettext("To see it takes the permission “%(permission)s”.")
            return text % {"permission": gettext("Can view the content of email")}
        return ""

    def _viewed(self, request: HttpRequest, object_id: str) -> Email:
        email: Email | None = self.get_object(request, object_id)
        if not self.has_view_permission(request, email):
            raise PermissionDenied
        if email is None:
            raise Http404
        return email

    # -- deciding -------------------------------------------------------------------------------------------------

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        email = self._viewed(request, object_id)
        if name not in DECISIONS:
            raise Http404
        if not self._may(request, DECISIONS[name]):
            raise PermissionDenied
        self._decide(request, [email.pk], name)
        return redirect(reverse(f"{self.admin_site.name}:mailrail_mail_email_change", args=(email.pk,)))

    def _decide(self, request: HttpRequest, ids: Iterable[UUID], name: str) -> None:
        """Run the action, log and show what was done, and show the reasons for what was refused."""
        decision = DECISIONS[name]
        changed = decision.run(list(ids))
        for id in changed.done:
            self.log_change(request, _nameless(id), str(decision.label))
        if changed.done:
            count = len(changed.done)
            text = ngettext("%(what)s: %(count)d email.", "%(what)s: %(count)d emails.", count)
            self.message_user(request, text % {"what": decision.label, "count": count}, messages.SUCCESS)
        for reason, count in Counter(changed.refused.values()).items():
            text = ngettext(
                "Refused for %(count)d email: %(why)s.", "Refused for %(count)d emails: %(why)s.", count
            )
            self.message_user(request, text % {"count": count, "why": gettext(reason)}, messages.WARNING)

    def _may(self, request: HttpRequest, decision: EmailAction) -> bool:
        return request.user.has_perm(f"mailrail_mail.{decision.permission}")

    def has_resend_permission(self, request: HttpRequest) -> bool:
        return self._may(request, DECISIONS["resend"])

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self._may(request, DECISIONS["cancel"])

    def has_hold_permission(self, request: HttpRequest) -> bool:
        return self._may(request, DECISIONS["hold"])

    # -- deleted once it has ended ----------------------------------------------------------------------------------

    def has_delete_permission(self, request: HttpRequest, obj: Email | None = None) -> bool:
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and (obj is None or obj.status in FINAL)

    def get_deleted_objects(
        self, objs: Iterable[Email], request: HttpRequest
    ) -> tuple[Any, Any, set[Any], list[Any]]:
        names = [f"{email} ({email.get_status_display()})" for email in objs]
        open = [
            gettext("%(email)s: cancel it first") % {"email": f"{email} ({email.get_status_display()})"}
            for email in objs
            if email.status not in FINAL
        ]
        return names, {self.opts.verbose_name_plural: len(names)}, set(), open

    def log_deletions(self, request: HttpRequest, queryset: Iterable[Email]) -> Any:
        nameless: Any = [_nameless(email.pk) for email in queryset]
        return super().log_deletions(request, nameless)

    def delete_model(self, request: HttpRequest, obj: Email) -> None:
        if not delete_final([obj.pk], router.db_for_write(Email)):
            raise PermissionDenied(gettext("It was changed in this very moment."))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Email]) -> None:
        ids = [email.pk for email in queryset]
        kept = len(ids) - len(delete_final(ids, router.db_for_write(Email)))
        if kept:
            text = ngettext(
                "%(count)d was kept: it has not ended.", "%(count)d were kept: they have not ended.", kept
            )
            self.message_user(request, text % {"count": kept}, messages.WARNING)


def _nameless(id: UUID) -> Email:
    """Return an object that shows its id only: what people wrote does not belong in the admin's log, which outlives
    it."""
    return Email(pk=id, subject="")


def _objects(value: Any) -> list[dict[str, Any]]:
    """Return the dictionaries in a list of the record, which other hands may have written."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
