"""Who has written a message, and who sends it: From may name several mailboxes, and Sender then has to name one.

RFC 5322 3.6.2. A server is told a single mailbox by MAIL FROM, where bounces go, so it is the one in Sender.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.errors import NonASCIILocalPartDefect
from email.policy import default as parsing
from functools import lru_cache
from typing import Any

from django.core.mail import EmailMessage

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@lru_cache(maxsize=256)
def mailboxes(text: str) -> tuple[str, ...]:
    """Return the mailboxes in the value of a From header, each with its name.

    What is no list of several (RFC 5322 3.4) is returned as it is: whoever takes it for one address refuses it.
    """
    if "," not in text:
        return (text,)
    try:
        header = parsing.header_factory("From", text)
        several = tuple(str(address) for address in header.addresses)
    except Exception:  # Python's parser raises AttributeError, IndexError and others for what it cannot read
        return (text,)
    is_list = all(isinstance(defect, NonASCIILocalPartDefect) for defect in header.defects)
    # An encoded word may stand for a control character, which no database and no header has room for.
    return several if is_list and len(several) > 1 and not _CONTROL.search("".join(several)) else (text,)


def sender_of(from_email: str, headers: Mapping[Any, Any]) -> str:
    """Return the mailbox for MAIL FROM: ``from_email``; of several authors there the one in Sender, or the first."""
    authors = mailboxes(from_email)
    return authors[0] if len(authors) == 1 else _sender_in(headers) or authors[0]


def missing_sender(message: EmailMessage) -> str:
    """Return what Sender has to say in a message that has several authors and no Sender; for others, nothing."""
    headers, from_email = message.extra_headers, str(message.from_email)
    if len(mailboxes(str(headers.get("From", from_email)))) == 1 or _sender_in(headers):
        return ""
    return sender_of(from_email, headers)


def _sender_in(headers: Mapping[Any, Any]) -> str:
    return next((str(value) for name, value in headers.items() if str(name).lower() == "sender"), "")
