"""Lead from the admin to the live page: an entry among its apps, for whoever may see the page."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from mailrail.keyset_admin import ReadOnlyAdminMixin

from .links import live_page
from .models import Dashboard
from .viewers import VIEW


@admin.register(Dashboard)
class DashboardAdmin(ReadOnlyAdminMixin, admin.ModelAdmin):  # type: ignore[type-arg]  # generic only for the type checker
    """Redirect to the live page. There is no entry where the project's URLs have no such page."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(live_page()) and request.user.has_perm(VIEW)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(live_page())
