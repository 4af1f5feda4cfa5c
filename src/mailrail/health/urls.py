"""Route the health pages: ``path("", include("mailrail.health.urls"))``."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "mailrail_health"

urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
