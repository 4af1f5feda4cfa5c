"""Addresses of a message: their headers, who has written and who sends it, and domains in ASCII.

Common is one mailbox in each entry: ``local@domain`` or ``Some Name <local@domain>`` or ``"Name, Some" <…>``. The
local part has no quotes, and is ASCII unless the server offers SMTPUTF8; name and domain may be of any script.

From may name several mailboxes, and Sender then has to name one (RFC 5322 3.6.2). A server is told a single mailbox by
MAIL FROM, where bounces go, so it is the one in Sender. Django, whose ``punycode`` is IDNA 2003, is given A-labels.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from email.errors import NonASCIILocalPartDefect
from email.policy import default as parsing
from functools import lru_cache
from typing import Any

from django.core.mail import EmailMessage

from mailrail.addresses import ascii_domain
from mailrail.addresses import with_ascii_domains as in_text

from .headers import Uncommon, check_characters, encoded_words, fold, fold_units

_atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 3.2.3
_utf8_atom = (
    r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|(?![\x00-\x7f])\w)+"  # RFC 6531 3.3, of which letters are common
)
_ascii_label, _label = r"[A-Za-z0-9-]{1,63}", r"(?:[^\W_]|-){1,63}"


def _forms(atom: str, label: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Bare, and behind a name."""
    address = rf"({atom}(?:\.{atom})*)@({label}(?:\.{label})*)"
    # A quoted name has no quotes or backslashes inside, one without quotes nothing that has a meaning there.
    return re.compile(address), re.compile(rf'(?:"([^"\\]+)"|([^][()<>@,:;"\\]+)) <{address}>')


_ascii_forms = _forms(_atom, _ascii_label)  # twice as quick, for a text that is all ASCII
_idn_forms, _utf8_forms = _forms(_atom, _label), _forms(_utf8_atom, _label)
_word = re.compile(rf"{_atom}(?: {_atom})*")


def mailbox(text: str, smtputf8: bool = False) -> str:
    """Return an address as it stands in a header: the domain by IDNA, the name quoted or encoded where necessary.

    All of it is ASCII, but for a local part where ``smtputf8`` allows for others (RFC 6532 3.2).
    """
    is_ascii = text.isascii()
    bare, named = _ascii_forms if is_ascii else _utf8_forms if smtputf8 else _idn_forms
    if (match := bare.fullmatch(text)) and "=?" not in text:
        return text if is_ascii else f"{match[1]}@{ascii_domain(match[2])}"
    if not (match := named.fullmatch(text)):
        raise Uncommon("an address that takes a parser")
    quoted, unquoted, local, domain = match.groups()
    name = quoted or unquoted
    check_characters(name)
    if "=?" in local:
        raise Uncommon("an address that may hold an encoded word")
    return f"{_phrase(name)} <{local}@{ascii_domain(domain)}>"


repeated_mailbox = lru_cache(maxsize=256)(mailbox)
"""For From and Reply-To, which are the same in many messages."""


def addresses(name: str, entries: Sequence[str]) -> str:
    """Return the header ``name``, folded after commas where that is enough."""
    value = ", ".join(entries)
    if len(name) + 2 + len(value) <= 78:
        return f"{name}: {value}"
    if len(entries) == 1:
        return fold(name, value)
    return fold_units(name, [f"{entry}," for entry in entries[:-1]] + [entries[-1]])


def _phrase(name: str) -> str:
    if not name.isascii():
        return encoded_words(name)
    return name if _word.fullmatch(name) else f'"{name}"'


# -- authors and the sender ------------------------------------------------------------------------------------------

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


# -- domains ---------------------------------------------------------------------------------------------------------

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
