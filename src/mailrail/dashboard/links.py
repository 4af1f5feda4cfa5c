"""Link what the live page shows to the pages of the admin, for those who may see them."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.urls import NoReverseMatch, get_urlconf, reverse
from django.utils.http import urlencode

from mailrail.mail.mailers.config import alias_of

from .viewers import Viewer


def live_page() -> str:
    """Return the URL of the live page, or nothing if the project's URLs do not have it."""
    return _reversed("mailrail_dashboard:index")


def waiting_messages(viewer: Viewer, layer: str, channel: str) -> str:
    """Return the URL of the list of a channel's waiting messages; empty if this viewer has none."""
    return _list(viewer, "mailrail", "storedmessage", layer=layer, channel=channel)


def dead_messages(viewer: Viewer, layer: str, channel: str, error: str = "") -> str:
    """Return the URL of the list of a channel's dead messages, of those with one exception, or nothing."""
    filters = {"error": error} if error else {}
    return _list(viewer, "mailrail", "buriedmessage", layer=layer, channel=channel, **filters)


def emails(viewer: Viewer, mailer: str, status: str = "") -> str:
    """Return the URL of the list of a mailer's emails, or nothing. ``mailer``: as settings call it."""
    filters = {"status": status} if status else {}
    return _list(viewer, "mailrail_mail", "email", mailer=alias_of(mailer), **filters)


def mailers(viewer: Viewer) -> str:
    """Return the URL of the admin's page of mailers, or nothing."""
    return _list(viewer, "mailrail_mail", "mailerstate")


def record(viewer: Viewer, model: str, pk: str) -> str:
    """Return the URL of a record's page, or nothing. ``model``: ``app_label.model``."""
    app, _, name = model.lower().partition(".")
    return _reversed(f"admin:{app}_{name}_change", pk) if viewer.may(f"{app}.view_{name}") else ""


def _list(viewer: Viewer, app: str, model: str, **filters: str) -> str:
    if not viewer.may(f"{app}.view_{model}"):
        return ""
    url = _url_of_list(app, model, viewer.prefix, viewer.language, get_urlconf() or settings.ROOT_URLCONF)
    return f"{url}?{urlencode(filters)}" if url and filters else url


@lru_cache(maxsize=256)
def _url_of_list(app: str, model: str, *conditions: str) -> str:
    """Return the URL of a list. ``conditions``: what it depends on, so that a page of rows costs one look-up."""
    return _reversed(f"admin:{app}_{model}_changelist")


def _reversed(name: str, *args: str) -> str:
    try:
        return reverse(name, args=args)
    except NoReverseMatch:  # the project's URLs have no such page
        return ""
