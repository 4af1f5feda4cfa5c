"""Mailers: which there are, which are paused and why, and the hand on them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import router
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext, ngettext, pgettext, pgettext_lazy

from mailrail.keyset_admin import ReadOnlyAdminMixin
from mailrail.pauses import MAX_BY_LENGTH, MAX_REASON_LENGTH
from mailrail.terminal import escape_control_characters

from ..mailers import circuit
from ..mailers.config import delivering
from ..mailers.refused_senders import allow_sender, refused_senders
from ..models import MailerState


def _may_allow(request: HttpRequest) -> bool:
    """Tell whether the user may allow a sender, which takes email off hold."""
    return request.user.has_perm("mailrail_mail.hold_email")


@admin.register(MailerState)
class MailerStateAdmin(ReadOnlyAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for the type checker
    """List mailers rather than records: a mailer that works has none."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        states = {state.pk: state for state in MailerState.objects.all()}
        for state in states.values():
            state.reason = escape_control_characters(state.reason or "")
            state.person = escape_control_characters(state.person)
        refused = list(refused_senders())
        for row in refused:
            row.reason = escape_control_characters(row.reason or "")
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": pgettext_lazy("email", "Mailers"),
            "mailers": [(alias, states.get(alias)) for alias in sorted({*delivering(), *states})],
            "may_pause": self._may_pause(request),
            "refused_senders": refused,
            "may_allow": _may_allow(request),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "mailrail_mail/admin/mailers.html", context)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.switch_view)
        allow = self.admin_site.admin_view(self.allow_view)
        return [
            path("switch/", view, name="mailrail_mail_mailerstate_switch"),
            path("allow/", allow, name="mailrail_mail_mailerstate_allow"),
            *super().get_urls(),
        ]

    def switch_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self._may_pause(request) and self.has_view_permission(request)):
            raise PermissionDenied
        mailer, action = request.POST.get("mailer", ""), request.POST.get("what")
        using = router.db_for_write(MailerState)
        states = MailerState.objects.using(using).values_list("pk", flat=True)  # few: one for each mailer
        may_leave = mailer in delivering()
        is_known = may_leave or mailer in set(states)
        if action not in ("pause", "resume") or not (may_leave if action == "pause" else is_known):
            raise Http404
        if action == "pause":
            reason = request.POST.get("reason", "")[:MAX_REASON_LENGTH].replace("\0", "")
            circuit.pause(mailer, using, reason, request.user.get_username()[:MAX_BY_LENGTH])
            done, text = pgettext("email", "Pause"), gettext("%(mailer)s is paused: its email waits.")
        else:
            circuit.resume(mailer, using)
            done, text = pgettext("email", "Resume"), gettext("%(mailer)s goes on.")
        self.log_change(request, MailerState(pk=mailer), done)
        self.message_user(
            request, text % {"mailer": mailer or pgettext("email", "default")}, messages.SUCCESS
        )
        return redirect(reverse(f"{self.admin_site.name}:mailrail_mail_mailerstate_changelist"))

    def allow_view(self, request: HttpRequest) -> HttpResponse:
        """Let the mail of a refused sender go."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (_may_allow(request) and self.has_view_permission(request)):
            raise PermissionDenied
        row = next((row for row in refused_senders() if str(row.pk) == request.POST.get("id")), None)
        if row is None:
            raise Http404
        count = allow_sender(row.mailer, row.sender, router.db_for_write(MailerState))
        self.log_change(
            request, MailerState(pk=row.mailer), f"{pgettext('email', 'Allow sender')}: {row.sender}"
        )
        text = ngettext(
            "%(count)s held email from %(sender)s is sent now.",
            "%(count)s held emails from %(sender)s are sent now.",
            count,
        )
        notice = text % {"count": count, "sender": row.sender or "<>"}
        self.message_user(request, notice, messages.SUCCESS)
        return redirect(reverse(f"{self.admin_site.name}:mailrail_mail_mailerstate_changelist"))

    def _may_pause(self, request: HttpRequest) -> bool:
        return request.user.has_perm("mailrail_mail.pause_mailerstate")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
