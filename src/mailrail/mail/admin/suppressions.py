"""The suppression list: who is on it, and taking somebody off."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.validators import validate_email
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from mailrail.addresses import bare
from mailrail.keyset_admin import KeysetAdmin, KeysetChangeList, breakable
from mailrail.namespace import qualified
from mailrail.terminal import escape_control_characters

from ..models import Suppression
from ..records.suppressions import names_of

MAX_SEARCH_RESULTS = 1000
"""Addresses that begin alike and are sorted."""


class SuppressionForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the type checker
    """Clean an address as deliveries look for it: in its normal form, without a name."""

    def clean_address(self) -> str:
        address = bare(self.cleaned_data["address"])
        validate_email(address)
        return address


class SuppressionChangeList(KeysetChangeList):
    """List suppressed addresses in their order."""

    direction = ""


@admin.register(Suppression)
class SuppressionAdmin(KeysetAdmin):
    """Add addresses to the list and remove them. They are not changed."""

    form = SuppressionForm
    list_display = ("whom", "reason", "created_at")
    search_fields = ("address",)
    search_help_text = _(
        "The beginning of an address; 1,000 are found at most. An erased one is found when it is typed in whole."
    )

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Show the reason escaped, as it may be a server's reply."""
        return ("address", "reason", "note") if obj is None else ("address", "reason", "said")

    @admin.display(description=pgettext_lazy("email", "note"))
    def said(self, row: Suppression) -> str:
        return escape_control_characters(row.note)

    @admin.display(description=pgettext_lazy("email", "address"))
    def whom(self, suppression: Suppression) -> str:
        return breakable(suppression.address)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[SuppressionChangeList]:
        return SuppressionChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        address = bare(search_term.strip())
        asked = Q(address__startswith=qualified(address)) | Q(address__in=names_of(address))
        # Without an order, so that the planner takes the index of prefixes, and does not walk along the list.
        addresses = queryset.filter(asked).order_by().values_list("pk", flat=True)[:MAX_SEARCH_RESULTS]
        return queryset.filter(pk__in=list(addresses)), False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
