"""Messages that are not common, written by Django's own ``message()``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from datetime import datetime
from email import message_from_bytes, policy
from email.generator import BytesGenerator
from email.utils import format_datetime, getaddresses
from io import BytesIO

from django.core.mail import EmailMessage

from . import dialect

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
    fixed = _with_headers(message, message_id, date)
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
    """RFC 6152 3: without 8BITMIME, texts become quoted-printable or base64. With bytes that are no text, all stays."""
    out = BytesIO()
    rules = policy.compat32.clone(cte_type="7bit", linesep="\r\n")
    try:
        BytesGenerator(out, mangle_from_=False, policy=rules).flatten(message_from_bytes(data))
    except UnicodeEncodeError:
        return data
    return out.getvalue()


def _with_headers(message: EmailMessage, message_id: str | None, date: datetime | None) -> EmailMessage:
    """A copy, as the caller's message is not ours to change."""
    names = {name.lower() for name in message.extra_headers}
    fixed = {}
    if date and "date" not in names:
        fixed["Date"] = format_datetime(date)
    if message_id and "message-id" not in names:
        fixed["Message-ID"] = message_id
    if not fixed:
        return message
    message = copy.copy(message)
    message.extra_headers = {**fixed, **message.extra_headers}
    return message


def _local_parts(message: EmailMessage) -> Iterator[str]:
    entries = [message.from_email, *message.to, *message.cc, *message.reply_to]
    for _, address in getaddresses([str(entry) for entry in entries]):
        yield address.rpartition("@")[0]
