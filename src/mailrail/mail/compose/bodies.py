"""Bodies, alternatives and attachments (RFC 2045, 2046, 2231).

Common is: text in UTF-8, without NUL; bytes of any type that is neither text nor itself a message.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64, b2a_qp
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import TypeAlias
from urllib.parse import quote

from .dialect import (
    ALWAYS_ENDS_TEXT_WITH_NEWLINE,
    ALWAYS_SAYS_ATTACHMENT,
    MAX_UNENCODED_LINE_LENGTH,
    base64_is_shorter,
)
from .headers import FOLD_LENGTH, Uncommon, check_characters

BodyPart: TypeAlias = tuple[str, bytes]
"""Headers, which are about the content only, and a body, which need not end with a newline."""

_SUBTYPE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")
# Text, messages and multiparts have rules of their own.
_bytes_type = re.compile(r"(?!text/|message/|multipart/)[a-z0-9-]{1,20}/[a-z0-9][a-z0-9._+-]{0,79}")
_line_of_base64 = 76
_lines = Struct("76s" * 128)  # cuts twice as fast as slices do


@lru_cache(maxsize=32)
def is_common(subtype: str) -> bool:
    """Tell whether a type of text is written as any other, cached: nearly all texts are plain or HTML."""
    return _SUBTYPE.fullmatch(subtype) is not None


def text(content: object, subtype: str, *, eight_bit: bool, alone: bool = False) -> BodyPart:
    """Return the part of a text. ``eight_bit``: whether what is not ASCII may travel unchanged. ``alone``: in no
    multipart."""
    if not isinstance(content, str) or "\0" in content:
        raise Uncommon("a text that is not text")
    if not is_common(subtype):
        raise Uncommon("an unusual type of text")
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise Uncommon("a text with halves of characters") from None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data[-1:] != b"\n" and (ALWAYS_ENDS_TEXT_WITH_NEWLINE or (alone and data)):
        data += b"\n"  # the end of a mail is the end of a line in SMTP
    lines, is_ascii = data.split(b"\n"), data.isascii()
    if (is_ascii or eight_bit) and max(map(len, lines)) <= MAX_UNENCODED_LINE_LENGTH:
        encoding, body = "7bit" if is_ascii else "8bit", b"\r\n".join(lines)
    elif base64_is_shorter(data, eight_bit):
        encoding, body = "base64", _base64(b"\r\n".join(lines))
    else:
        encoding, body = "quoted-printable", b2a_qp(data).replace(b"\n", b"\r\n")
    return f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}', body


def attachment(filename: str | None, content: str | bytes, mimetype: str, *, eight_bit: bool) -> BodyPart:
    if not isinstance(mimetype, str):
        raise Uncommon("an attachment whose type is to be guessed")
    if mimetype.startswith("text/"):
        # Bytes of a type of text became a string in EmailMessage.attach(), if they were one.
        headers, body = text(content, mimetype[5:], eight_bit=eight_bit)
    elif not _bytes_type.fullmatch(mimetype):
        raise Uncommon("an attachment of an unusual type")
    else:
        headers = f"Content-Type: {mimetype}\r\nContent-Transfer-Encoding: base64"
        body = _base64(_bytes(content))
    if filename is None:
        disposition = "\r\nContent-Disposition: attachment" if ALWAYS_SAYS_ATTACHMENT else ""
    else:
        disposition = "\r\n" + _disposition(filename)
    return headers + disposition, body


def _bytes(content: str | bytes) -> bytes:
    if isinstance(content, str) and content.isascii():
        return content.encode()
    if not isinstance(content, bytes):
        raise Uncommon("an attachment that is neither bytes nor ASCII")
    return content


def _base64(data: bytes) -> bytes:
    encoded = b2a_base64(data, newline=False)
    whole = len(encoded) // _lines.size * _lines.size
    rest = [encoded[at : at + _line_of_base64] for at in range(whole, len(encoded), _line_of_base64)]
    return b"\r\n".join([*chain.from_iterable(_lines.iter_unpack(encoded[:whole])), *rest])


@lru_cache(maxsize=256)
def _disposition(filename: str) -> str:
    if not isinstance(filename, str) or not filename or '"' in filename or "\\" in filename:
        raise Uncommon("an unusual filename")
    check_characters(filename)
    start = "Content-Disposition: attachment;"
    if filename.isascii():
        parameter = f' filename="{filename}"'
    else:
        parameter = f" filename*=utf-8''{quote(filename, safe='')}"
    if len(start) + len(parameter) <= FOLD_LENGTH:
        return start + parameter
    if len(parameter) <= FOLD_LENGTH:
        return f"{start}\r\n{parameter}"
    return f"{start}\r\n" + ";\r\n".join(_continued(filename))


def _continued(filename: str) -> list[str]:
    """Write a parameter in sections, each of which ends between characters (RFC 2231 3)."""
    sections: list[str] = []
    section = " filename*0*=utf-8''"
    for character in filename:
        encoded = quote(character, safe="")
        if len(section) + len(encoded) >= FOLD_LENGTH:
            sections.append(section)
            section = f" filename*{len(sections)}*="
        section += encoded
    return [*sections, section]


def multipart(subtype: str, parts: Sequence[BodyPart]) -> BodyPart:
    # "=_" is in no quoted-printable and no base64, and nobody can guess the rest: no need to look for it.
    boundary = "=_" + os.urandom(15).hex()
    delimiter = f"\r\n--{boundary}\r\n".encode()
    pieces: list[bytes] = []
    for headers, body in parts:
        pieces += (delimiter, headers.encode(), b"\r\n\r\n", body)
    pieces[0] = delimiter[2:]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return f'Content-Type: multipart/{subtype};\r\n boundary="{boundary}"', b"".join(pieces)
