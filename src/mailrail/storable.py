"""Texts as every database takes them."""

from __future__ import annotations


def storable(text: str) -> str:
    """Return a text as every database takes it: PostgreSQL's JSON has no zero and no half of a surrogate pair."""
    if text.isprintable():
        return text  # most is
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
