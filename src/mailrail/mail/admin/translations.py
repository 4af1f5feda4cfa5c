"""What records tell about an email, in the language of the reader. They keep it in words that are nobody's own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext, pgettext_lazy

from mailrail.keyset_admin import breakable
from mailrail.moments import as_django
from mailrail.terminal import escape_control_characters
from mailrail.tracebacks import first_line

from ..models import Email, Status, addresses_with
from ..records.overview import due_at, reason_of

MAX_LIST_TEXT_LENGTH = 120
"""Characters of a reason in a line of a list."""

EVENTS: dict[str, Any] = {
    "accepted": pgettext_lazy("what happened to an email", "accepted"),
    "accepted for some recipients; the others follow": pgettext_lazy(
        "what happened to an email", "accepted for some recipients; the others follow"
    ),
    "refused": pgettext_lazy("what happened to an email", "refused"),
    "refused for now": pgettext_lazy("what happened to an email", "refused for now"),
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
    "taken off hold": pgettext_lazy("what happened to an email", "taken off hold"),
    "cancelled, though it may have been sent": pgettext_lazy(
        "what happened to an email", "cancelled, though it may have been sent"
    ),
    "cancelled": pgettext_lazy("what happened to an email", "cancelled"),
    "queued as a copy": pgettext_lazy("what happened to an email", "queued as a copy"),
    "sent again": pgettext_lazy("what happened to an email", "sent again"),
    "sent again, as a copy": pgettext_lazy("what happened to an email", "sent again, as a copy"),
    "tried at once": pgettext_lazy("what happened to an email", "tried at once"),
    "moved to another mailer": pgettext_lazy("what happened to an email", "moved to another mailer"),
    "given a Message-ID of its own; the old one is in References": pgettext_lazy(
        "what happened to an email", "given a Message-ID of its own; the old one is in References"
    ),
    "its Message-ID is kept, as it is signed": pgettext_lazy(
        "what happened to an email", "its Message-ID is kept, as it is signed"
    ),
    "a recipient was erased": pgettext_lazy("what happened to an email", "a recipient was erased"),
}
"""What ``add_event`` and others write into ``Email.events`` -> how people read it."""


DEFERRED = "deferred"
"""How a queued email stands that waits for its next attempt."""


def shown_status(email: Email) -> str:
    """Return the status of an email, or ``DEFERRED``."""
    next_try = email.next_try_at
    is_deferred = email.status == Status.QUEUED and next_try is not None and next_try > timezone.now()
    return DEFERRED if is_deferred else str(email.status)


def status_label(email: Email) -> str:
    """Say how an email stands."""
    label = str(WORDS.get(shown_status(email), email.status))
    if email.status != Status.PARTIAL:
        return label
    have_it = len(addresses_with(email.recipients, Status.SENT))
    text = gettext("%(status)s: %(sent)d of %(all)d recipients")
    return text % {"status": label, "sent": have_it, "all": len(email.recipients)}


WORDS: dict[str, Any] = {**dict(Status.choices), DEFERRED: pgettext_lazy("email", "deferred")}


def next_try(email: Email) -> datetime | None:
    """Return when a queued email is tried, if that is not yet."""
    if email.status != Status.QUEUED:
        return None
    due = due_at(email.send_at, email.next_try_at, email.created_at)
    return due if due > timezone.now() else None


def reason(email: Email) -> str:
    """Say why an email stands so: a server's reply, or what kept it from being tried."""
    if email.status == Status.SENT or (email.status == Status.QUEUED and next_try(email) is None):
        return ""
    return shortened(escape_control_characters(reason_of(email)))


def shortened(text: str) -> str:
    """Cut a text to what a line of a list has room for."""
    return text if len(text) <= MAX_LIST_TEXT_LENGTH else text[: MAX_LIST_TEXT_LENGTH - 1] + "…"


def event(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of ``Email.events`` as the page shows it."""
    kind = str(entry.get("what", ""))
    return {
        **_escaped(entry),
        "at": _time(entry),
        "what": EVENTS.get(kind, escape_control_characters(kind)),
        **_text_of(entry),
    }


def recipient(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of ``Email.recipients`` as the page shows it."""
    status = str(entry.get("status", ""))
    label = Status(status).label if status in Status.values else escape_control_characters(status)
    may_have_it = bool(entry.get("ambiguous")) and status != Status.SENT
    escaped = _escaped(entry)
    return {
        **escaped,
        "shown": breakable(str(escaped.get("address", ""))),
        "at": _time(entry),
        "status": label,
        "may_have_it": may_have_it,
        **_text_of(entry),
    }


def _text_of(entry: dict[str, Any]) -> dict[str, str]:
    """Return the reply or reason as ``said``; for an exception of several lines, its first one as ``summary``."""
    text = " ".join(str(entry[name]).strip() for name in ("text", "why") if entry.get(name))
    is_one = entry.get("code") or "\n" not in text
    return {
        "said": escape_control_characters(text),
        "summary": "" if is_one else escape_control_characters(first_line(text)),
    }


def _escaped(entry: dict[str, Any]) -> dict[str, Any]:
    """Escape the texts of an entry: most of them come from servers and exceptions."""
    return {
        name: escape_control_characters(value) if isinstance(value, str) else value
        for name, value in entry.items()
    }


def _time(entry: dict[str, Any]) -> datetime | None:
    """Return the time of an entry, or ``None`` if other hands have written something else there."""
    try:
        moment = parse_datetime(str(entry.get("at", "")))
        return moment and as_django(moment)
    except ValueError:
        return None
