"""The first page, the invitations, the live page, the admin, and the way in; while developing, the inbox."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path

from demo import environment
from demo.views import home

urlpatterns = [
    path("", home, name="home"),
    path("", include("mailrail.health.urls")),
    path("invites/", include("mailrail.invitations.urls")),
    path("live/", include("mailrail.dashboard.urls")),
    path("login/", LoginView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("i18n/", include("django.conf.urls.i18n")),
]

if environment.has_inbox():
    urlpatterns.append(path("inbox/", include("demo.inbox.urls")))
