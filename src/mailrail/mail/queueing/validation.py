"""What is refused when an email is queued, as it could never be stored, or never be sent."""

from __future__ import annotations

import json
import re
from email.parser import BytesHeaderParser
from functools import lru_cache
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as djangos

from mailrail.conf import settings

from ..compose.headers import HeaderTooLong, check_lines
from ..errors import CannotQueue, EmailTooLarge
from ..smtp import check_address
from ..smtp.as_django import utf8_address_of
from ..smtp.errors import InvalidAddress

MAX_MESSAGE_ID_LENGTH = 255
_COMMON_ADDRESS = re.compile(r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")

encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
"""Encode what a column of JSON stores."""


def check_recipient(address: str, message: EmailMessage) -> None:
    """Raise ``CannotQueue`` for what can be told to no server."""
    if len(address) <= 254 and _COMMON_ADDRESS.fullmatch(address):
        return
    try:
        check_address(utf8_address_of(_djangos(), address, message.encoding))
    except InvalidAddress as error:
        raise CannotQueue(str(error)) from error
    except ValueError as error:
        raise CannotQueue(f"{address!r} is no email address: {error}") from error


@lru_cache(maxsize=1)
def _djangos() -> Any:
    """Return a backend that knows how Django tells an address to a server. It is never opened."""
    return djangos.EmailBackend.__new__(djangos.EmailBackend)


def check_size(size: int) -> None:
    """Raise ``EmailTooLarge`` for more bytes than the setting allows."""
    if size > settings.mail_max_bytes:
        raise EmailTooLarge(
            f"The email has {size:,} bytes, and MAILRAIL['MAIL_MAX_BYTES'] allows {settings.mail_max_bytes:,}. "
            "Send a link to the file instead, or raise the limit if the server takes more."
        )


def check_composed(data: bytes) -> None:
    """Raise ``EmailTooLarge``, or ``CannotQueue``."""
    check_size(len(data))
    if b"\0" in data:
        raise CannotQueue(
            "An address, an attached message or a header that is no text has a NUL character, which SMTP cannot carry. "
            "Remove it."
        )
    try:
        check_lines(data)
    except HeaderTooLong as error:
        raise CannotQueue(str(error)) from error


def check_text(value: Any, where: str) -> str:
    """Return a value as JSON. Raise ``CannotQueue`` for what no database stores: NUL, and halves of surrogate pairs.

    ``value``: what JSON holds. Nearly all of it is clean, and JSON's encoder finds that out much sooner than we would.
    """
    text = encode(value)
    if "\\u0000" in text or not (text.isascii() or text.isprintable()):
        _look_for_unstorable(value, where)
    return text


def _look_for_unstorable(value: Any, where: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise CannotQueue(
                f"{where} has a NUL character, which neither SMTP nor PostgreSQL can carry. Remove it."
            )
        if not value.isascii() and not value.isprintable() and _has_surrogate(value):
            raise CannotQueue(f"{where} has half of a surrogate pair, which is no character. Remove it.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _look_for_unstorable(key, where)
            _look_for_unstorable(item, where)
    elif isinstance(value, list | tuple):
        for item in value:
            _look_for_unstorable(item, where)


def check_message_id(message_id: str) -> None:
    if len(message_id) > MAX_MESSAGE_ID_LENGTH or not (message_id.isascii() and message_id.isprintable()):
        raise CannotQueue(
            f"The Message-ID {message_id[:60]!r}… must be at most {MAX_MESSAGE_ID_LENGTH} printable ASCII characters."
        )


def message_id_in(data: bytes) -> str:
    """Return the Message-ID that a finished message has, or an empty text."""
    return str(BytesHeaderParser().parsebytes(data).get("Message-ID") or "").strip()


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
