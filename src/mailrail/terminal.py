"""Escape texts of others (servers, exceptions, senders of messages) before people see them.

Control characters steer terminals and forge lines of logs. Marks of direction (Unicode Standard Annex 9), and others
that nobody sees, have a text read otherwise than it is. So they are written out, as ``\\x1b`` and ``\\u202e``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any

ADDRESS = re.compile(r"""("[^"@]*"|[^\s<>()\[\],;:"']+)@([^\s<>()\[\],;:"']+)""")
"""What looks like an email address, with its domain; a quoted local part may hold spaces (RFC 5321 4.1.2)."""


class Escaped(str):
    """Hold a text whose control characters are escaped, except for line ends that it should have."""

    __slots__ = ()


def escape_control_characters(text: str) -> Escaped:
    """Escape control characters and invisible ones; keep line ends."""
    return _escaped(text, "\n\t")


def single_line(text: str) -> Escaped:
    """Escape control characters, invisible ones, and line ends."""
    return _escaped(text, "")


def without_addresses(text: str) -> str:
    """Return the text with an ellipsis in place of each email address."""
    return ADDRESS.sub("…", text) if "@" in text else text


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 worker``, ``2 workers``, ``1,000 emails``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def as_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return the value as indented JSON, with control characters escaped as in JSON (RFC 8259, 7)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=default)
    return "".join(
        character
        if character == "\n" or _is_visible(character)
        else json.dumps(character, ensure_ascii=True)[1:-1]
        for character in text
    )


def _escaped(text: str, unescaped: str) -> Escaped:
    if isinstance(text, Escaped) and "\n" in unescaped:
        return text
    if text.isprintable():
        return Escaped(text)
    shown = (char if char in unescaped or _is_visible(char) else _written(char) for char in text)
    return Escaped("".join(shown))


def _is_visible(character: str) -> bool:
    """Tell whether a character is visible; so is a space of another script, unlike in ``str.isprintable``."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
