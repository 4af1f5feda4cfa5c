"""Header lines: folded (RFC 5322 2.2.3) and, where they are not ASCII, written as encoded words (RFC 2047).

Common is: printable characters with single spaces between words, in a header whose value has no grammar.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence

FOLD_LENGTH = 78
MAX_LINE_LENGTH = 998
MAX_WORD_LENGTH = 66
"""Of an encoded word, where RFC 2047 allows 75: behind "Reply-To: " it still fits on the line."""

STRUCTURED = re.compile(
    r"b?cc|content-.*|date|from|message-id|mime-version|orig-date|reply-to|resent-.*|sender|subject|to",
    re.IGNORECASE,
)
"""Headers with a grammar, or which Django writes itself: not for ``unstructured``."""

_NEVER_ENCODED = re.compile(
    r"(?:resent-|original-)?message-id|references|in-reply-to|supersedes"  # RFC 5322 3.6.4, 5536 3.2.12
    r"|b?cc|date|from|reply-to|resent-.*|return-path|received|sender|to"  # RFC 5322 3.6
    r"|list-.*|archived-at"  # RFC 2369, 2919, 5064, 8058
    r"|content-(?!description).*|mime-version"  # RFC 2045, 2557, 3282
    r"|auto-submitted|autocrypt|authentication-results|arc-.*|dkim-signature|disposition-notification-.*"
    r"|feedback-id|precedence"
    r"|apparently-to|delivered-to|errors-to|mail-(?:followup|reply)-to|return-receipt-to|x-confirm-reading-to",
    re.IGNORECASE,
)
"""Headers with a grammar, in which encoded words stand for phrases and comments only (RFC 2047 5)."""

_name = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,39}")
# White space that is no space, controls of either kind, halves of characters.
_unusual = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_encoded_word = re.compile(rb"=\?[^?\s]+\?[bq]\?[^?\s]*\?=", re.IGNORECASE)
_fold = re.compile(rb"\r?\n(?=[ \t])")
_piece = re.compile(rb"[ \t]*[^ \t]+")
_behind_separator = re.compile(rb"(?<=[,;])(?=[ \t])")
_harmless_in_q = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
_q = ["_" if n == 0x20 else chr(n) if n in _harmless_in_q else f"={n:02X}" for n in range(256)]


class Uncommon(Exception):
    """Report, at the first thing that is not common, a message that Django has to write. The text names the rule."""


def check_characters(text: str) -> None:
    """Raise for what might end a header, or be read as something else than it is."""
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
        value = encoded_words(value, min(75, FOLD_LENGTH - len(name) - 2))
    return fold(name, value)


def fold(name: str, value: str) -> str:
    """Fold a value that is ASCII with single spaces between words."""
    if len(name) + 2 + len(value) <= FOLD_LENGTH:
        return f"{name}: {value}"
    return fold_units(name, value.split(" "))


def fold_units(name: str, units: Sequence[str]) -> str:
    """Folded between the units, as late as possible; inside of one that is too long for a line.

    The first line ends after the name only where the first word fits in no other way. Many programs take such a header
    for an empty one.
    """
    pieces: list[str] = []
    room = FOLD_LENGTH - len(name) - 2
    for unit in units:
        pieces += [unit] if len(unit) <= room else unit.split(" ")
        room = FOLD_LENGTH - 1
    lines: list[str] = []
    line = f"{name}: {pieces[0]}"
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) > FOLD_LENGTH:
            lines.append(line)
            line = ""
        line += " " + piece
    lines.append(line)
    if len(lines[0]) > MAX_LINE_LENGTH:
        lines[:1] = [f"{name}:", lines[0][len(name) + 1 :]]
    if max(map(len, lines)) > MAX_LINE_LENGTH:
        raise Uncommon("a word longer than a line may be")
    return "\r\n".join(lines)


class HeaderTooLong(ValueError):
    """Report a header with a word that no line of SMTP holds and that encoded words may not replace."""


def check_lines(data: bytes, *, free_text: bool = True) -> None:
    """Raise ``HeaderTooLong``, with the header's name, for a line that servers cut or refuse (RFC 5322 2.1.1).

    ``free_text``: also where encoded words could stand for it.
    """
    end = data.find(b"\r\n\r\n")
    if end <= MAX_LINE_LENGTH:
        return
    name = ""
    for line in data[:end].split(b"\r\n"):
        if not line.startswith((b" ", b"\t")):
            name = line.partition(b":")[0].decode("utf-8", "replace")
        if len(line) > MAX_LINE_LENGTH and (free_text or not is_free_text(name)):
            raise HeaderTooLong(
                f"A line of the header {name!r} has {len(line):,} octets, and RFC 5322 allows {MAX_LINE_LENGTH}: "
                f"it has no place where it could be folded. Shorten it: a word has {MAX_LINE_LENGTH - 1} at most."
            )


def is_free_text(name: str) -> bool:
    """Tell whether a header's value is for people, so that encoded words may stand for all of it."""
    return not _NEVER_ENCODED.fullmatch(name)


def has_encoded_words(line: bytes) -> bool:
    """Tell whether a reader of this header decodes something."""
    return _encoded_word.search(line) is not None


def refold(header: bytes, *, free_text: bool = False) -> bytes | None:
    """Return a whole header, folded again: before white space, all of which stays.

    It is folded right behind its name only where the first word would make too long a line (RFC 5322 2.1.1).
    None: it is no header that can be unfolded, or ``free_text`` has a word that is longer than a line may be.
    """
    line_end = b"\r\n" if header.endswith(b"\r\n") else b"\n"
    name, colon, value = _fold.sub(b"", header.removesuffix(line_end)).partition(b": ")
    value = value.lstrip(b" \t")
    words = value.rstrip(b" \t")
    if not words or b"\n" in words or b"\r" in words:
        return None
    lines = [name + colon]
    for piece in _pieces(words, FOLD_LENGTH - len(lines[0]), free_text):
        if len(lines[-1]) + len(piece) > FOLD_LENGTH and lines != [name + colon]:
            lines.append(piece)
        else:
            lines[-1] += piece
    lines[-1] += value[len(words) :]
    if len(lines[0]) > MAX_LINE_LENGTH:
        lines[:1] = [name + b":", lines[0][len(name) + 1 :]]
    if free_text and max(map(len, lines)) > MAX_LINE_LENGTH:
        return None
    return line_end.join(lines) + line_end


def _pieces(value: bytes, room: int, free_text: bool) -> Iterator[bytes]:
    """Return pieces, each with the white space before it. A value with a grammar is cut after commas and semicolons,
    where the pieces fit."""
    if free_text:
        yield from _piece.findall(value)
        return
    for unit in _behind_separator.split(value):
        yield from [unit] if len(unit) <= room else _piece.findall(unit)
        room = FOLD_LENGTH


def encoded_words(text: str, longest: int = MAX_WORD_LENGTH) -> str:
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
