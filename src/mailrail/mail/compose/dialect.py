"""What differs between what Django 5.2 sends and what Django 6 sends: one name for each difference."""

from __future__ import annotations

from binascii import b2a_base64, b2a_qp
from collections.abc import Callable, Sequence
from email import quoprimime
from email.message import Message
from inspect import signature
from typing import Any

import django
from django.core.mail import EmailMessage

from . import generator

IS_MODERN = django.VERSION >= (6, 0)
"""Django 6 builds on Python's email.message.EmailMessage, Django 5.2 on its own SafeMIMEText and kin."""

MAX_UNENCODED_LINE_LENGTH = 78 if IS_MODERN else 998
"""In octets. A text with a longer line travels as quoted-printable or base64."""

ALWAYS_ENDS_TEXT_WITH_NEWLINE = IS_MODERN
ALWAYS_SAYS_ATTACHMENT = IS_MODERN
"""Whether an attachment without a filename has a Content-Disposition."""


def base64_is_shorter(text: bytes, eight_bit: bool) -> bool:
    """Tell whether a text whose lines end with LF travels as Base64, not as quoted-printable.

    Django 6 has Python decide by the first ten lines, padding and line ends counted. Django 5.2 knows quoted-printable
    only, and makes no text for servers without 8BITMIME: there, we decide as Python does.
    """
    if not IS_MODERN and eight_bit:
        return False
    lines = text.removesuffix(b"\n").split(b"\n", 10)[:10]
    if _are_short_when_quoted(lines):
        return False
    start = b"".join(line + b"\r\n" for line in lines)
    in_base64 = len(b2a_base64(start))
    quoted = len(b2a_qp(start))
    if abs(quoted - in_base64) * 10 <= in_base64:
        # Python's lines are longer than those of RFC 2045, which makes up to 3 % of a difference.
        quoted = len(quoprimime.body_encode(start.decode("latin-1"), 78))
    return quoted > in_base64


_LITERAL = bytes(n for n in range(0x20, 0x7F) if n != ord("="))
"""Octets that quoted-printable leaves as they are (RFC 2045 6.7), but for a space or a dot that ends, or is, a line."""


def _are_short_when_quoted(lines: Sequence[bytes]) -> bool:
    """Tell whether quoted-printable of lines is certainly more than a tenth shorter than Base64: nothing is encoded
    for that."""
    text = b"".join(lines)
    length = len(text) + 2 * len(lines)
    # A line of 7 bits may end with one octet that is escaped, and a soft line end has three.
    quoted = length + 2 * (len(text.translate(None, _LITERAL)) + len(lines))
    quoted += 3 * (quoted // 73 + 1)
    return quoted * 10 < -(-length // 3) * 4 * 9


def flatten(message: EmailMessage, *, smtputf8: bool) -> bytes:
    """Write a message as Django's SMTP backend does, but for what the policies of ``generator`` do otherwise.

    An object that writes its bytes in its own way is asked for them: a signature may depend on each.
    """
    mime = _built(message, smtputf8)
    if _writes_as_python(mime):
        return generator.flatten(mime, **({"utf8": True} if smtputf8 else {}))
    return bytes(mime.as_bytes(linesep="\r\n")) if not IS_MODERN else bytes(mime.as_bytes())


def _built(message: EmailMessage, smtputf8: bool) -> Any:
    build: Callable[..., Message[Any, Any]] = message.message
    # Django 5.2 has no such argument, and a subclass may be older than it is.
    takes = signature(build).parameters.values()
    if IS_MODERN and any(
        parameter.name == "policy" or parameter.kind is parameter.VAR_KEYWORD for parameter in takes
    ):
        return build(policy=generator.WholeWords(linesep="\r\n", utf8=smtputf8))
    return build()


def _writes_as_python(mime: Any) -> bool:
    written = getattr(mime.as_bytes, "__func__", None)
    return getattr(written, "__module__", "") in ("email.message", "django.core.mail.message")
