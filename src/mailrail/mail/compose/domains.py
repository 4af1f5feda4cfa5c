"""International domains of a message, by IDNA 2008: Django, whose ``punycode`` is IDNA 2003, is given A-labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from django.core.mail import EmailMessage

from mailrail.addresses import with_ascii_domains as in_text

_LISTS = ("to", "cc", "bcc", "reply_to", "envelope")
"""Attributes with addresses; ``FinishedMessage`` has its recipients in the last one."""
MAILBOX_HEADERS = frozenset(
    {
        "apparently-to",
        "delivered-to",
        "disposition-notification-to",
        "errors-to",
        "mail-followup-to",
        "mail-reply-to",
        "return-path",
        "return-receipt-to",
        "x-confirm-reading-to",
    }
)
"""Headers whose values are addresses, too, and are text for Django (RFC 2076, 4021, 8098)."""
_HEADERS = MAILBOX_HEADERS | frozenset(
    {"from", "sender", "reply-to", "to", "cc", "bcc"}
    | {f"resent-{name}" for name in ("from", "sender", "reply-to", "to", "cc", "bcc")}
)
"""Headers whose values are addresses (RFC 5322 3.6.2, 3.6.3, 3.6.6)."""


def with_ascii_domains(message: EmailMessage) -> EmailMessage:
    """Return the message with its domains in ASCII: itself, if they are, else a copy, as the caller keeps his own.

    Raises ``InvalidDomain`` for a domain that IDNA 2008 does not know.
    """
    changed = _changed(message)
    if not changed:
        return message
    message = copy.copy(message)
    for name, value in changed.items():
        setattr(message, name, value)
    return message


def _changed(message: EmailMessage) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in _LISTS:
        entries = getattr(message, name, None) or ()
        if not all(str(entry).isascii() for entry in entries):
            values[name] = [in_text(str(entry)) for entry in entries]
    sender = str(message.from_email)
    if not sender.isascii():
        values["from_email"] = in_text(sender)
    headers: Mapping[str, Any] = message.extra_headers
    texts = {
        name: in_text(value)
        for name, value in headers.items()
        if _is_address(name, value) and not value.isascii()
    }
    return values | ({"extra_headers": {**headers, **texts}} if texts else {})


def _is_address(name: object, value: object) -> bool:
    return isinstance(name, str) and name.lower() in _HEADERS and isinstance(value, str)
