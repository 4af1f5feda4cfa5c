"""List invitations in the admin, and resend or revoke them. Keys and salts are never shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.widgets import AdminTextInputWidget
from django.contrib.auth import get_permission_codename, get_user_model
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import models, router
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext, pgettext_lazy

from mailrail import Channel
from mailrail.errors import InvalidSettings
from mailrail.keyset_admin import (
    ActionAdmin,
    Filter,
    KeysetChangeList,
    WordFilter,
    breakable,
    confirmation,
    few_of,
    is_confirmed,
)
from mailrail.record_links import link_records
from mailrail.redaction import shown_json

from .errors import InvitationRefused
from .forms import AddressField
from .inviting import resend, revoke
from .limits import check_limits
from .models import AbstractInvitation, Invitation, InvitationStatus, every_invitation, get_invitation_model
from .rights import check_rights


@dataclass(frozen=True)
class InvitationAction:
    """Describe an action on invitations of these statuses."""

    label: Any
    question: Any
    run: Callable[[Any], Any]
    statuses: tuple[str, ...] = (InvitationStatus.WAITING, InvitationStatus.SENT, InvitationStatus.EXPIRED)


DECISIONS = {
    "resend": InvitationAction(
        _("Send again, with a new link"),
        _("Send these invitations again, with new links? The links sent before stop working."),
        resend,
    ),
    "revoke": InvitationAction(
        pgettext_lazy("invitation", "Revoke"),
        _("Revoke these invitations? Their links stop working, for good."),
        revoke,
    ),
}


class InvitationStatusFilter(Filter):
    """Choose a status. Indexes serve accepted and revoked; the other statuses scan a window."""

    title = pgettext_lazy("invitation", "status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return list(InvitationStatus.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        self.is_windowed = self.value() in (
            InvitationStatus.WAITING,
            InvitationStatus.SENT,
            InvitationStatus.EXPIRED,
        )
        return queryset.with_status(value) if (value := self.value()) in InvitationStatus.values else queryset  # type: ignore[attr-defined]


class RoleFilter(WordFilter):
    """Filter by a role that is typed in, because roles are the project's own."""

    title = pgettext_lazy("invitation", "role")
    parameter_name = "role"
    is_windowed = True

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        return queryset.filter(role=self.value()) if self.value() else queryset


class InvitationChangeList(KeysetChangeList):
    """List the newest invitations first."""

    time_field = "created"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        rows = super().get_queryset(request, exclude_parameters)
        term = self.query.strip()
        return self._search(rows, term) if term else rows

    def _search(self, queryset: Any, term: str) -> QuerySet[Any]:
        """Find by a whole address in any spelling, or by a sender: with an index, or in a window if there are many."""
        if "@" not in term:
            users = get_user_model()._base_manager.using(queryset.db)
            named = users.filter(**{get_user_model().USERNAME_FIELD: term}).values_list("pk", flat=True)
            senders = list(named)
            return self._narrowed(
                queryset, lambda rows: rows.filter(sender__in=senders), "sender_id", "queued_at"
            )
        return self._narrowed(queryset, lambda rows: rows.to_mailboxes([term]))

    def _narrowed(self, queryset: Any, narrow: Callable[[Any], QuerySet[Any]], *order: str) -> QuerySet[Any]:
        keys = few_of(narrow(self.root_queryset), *order)
        if keys is not None:
            return queryset.filter(pk__in=keys)  # type: ignore[no-any-return]
        self.is_windowed = True
        return narrow(queryset)

    def indexed(self) -> QuerySet[Any]:
        rows = super().indexed()
        is_unsent = self.params.get(InvitationStatusFilter.parameter_name) == InvitationStatus.WAITING
        return rows.filter(sent=None, accepted_at=None) if is_unsent else rows


class InvitationAdminForm(ModelForm):  # type: ignore[type-arg]  # generic only for the type checker
    """Check the sender's rights and the limits of a new invitation, as the form of the site does."""

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]  # Django's stubs leave it out
        if self.instance._state.adding and not self.errors:
            database = router.db_for_write(type(self.instance), instance=self.instance)
            try:
                check_rights(self.instance.sender, self.instance)
                check_limits(every_invitation(database), self.instance.sender, [self.instance.email])
            except InvitationRefused as refused:
                self.add_error(None, str(refused))


with suppress(InvalidSettings, ImproperlyConfigured):  # a system check, which runs later, reports it
    link_records("send-invite", get_invitation_model())


