"""Header lines: folded (RFC 5322 2.2.3) and, where they are not ASCII, written as encoded words (RFC 2047).

Common is: printable characters with single spaces between words, in a header whose value has no grammar.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence

from .uncommon import Uncommon

FOLD_AT = 78
LONGEST_LINE = 998
LONGEST_WORD = 66
"""Of an encoded word, where RFC 2047 allows 75: behind "Reply-To: " it still fits on the line."""

STRUCTURED = re.compile(
    r"b?cc|content-.*|date|from|message-id|mime-version|orig-date|reply-to|resent-.*|sender|subject|to",
    re.IGNORECASE,
)
"""Headers with a grammar, or which Django writes itself: not for ``unstructured``."""

_name = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,39}")
# White space that is no space, controls of either kind, halves of characters.
_unusual = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_harmless_in_q = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
_q = ["_" if n == 0x20 else chr(n) if n in _harmless_in_q else f"={n:02X}" for n in range(256)]


def check_characters(text: str) -> None:
    """Raises for what might end a header, or be read as something else than it is."""
    if not (text.isprintable() if text.isascii() else not _unusual.search(text)):
        raise Uncommon("a header with control characters or unusual white space")
    if "=?" in text:
        raise Uncommon("a header that may be an encoded word already")
    if "  " in text or text[:1] == " " or text[-1:] == " ":
        raise Uncommon("a header with spaces at an end or in a row")


def unstructured(name: str, value: str) -> str:
    if not _name.fullmatch(name):
        raise Uncommon("an unusual header name")
    check_characters(value)
    if not value.isascii():
        value = encoded_words(value, min(75, FOLD_AT - len(name) - 2))
    return fold(name, value)


def fold(name: str, value: str) -> str:
    """``value`` is ASCII with single spaces between words."""
    if len(name) + 2 + len(value) <= FOLD_AT:
        return f"{name}: {value}"
    return fold_units(name, value.split(" "))


def fold_units(name: str, units: Sequence[str]) -> str:
    """Folded between the units, as late as possible; inside of one that is too long for a line.

    The first line never ends after the name: many take such a header for an empty one.
    """
    pieces: list[str] = []
    room = FOLD_AT - len(name) - 2
    for unit in units:
        pieces += [unit] if len(unit) <= room else unit.split(" ")
        room = FOLD_AT - 1
    lines: list[str] = []
    line = f"{name}: {pieces[0]}"
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) > FOLD_AT:
            lines.append(line)
            line = ""
        line += " " + piece
    lines.append(line)
    if max(map(len, lines)) > LONGEST_LINE:
        raise Uncommon("a word longer than a line may be")
    return "\r\n".join(lines)


def encoded_words(text: str, longest: int = LONGEST_WORD) -> str:
    """Separated by spaces, which a reader drops. Halves of a string never split a character."""
    data = text.encode()
    quoted = "".join(map(_q.__getitem__, data))
    as_base64 = (len(data) + 2) // 3 * 4 + 5 < len(quoted)  # Q can be read by people, so it has a bonus
    words = _base64_words if as_base64 else _quoted_words
    return " ".join(words(text, longest - len("=?utf-8?q??=")))


def _quoted_words(text: str, longest: int) -> list[str]:
    quoted = "".join(map(_q.__getitem__, text.encode()))
    if len(quoted) > longest:
        half = len(text) // 2
        return _quoted_words(text[:half], longest) + _quoted_words(text[half:], longest)
    return [f"=?utf-8?q?{quoted}?="]


def _base64_words(text: str, longest: int) -> list[str]:
    encoded = b2a_base64(text.encode(), newline=False).decode()
    if len(encoded) > longest:
        half = len(text) // 2
        return _base64_words(text[:half], longest) + _base64_words(text[half:], longest)
    return [f"=?utf-8?b?{encoded}?="]
