"""The live page, and beside it a page that knows its user and says nothing."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponseNotModified
from django.urls import include, path


def nothing(request: HttpRequest) -> HttpResponseNotModified:
    """Answer that nothing is new, to somebody with the permission of the live page."""
    assert request.user.has_perm("mailrail_dashboard.view_dashboard")
    return HttpResponseNotModified()


urlpatterns = [
    path("live/", include("mailrail.dashboard.urls")),
    path("admin/", admin.site.urls),  # which the page links to
    path("nothing/", nothing),
]
