"""Writes common messages without Python's email package, at a tenth of its cost.

What is common is decided on the way: each writer raises ``Uncommon`` at the first thing that it does not know.
The rules are at the top of each module; those about the message as a whole are in ``write`` and ``writes_as_django``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime, formatdate
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict

from django.conf import settings
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.utils import DNS_NAME
from django.utils.timezone import get_current_timezone

from mailrail import uuid7
from mailrail.conf import settings as ours
from mailrail.moments import aware

from . import bodies, dialect
from .addresses import addresses, mailbox, repeated_mailbox
from .headers import FOLD_LENGTH, STRUCTURED, Uncommon, fold, unstructured
from .identifiers import in_ascii

_date = re.compile(r"[A-Z][a-z]{2}, \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", re.ASCII)
_message_id = re.compile(r"<[A-Za-z0-9.!#$%&'*+/^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,200}>")
_written_first = frozenset({"From", "To", "Cc", "Reply-To"})
_subtypes = frozenset({"mixed_subtype", "alternative_subtype"})
# What a subclass may change without changing what is written.
_unrelated = {
    "attach",
    "attach_alternative",
    "attach_file",
    "body_contains",
    "connection",
    "content_subtype",
    "encoding",
    "get_connection",
    "recipients",
    "send",
}
_writes = _subtypes | {
    name
    for name in (*vars(EmailMessage), *vars(EmailMultiAlternatives))
    if not name.startswith("__") and name not in _unrelated
}


class Fields(TypedDict):
    """What a message consists of, as its attributes have it: to write it takes no ``EmailMessage``."""

    subject: Any
    from_email: Any
    to: Sequence[Any]
    cc: Sequence[Any]
    reply_to: Sequence[Any]
    extra_headers: Mapping[Any, Any]
    body: Any
    content_subtype: Any
    alternatives: Sequence[Any]
    attachments: Sequence[Any]


class Style(NamedTuple):
    """What the settings of a project say of all its messages. ``zone``: of dates; ``None``: the one of each date."""

    is_utf8: bool
    zone: tzinfo | None


def style() -> Style:
    """Return the style of this project. To ask settings takes long, so ask once for many messages."""
    return Style(
        settings.DEFAULT_CHARSET == "utf-8",
        get_current_timezone() if settings.EMAIL_USE_LOCALTIME else None,
    )


def write(
    message: EmailMessage,
    message_id: str | None,
    date: datetime | None,
    *,
    eight_bit: bool = True,
    smtputf8: bool = False,
) -> bytes:
    """Write a message, or raise ``Uncommon`` if Django has to write it. For a project as ``write_fields`` needs it."""
    if not writes_as_django(message):
        raise Uncommon("a class that writes in its own way")
    # A Charset equals its name, but says how to encode as well.
    if type(message.encoding) not in (type(None), str) or message.encoding not in (None, "utf-8"):
        raise Uncommon("a charset that is not utf-8")
    fields: Fields = {
        "subject": message.subject,
        "from_email": message.from_email,
        "to": message.to,
        "cc": message.cc,
        "reply_to": message.reply_to,
        "extra_headers": message.extra_headers,
        "body": message.body,
        "content_subtype": message.content_subtype,
        "alternatives": getattr(message, "alternatives", ()),
        "attachments": message.attachments,
    }
    return write_fields(fields, message_id, date, eight_bit=eight_bit, smtputf8=smtputf8)


def write_fields(
    fields: Fields,
    message_id: str | None,
    date: datetime | None,
    *,
    eight_bit: bool = True,
    smtputf8: bool = False,
) -> bytes:
    """Write what ``write`` writes of a message with these fields, in UTF-8. Raise ``Uncommon``, as it does.

    For a project whose ``DEFAULT_CHARSET`` is UTF-8.
    """
    subtype = fields["content_subtype"]
    if type(subtype) is not str or not bodies.is_common(subtype):  # also where there is no body
        raise Uncommon("an unusual type of text")
    if fields["alternatives"] or fields["attachments"]:
        part, body = _parts(fields, eight_bit)
    else:
        part, body = bodies.text(fields["body"], subtype, eight_bit=eight_bit, alone=True)
    lines = [part, "MIME-Version: 1.0", *_headers(fields, message_id, date, smtputf8), "", ""]
    data = "\r\n".join(lines).encode("utf-8" if smtputf8 else "ascii") + body
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def writes_as_django(message: EmailMessage) -> bool:
    """Tell whether the message has Django's own methods wherever ``message()`` may call one."""
    kind: type = type(message)
    return _is_plain(kind) and _writes.isdisjoint(vars(message))


def are_unrelated(attributes: Mapping[str, Any]) -> bool:
    """Tell whether attributes of a message change nothing of what Django writes."""
    return _writes.isdisjoint(attributes)


@lru_cache(maxsize=256)
def _is_plain(kind: type) -> bool:
    for base in (EmailMultiAlternatives, EmailMessage):
        if issubclass(kind, base):
            return all(getattr(kind, name, None) is getattr(base, name, None) for name in _writes)
    return False


