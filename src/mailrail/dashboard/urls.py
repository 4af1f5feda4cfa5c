"""Route the live page: ``path("mailrail/", include("mailrail.dashboard.urls"))``."""

from __future__ import annotations

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.urls import path

from . import views

if not apps.is_installed(
    "mailrail.dashboard"
):  # else opening the page says only that a template does not exist
    raise ImproperlyConfigured(
        'The URLs of "mailrail.dashboard" are in use, but the app is not in INSTALLED_APPS. Add "mailrail.dashboard" '
        'before "django.contrib.admin", and run: python manage.py migrate'
    )

app_name = "mailrail_dashboard"

urlpatterns = [
    path("", views.index, name="index"),
    path("data/", views.data, name="data"),
    path("lines/", views.lines, name="lines"),
    path("actions/", views.actions, name="actions"),
]
