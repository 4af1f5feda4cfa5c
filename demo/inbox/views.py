"""The pages of the inbox. An email is foreign text: its HTML is shown in a frame that runs and loads nothing."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import user_passes_test
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import content_disposition_header
from django.utils.translation import get_language, gettext, ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import condition, require_POST

from . import mails

SHOWN = 200
"""Emails on the first page; the folder keeps them all."""
# A link opens a window of its own, which is no longer in the sandbox: that is what one clicks it for.
SANDBOX = "allow-popups allow-popups-to-escape-sandbox"
FRAME_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'self'; sandbox {SANDBOX}"
)
PAGE_POLICY = (  # a frame may not go elsewhere by itself, either
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

staff_only = user_passes_test(lambda user: user.is_staff)


@never_cache
@staff_only
def index(request: HttpRequest) -> HttpResponse:
    version = _version(
        request
    )  # before the emails are read: one that comes meanwhile is shown at the next look
    response = render(request, "inbox/list.html", {**_found(request), "version": version})
    response["Content-Security-Policy"] = PAGE_POLICY
    return response


def _version(request: HttpRequest) -> str:
    return f'"{get_language()}-{mails.version()}"'


def _found(request: HttpRequest) -> dict[str, Any]:
    """Return what the list shows: ``total`` counts the emails newest, or without a search all in the folder."""
    query = request.GET.get("q", "").strip()
    newest = mails.newest(SHOWN + 1, query)
    shown = newest[:SHOWN]
    total = len(shown) if query else mails.count()
    return {"mails": shown, "query": query, "total": total, "has_more": len(newest) > SHOWN}


@never_cache
@staff_only
@condition(etag_func=_version)
def lines(request: HttpRequest) -> HttpResponse:
    """The part of the page that changes as emails arrive; status 304 while none has."""
    return render(request, "inbox/lines.html", _found(request))


@never_cache
@require_POST
@staff_only
def empty(request: HttpRequest) -> HttpResponse:
    """Remove what the page has shown, and not what has arrived since."""
    number = mails.remove(request.POST.get("until", ""))
    text = ngettext("%(number)d email was deleted.", "%(number)d emails were deleted.", number)
    messages.success(request, text % {"number": number})
    return redirect("inbox:list")


@never_cache
@staff_only
def detail(request: HttpRequest, name: str) -> HttpResponse:
    response = render(request, "inbox/detail.html", {"mail": _find(name), "sandbox": SANDBOX})
    response["Content-Security-Policy"] = PAGE_POLICY
    return response


@never_cache
@staff_only
def html(request: HttpRequest, name: str) -> HttpResponse:
    """The document of the frame."""
    response = HttpResponse(_find(name).html or "", content_type="text/html; charset=utf-8")
    response["Content-Security-Policy"] = FRAME_POLICY
    response["X-Frame-Options"] = "SAMEORIGIN"
    response["X-DNS-Prefetch-Control"] = "off"
    return response


@never_cache
@staff_only
def source(request: HttpRequest, name: str) -> HttpResponse:
    return _download(_find(name).source, f"{name}.eml")


@never_cache
@staff_only
def attachment(request: HttpRequest, name: str, number: int) -> HttpResponse:
    part = next((part for part in _find(name).attachments if part.number == number), None)
    if part is None:
        raise Http404(gettext("The email has no such attachment."))
    return _download(part.content, part.filename)


def _find(name: str) -> mails.Mail:
    mail = mails.find(name)
    if mail is None:
        raise Http404(gettext("There is no such email."))
    return mail


def _download(content: bytes, filename: str) -> HttpResponse:
    """A file that no browser opens by itself."""
    response = HttpResponse(content, content_type="application/octet-stream")
    response["Content-Disposition"] = content_disposition_header(True, filename)
    response["Content-Security-Policy"] = "sandbox"
    return response
