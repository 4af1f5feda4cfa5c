"""Decide who may see the live page, and where whoever is not logged in logs in."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, resolve, reverse

SESSION_OVER = 401
FORBIDDEN = 403
SHORTEST_S, LONGEST_S = 2.0, 60.0
"""Seconds for which a session that polls is not checked again, at least and at most."""


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


def session_user(request: HttpRequest, other: Any = None) -> Any:
    """Return the user of the request's session as the session and the user are now, for requests without middleware.

    ``other``: the user whom a middleware of the project has found in another way, read again if there is no session.
    """
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if key:
        session: Any = import_module(settings.SESSION_ENGINE).SessionStore(key)
        # Django renews the key of a session that an old SECRET_KEY has signed; nobody would tell the browser.
        session.cycle_key = lambda: None
        request.session = session
        user = get_user(request)
        if user.is_authenticated:
            return user
    if key or other is None or not other.is_authenticated:
        return None
    return type(other)._default_manager.filter(pk=other.pk, is_active=True).first()


class Admissions:
    """Remember for some seconds what users may see, by the cookie of their session.

    A check costs ten times what the rest of an answer does. So there is about one a second: each of n sessions is
    checked every n seconds. Whoever logs in by anything else, such as a header, is checked at each request.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, frozenset[str]]] = {}

    def get(self, request: HttpRequest) -> frozenset[str] | None:
        """Return the permissions of a request whose session was checked lately."""
        until, grants = self._known.get(_key(request), (0.0, None))
        return grants if time.monotonic() < until else None

    def remember(self, request: HttpRequest, grants: frozenset[str]) -> None:
        """Remember the permissions of an admitted request."""
        key, now = _key(request), time.monotonic()
        if not key[0] or str(request.user.pk) != request.session.get(SESSION_KEY):
            return
        polling = {known: entry for known, entry in [*self._known.items()] if now < entry[0] + SHORTEST_S}
        seconds = min(max(SHORTEST_S, len({*polling, key})), LONGEST_S)
        self._known = {**polling, key: (now + seconds, grants)}


def _key(request: HttpRequest) -> tuple[str, str]:
    cookie = request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")
    return cookie, request.META.get("HTTP_HOST", "")  # tenants may share sessions


admissions = Admissions()
