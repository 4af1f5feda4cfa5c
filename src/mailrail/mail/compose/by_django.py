"""Messages that are not common, written by Django's own ``message()``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from datetime import datetime
from email import message_from_bytes
from email.utils import format_datetime, getaddresses
from typing import Any

from django.core.mail import EmailAttachment, EmailMessage
from django.utils.encoding import force_bytes

from . import dialect
from .addresses import missing_sender, with_ascii_domains
from .generator import SourceCompat32, flatten, verbatim
from .identifiers import in_ascii

_bare_line_end = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_bcc = re.compile(rb"^bcc:.*\r\n(?:[ \t].*\r\n)*", re.IGNORECASE | re.MULTILINE)


def write_by_django(
    message: EmailMessage,
    message_id: str | None,
    date: datetime | None,
    *,
    eight_bit: bool = True,
    smtputf8: bool = False,
) -> bytes:
    """CRLF only, whatever a subclass makes of it: a bare CR or LF lets one mail pass for two on some servers."""
    smtputf8 = smtputf8 and not all(local.isascii() for local in _local_parts(message))
    fixed = _with_attached_bytes(_with_headers(with_ascii_domains(message), message_id, date))
    data = _with_whole_lines(dialect.flatten(fixed, smtputf8=smtputf8))
    if not (eight_bit or data.isascii()):
        data = _with_whole_lines(_in_seven_bits(data))
    head, end, body = data.partition(b"\r\n\r\n")
    # Django 5.2 writes headers={"Bcc": …} to be read by everybody.
    return _bcc.sub(b"", head + end) + body


def _with_whole_lines(data: bytes) -> bytes:
    data = _bare_line_end.sub(b"\r\n", data)
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def _in_seven_bits(data: bytes) -> bytes:
    """Encode texts as quoted-printable or Base64 for a server without 8BITMIME (RFC 6152 3). Bytes that are no text
    stay."""
    try:
        return flatten(message_from_bytes(data, policy=SourceCompat32()), cte_type="7bit", keeps_source=True)
    except UnicodeEncodeError:
        return data


def _with_headers(message: EmailMessage, message_id: str | None, date: datetime | None) -> EmailMessage:
    """Return a copy with these headers, as the caller's message is not ours to change."""
    names = {name.lower() for name in message.extra_headers}
    fixed = {}
    if date and "date" not in names:
        fixed["Date"] = format_datetime(date)
    if message_id and "message-id" not in names:
        fixed["Message-ID"] = message_id
    if sender := missing_sender(message):
        fixed["Sender"] = sender
    headers = {**fixed, **{name: _in_ascii(name, value) for name, value in message.extra_headers.items()}}
    if headers == message.extra_headers:
        return message
    message = copy.copy(message)
    message.extra_headers = headers
    return message


def _in_ascii(name: str, value: Any) -> Any:
    """Lazy strings, numbers and bytes are Django's to apply_outcome."""
    return in_ascii(name, value) if isinstance(value, str) else value


def _with_attached_bytes(message: EmailMessage) -> EmailMessage:
    """Return a copy where attached messages that were given as bytes stay bytes: Django parses and writes them."""
    if not any(_is_message_in_bytes(attachment) for attachment in message.attachments):
        return message
    message = copy.copy(message)
    message.attachments = [
        EmailAttachment(attachment[0], verbatim(force_bytes(attachment[1])), attachment[2])
        if _is_message_in_bytes(attachment)
        else attachment
        for attachment in message.attachments
    ]
    return message


def _is_message_in_bytes(attachment: Any) -> bool:
    if not isinstance(attachment, tuple) or len(attachment) != 3:
        return False
    _, content, mimetype = attachment
    return mimetype == "message/rfc822" and isinstance(content, bytes | bytearray | memoryview | str)


def _local_parts(message: EmailMessage) -> Iterator[str]:
    entries = [message.from_email, *message.to, *message.cc, *message.reply_to]
    for _, address in getaddresses([str(entry) for entry in entries]):
        yield address.rpartition("@")[0]
