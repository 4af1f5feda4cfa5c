"""What others have said (servers, exceptions, senders of messages), shown on a terminal."""

from __future__ import annotations


def harmless(text: str) -> str:
    """The text with its control characters written out, as ``\\x1b``: a terminal would obey them. Lines stay lines."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _written(each) for each in text)


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode()
