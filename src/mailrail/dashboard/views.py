"""Serve the live page, its numbers as JSON, and its actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified, JsonResponse
from django.shortcuts import render
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.utils.http import parse_etags, urlencode
from django.utils.timezone import get_current_timezone_name
from django.utils.translation import get_language, gettext
from django.views.decorators.csrf import csrf_protect, ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from mailrail.errors import MailrailError

from .access import SESSION_OVER, admissions, login, refusal
from .cells import shown
from .lines import LineQuery
from .lines import lines as lines_of
from .operations import act
from .page import page_for
from .queries import PageQuery
from .viewers import OPERATE, VIEW, Viewer, grants_of, viewer_of, viewer_with

View: TypeAlias = Callable[[HttpRequest], HttpResponse]


def _outside_transactions(view: View) -> View:
    """Serve a view without transaction: a question to an unusable layer would spoil it."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def _private(view: View) -> View:
    """Let only the viewer's browser keep an answer, and have it ask again whenever it would use the answer."""

    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        response = view(request)
        patch_cache_control(response, private=True, no_cache=True)
        patch_vary_headers(response, ("Cookie", "Accept-Language"))
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return wrapped


def _granted(*permissions: str) -> Callable[[View], View]:
    """Answer 401 or 403 with JSON unless the user has the permissions."""

    def decorator(view: View) -> View:
        @login_not_required
        @wraps(view)
        def wrapped(request: HttpRequest) -> HttpResponse:
            status = refusal(request.user, *permissions)
            return view(request) if status is None else _refused(status)

        return wrapped

    return decorator


def _to_viewers(view: Callable[[HttpRequest, Viewer], HttpResponse]) -> View:
    """Answer 401 or 403 with JSON unless the user may see the page, as was found out within the last seconds."""

    @login_not_required
    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        grants = admissions.get(request)
        if grants is None:
            status = refusal(request.user, VIEW)
            if status is not None:
                return _refused(status)
            grants = grants_of(request.user)
            admissions.remember(request, grants)
        return view(request, viewer_with(grants))

    return wrapped


def _refused(status: int) -> HttpResponse:
    text = (
        gettext("Log in again: your session is over.")
        if status == SESSION_OVER
        else gettext("You have no permission to do this.")
    )
    return JsonResponse({"text": text}, status=status)


@login_not_required
@_outside_transactions
@require_safe
@_private
@ensure_csrf_cookie
def index(request: HttpRequest) -> HttpResponse:
    """Serve the page. Whoever is not logged in is sent to the login, and whoever may not see it gets 403."""
    status = refusal(request.user, VIEW)
    if status == SESSION_OVER:
        return login(request)
    if status is not None:
        raise PermissionDenied
    viewer = viewer_of(request.user)
    page = page_for(viewer, PageQuery.read(request.GET.dict()))
    return render(
        request, "mailrail_dashboard/index.html", {"page": page.content, "live": _live_address(request)}
    )


def _live_address(request: HttpRequest) -> str:
    """Return where the WebSocket is, from the page on; nothing under WSGI, which has none."""
    if not isinstance(request, ASGIRequest):
        return ""
    return f"live/?{urlencode({'language': get_language() or '', 'zone': get_current_timezone_name()})}"


@_outside_transactions
@require_safe
@_private
@_to_viewers
def data(request: HttpRequest, viewer: Viewer) -> HttpResponse:
    """Serve the numbers, or 304 if they are those that the browser has."""
    page = page_for(viewer, PageQuery.read(request.GET.dict()))
    response: HttpResponse = HttpResponseNotModified()
    if not _has(request, page.etag):
        response = HttpResponse(page.body, content_type="application/json")
    response["ETag"] = page.etag
    return response


def _has(request: HttpRequest, etag: str) -> bool:
    """Tell whether the browser has the page with this tag (RFC 9110, 13.1.2: weakly compared)."""
    known = parse_etags(request.META.get("HTTP_IF_NONE_MATCH", ""))
    return known == ["*"] or etag.removeprefix("W/") in (tag.removeprefix("W/") for tag in known)


@_outside_transactions
@require_safe
@_private
@_to_viewers
def lines(request: HttpRequest, viewer: Viewer) -> HttpResponse:
    """Serve the numbers of charts: ``?series=all|channel:…|mailer:…&span=hour|day|week``."""
    try:
        query = LineQuery.read(request.GET.get("series", "all"), request.GET.get("span", "hour"))
        return JsonResponse(lines_of(query))
    except ValueError as error:
        return JsonResponse({"text": str(error)}, status=400)
    except (MailrailError, Error, OSError) as error:
        return JsonResponse({"text": shown(str(error))}, status=503)


@require_POST
@csrf_protect
@_private
@_granted(VIEW, OPERATE)
def actions(request: HttpRequest) -> HttpResponse:
    """Carry out an action, and say in a text what was done or why not."""
    answer = act(request)
    return JsonResponse({"text": answer.text, "operation": answer.operation}, status=answer.status)
