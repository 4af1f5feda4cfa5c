"""What records tell about an email, in the language of the reader. They keep it in words that are nobody's own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import pgettext_lazy

from mailrail.moments import as_django
from mailrail.terminal import harmless

from ..models import Status

EVENTS: dict[str, Any] = {
    "accepted": pgettext_lazy("what happened to an email", "accepted"),
    "refused": pgettext_lazy("what happened to an email", "refused"),
    "failed": pgettext_lazy("what happened to an email", "failed"),
    "not sent": pgettext_lazy("what happened to an email", "not sent"),
    "not sent: an unforeseen error": pgettext_lazy(
        "what happened to an email", "not sent: an unforeseen error"
    ),
    "held: an unforeseen error, again and again": pgettext_lazy(
        "what happened to an email", "held: an unforeseen error, again and again"
    ),
    "expired before it was sent": pgettext_lazy("what happened to an email", "expired before it was sent"),
    "given up: refused for longer than its lifetime": pgettext_lazy(
        "what happened to an email", "given up: refused for longer than its lifetime"
    ),
    "it may have been sent; sending again": pgettext_lazy(
        "what happened to an email", "it may have been sent; sending again"
    ),
    "held: it may have been sent": pgettext_lazy("what happened to an email", "held: it may have been sent"),
    "held: the server refuses its sender": pgettext_lazy(
        "what happened to an email", "held: the server refuses its sender"
    ),
    "held: its message was buried": pgettext_lazy(
        "what happened to an email", "held: its message was buried"
    ),
    "held": pgettext_lazy("what happened to an email", "held"),
    "released": pgettext_lazy("what happened to an email", "released"),
    "cancelled, though it may have been sent": pgettext_lazy(
        "what happened to an email", "cancelled, though it may have been sent"
    ),
    "cancelled": pgettext_lazy("what happened to an email", "cancelled"),
    "queued as a copy": pgettext_lazy("what happened to an email", "queued as a copy"),
    "sent again by a person": pgettext_lazy("what happened to an email", "sent again by a person"),
    "sent again by a person, as a copy": pgettext_lazy(
        "what happened to an email", "sent again by a person, as a copy"
    ),
    "moved to another mailer": pgettext_lazy("what happened to an email", "moved to another mailer"),
    "given a Message-ID of its own; the old one is in References": pgettext_lazy(
        "what happened to an email", "given a Message-ID of its own; the old one is in References"
    ),
    "its Message-ID is kept, as it is signed": pgettext_lazy(
        "what happened to an email", "its Message-ID is kept, as it is signed"
    ),
    "a recipient was erased": pgettext_lazy("what happened to an email", "a recipient was erased"),
}
"""What ``note`` and others write into ``Email.events`` -> how people read it."""


def event(told: dict[str, Any]) -> dict[str, Any]:
    """One of ``Email.events``."""
    what = str(told.get("what", ""))
    return {**_escaped(told), "at": _time(told), "what": EVENTS.get(what, harmless(what))}


def recipient(told: dict[str, Any]) -> dict[str, Any]:
    """One of ``Email.recipients``."""
    status = str(told.get("status", ""))
    label = Status(status).label if status in Status.values else harmless(status)
    may_have_it = bool(told.get("in_doubt")) and status != Status.SENT
    return {**_escaped(told), "at": _time(told), "status": label, "may_have_it": may_have_it}


def _escaped(told: dict[str, Any]) -> dict[str, Any]:
    """Servers and exceptions have said most of it."""
    return {name: harmless(value) if isinstance(value, str) else value for name, value in told.items()}


def _time(told: dict[str, Any]) -> datetime | None:
    """Other hands may have written the record."""
    try:
        found = parse_datetime(str(told.get("at", "")))
        return found and as_django(found)
    except ValueError:
        return None
