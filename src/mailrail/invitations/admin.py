"""The admin: whom, by whom, and how far it got. Keys, and what they are made of, are not shown."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from mailrail import Channel

from .models import Invitation


class StatusFilter(admin.SimpleListFilter):
    """Waiting, sent or accepted."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("waiting", _("waiting")), ("sent", _("sent")), ("accepted", _("accepted"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        conditions: dict[str | None, dict[str, Any]] = {
            "waiting": {"sent": None, "accepted_at": None},
            "sent": {"sent__isnull": False, "accepted_at": None},
            "accepted": {"accepted_at__isnull": False},
        }
        return queryset.filter(**conditions.get(self.value(), {}))


@admin.register(Invitation)
class InvitationAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for the type checker
    """Invitations are made and deleted here, but not changed: the key belongs to the address."""

    list_display = ("email", "sender", "status", "created", "sent")
    list_filter = (StatusFilter,)
    list_select_related = ("sender",)
    search_fields = ("email", f"sender__{get_user_model().USERNAME_FIELD}")
    date_hierarchy = "created"
    raw_id_fields = ("sender",)
    fields = ("email", "sender", "created", "sent", "accepted_at")
    readonly_fields = ("created", "sent", "accepted_at")

    @admin.display(description=_("status"))
    def status(self, invitation: Invitation) -> str:
        return invitation.status

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"sender": request.user.pk, **super().get_changeform_initial_data(request)}

    def get_readonly_fields(self, request: HttpRequest, obj: Invitation | None = None) -> tuple[str, ...]:
        return self.readonly_fields if obj is None else ("email", *self.readonly_fields)

    def save_model(
        self, request: HttpRequest, obj: Invitation, form: ModelForm[Invitation], change: bool
    ) -> None:
        """Save it; a new one is sent as by the form (the admin's view is one transaction)."""
        super().save_model(request, obj, form, change)
        if not change:
            Channel("send-invite").send({"id": obj.pk}, using=obj._state.db)
