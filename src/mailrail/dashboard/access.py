"""Decide who may see the live page, and where whoever is not logged in logs in."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, resolve, reverse

SESSION_OVER = 401
FORBIDDEN = 403


def refusal(user: Any, *permissions: str) -> int | None:
    """Return the status to refuse a user with, or ``None`` for one who has all permissions.

    A user need not be a member of staff; one who is not active has no permission (Django's backends).
    """
    if user is None or not user.is_authenticated:
        return SESSION_OVER
    return None if all(user.has_perm(permission) for permission in permissions) else FORBIDDEN


def login(request: HttpRequest) -> HttpResponse:
    """Redirect to ``LOGIN_URL``; where the project has no such page, to that of the admin."""
    return redirect_to_login(request.get_full_path(), _login_url())


def _login_url() -> str:
    url = resolve_url(settings.LOGIN_URL)
    if "://" in url or url.startswith("//"):
        return url
    try:
        resolve(url.partition("?")[0])
    except Http404:
        try:
            return reverse("admin:login")
        except NoReverseMatch:
            pass
    return url