def _parts(fields: Fields, eight_bit: bool) -> bodies.BodyPart:
    """Return the multipart of a message that has more than a body."""
    parts = []
    if fields["body"]:
        parts.append(bodies.text(fields["body"], fields["content_subtype"], eight_bit=eight_bit))
    if fields["alternatives"]:
        parts += [_alternative(entry, eight_bit) for entry in fields["alternatives"]]
        parts = [bodies.multipart("alternative", parts)]
    if not fields["attachments"]:
        return parts[0]
    parts += [_attachment(entry, eight_bit) for entry in fields["attachments"]]
    return bodies.multipart("mixed", parts)


def _alternative(alternative: Any, eight_bit: bool) -> bodies.BodyPart:
    content, mimetype = alternative
    if not mimetype.startswith("text/"):
        raise Uncommon("an alternative that is no text")
    return bodies.text(content, mimetype[5:], eight_bit=eight_bit)


def _attachment(attachment: Any, eight_bit: bool) -> bodies.BodyPart:
    if not isinstance(attachment, tuple) or len(attachment) != 3:
        raise Uncommon("an attachment that is an object of its own")
    filename, content, mimetype = attachment
    return bodies.attachment(filename, content, mimetype, eight_bit=eight_bit)


def _headers(fields: Fields, message_id: str | None, date: datetime | None, smtputf8: bool) -> list[str]:
    """Return the headers in the order of Django's ``message()``."""
    extra = fields["extra_headers"]
    lines = [_subject(str(fields["subject"])), _from(str(extra.get("From", fields["from_email"])), smtputf8)]
    for name, entries in (("To", fields["to"]), ("Cc", fields["cc"]), ("Reply-To", fields["reply_to"])):
        if name in extra:
            lines.append(addresses(name, [mailbox(_string(extra[name]), smtputf8)]))
        elif entries:
            write_one = repeated_mailbox if name == "Reply-To" else mailbox
            lines.append(addresses(name, [write_one(str(entry), smtputf8) for entry in entries]))
    names = {name.lower() for name in extra}
    if "date" not in names:
        lines.append("Date: " + (written(date) if date else now()))
    if "message-id" not in names:
        lines.append(_identification(message_id or new_message_id()))
    return lines + [
        _extra(name, _string(value)) for name, value in extra.items() if name not in _written_first
    ]


@lru_cache(maxsize=256)
def _subject(text: str) -> str:
    """Return the header, cached: many emails have the same one."""
    return unstructured("Subject", text)


@lru_cache(maxsize=256)
def _from(author: str, smtputf8: bool) -> str:
    return addresses("From", [mailbox(author, smtputf8)])


def _extra(name: str, value: str) -> str:
    if type(name) is not str:
        raise Uncommon("a header whose name is worked out late")
    if name == "Date":
        if not _date.fullmatch(value):
            raise Uncommon("a date in an unusual form")
        return f"Date: {value}"
    if name == "Message-ID":
        return _identification(value)
    if STRUCTURED.fullmatch(name):
        raise Uncommon("a header with a grammar")
    return unstructured(name, value if value.isascii() else in_ascii(name, value))


def _identification(message_id: str) -> str:
    if not _message_id.fullmatch(message_id):
        raise Uncommon("a message id in an unusual form")
    line = f"Message-ID: {message_id}"
    return line if len(line) <= FOLD_LENGTH else fold("Message-ID", message_id)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise Uncommon("a header that is no string")
    return value


# -- dates ----------------------------------------------------------------------------------------------------------


def in_its_zone(date: datetime, zone: tzinfo | None) -> datetime:
    """Return an aware date, in the zone of the style."""
    if date.tzinfo is None:
        date = aware(date).astimezone(UTC)
    return date if zone is None else date.astimezone(zone)


def now() -> str:
    """Return the Date header of a message that has none."""
    if not dialect.IS_MODERN:
        return formatdate(localtime=settings.EMAIL_USE_LOCALTIME)
    return written(datetime.now(get_current_timezone() if settings.EMAIL_USE_LOCALTIME else UTC))


def written(date: datetime) -> str:
    """Return a moment as a Date header has it."""
    return _written(date.replace(microsecond=0), date.utcoffset())


@lru_cache(maxsize=256)
def _written(date: datetime, offset: timedelta | None) -> str:
    """Write a Date header, cached: it takes as long as the rest of a short email, and many have the same second.

    ``offset``: of its zone, as the same moment in two zones is equal and not the same text.
    """
    return format_datetime(date)


# -- Message-IDs of emails that have none of their own (RFC 5322 3.6.4) ------------------------------------------------


def new_message_id() -> str:
    """Return a new one, of the domain in ``MAILRAIL["MAIL_MESSAGE_ID_DOMAIN"]``, or of this machine's name.

    They increase within a process, so that an index of them grows at its end.
    """
    return f"<{uuid7().hex}@{message_id_domain()}>"


def message_id_domain() -> str:
    return ours.mail_message_id_domain or DNS_NAME.get_fqdn()