@admin.register(Invitation)
class InvitationAdmin(ActionAdmin):
    """Create and delete invitations. They cannot be changed, because the key belongs to the address."""

    form = InvitationAdminForm
    formfield_overrides: ClassVar = {
        models.EmailField: {"form_class": AddressField, "widget": AdminTextInputWidget},
    }
    change_form_template = "mailrail_invitations/admin/invitation.html"
    list_display = ("whom", "sender", "role", "status", "created", "sent")
    list_filter = (InvitationStatusFilter, RoleFilter)
    list_select_related = ("sender",)
    search_fields = ("email",)  # InvitationChangeList searches
    search_help_text = _("A whole email address, or the name of a sender.")
    raw_id_fields = ("sender",)
    fields = (
        *("email", "sender", "role", "message", "language", "shown_payload", "status"),
        *("created", "expires_at", "sent", "accepted_at", "accepted_by", "revoked_at"),
    )
    readonly_fields = (
        *("language", "shown_payload", "status", "created", "expires_at"),
        *("sent", "accepted_at", "accepted_by", "revoked_at"),
    )
    actions = ("resend_selected", "revoke_selected")

    @admin.display(description=pgettext_lazy("invitation", "email address"))
    def whom(self, invitation: AbstractInvitation) -> str:
        return breakable(invitation.email)

    @admin.display(description=pgettext_lazy("invitation", "payload"))
    def shown_payload(self, invitation: AbstractInvitation) -> str:
        return shown_json(invitation.payload, whole=False).shown

    @admin.display(description=pgettext_lazy("invitation", "status"))
    def status(self, invitation: AbstractInvitation) -> str:
        return str(invitation.status.label)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[InvitationChangeList]:
        return InvitationChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset, False  # InvitationChangeList searches: it has to know whether an index helps

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"sender": request.user.pk, **super().get_changeform_initial_data(request)}

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.readonly_fields if obj is None else ("email", *self.readonly_fields)

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm[Any], change: bool) -> None:
        """Save an invitation; send a new one as the form does (the admin's view is one transaction).

        Of an existing one, save the changed fields only: it may be accepted, revoked or sent again at this moment.
        """
        if change:
            fields = self.opts.concrete_fields
            stamps = {field.name for field in fields if getattr(field, "auto_now", False)}
            changed = {field.name for field in fields}.intersection(form.changed_data)
            obj.save(update_fields=changed | stamps)
            return
        super().save_model(request, obj, form, change)
        Channel("send-invite").send(obj.content, unique=True, using=obj._state.db)

    # -- deciding -------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        invitation = self.get_object(request, unquote(object_id))
        decisions = [
            (name, decision.label)
            for name, decision in DECISIONS.items()
            if invitation is not None and invitation.status in decision.statuses and self._may(request, name)
        ]
        context = {"decisions": decisions, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, context)

    def decide_by_button(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Ask for confirmation; the answer carries the action out."""
        invitation = self.get_object(request, object_id)
        if not self.has_view_permission(request, invitation):
            raise PermissionDenied
        if invitation is None or name not in DECISIONS:
            raise Http404
        if not self._may(request, name):
            raise PermissionDenied
        prefix = f"{self.admin_site.name}:{self.opts.app_label}_{self.opts.model_name}"
        back = reverse(f"{prefix}_change", args=[quote(invitation.pk)])
        question_page = self._decide(request, [invitation], name, "decision", name, back)
        return question_page or HttpResponseRedirect(back)

    @admin.action(description=_("Send again, with a new link"), permissions=["resend"])
    def resend_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        back = request.get_full_path()
        return self._decide(request, queryset, "resend", "action", "resend_selected", back)

    @admin.action(description=pgettext_lazy("invitation", "Revoke"), permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        back = request.get_full_path()
        return self._decide(request, queryset, "revoke", "action", "revoke_selected", back)

    def _decide(
        self,
        request: HttpRequest,
        invitations: Iterable[Any],
        action_name: str,
        name: str,
        value: str,
        back: str,
    ) -> HttpResponse | None:
        """Ask for confirmation, or act on each invitation, log it, and report counts and refusals."""
        decision = DECISIONS[action_name]
        if not is_confirmed(request):
            rows = [(str(invitation.pk), invitation) for invitation in invitations]
            question, label = decision.question, decision.label
            return confirmation(self, request, question, rows, name=name, value=value, label=label, back=back)
        done = 0
        for invitation in invitations:
            try:
                decision.run(invitation)
            except InvitationRefused as refused:
                self.message_user(request, str(refused), messages.WARNING)
            else:
                self.log_change(request, invitation, str(decision.label))
                done += 1
        if done:
            text = ngettext("Done for %(count)d invitation.", "Done for %(count)d invitations.", done)
            self.message_user(request, text % {"count": done})
        return None

    def has_resend_permission(self, request: HttpRequest) -> bool:
        """Check the permission ``resend_invitation``."""
        return self._may(request, "resend")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Check the permission ``revoke_invitation``."""
        return self._may(request, "revoke")

    def _may(self, request: HttpRequest, action_name: str) -> bool:
        codename = get_permission_codename(action_name, self.opts)
        return request.user.has_perm(f"{self.opts.app_label}.{codename}")
