"""Route the live page: ``path("mailrail/", include("mailrail.dashboard.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "mailrail_dashboard"

urlpatterns = [
    path("", views.index, name="index"),
    path("data/", views.data, name="data"),
    path("lines/", views.lines, name="lines"),
    path("actions/", views.actions, name="actions"),
]
