"""Turn arguments and return values into JSON, and refuse what JSON does not have.

The rules are those of ``django.utils.json.normalize_json``, and three more. Django lets NaN, infinities and keys that
are no text pass; RFC 8259 has none of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEPTH = 100
"""Levels of lists and dictionaries in one another."""
PLAIN = frozenset((str, int, bool, type(None)))
"""Types whose values need no look: most arguments are of them, and their path would cost more than the look."""
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
"""A shared encoder: ``json.dumps`` with options would make one for each value."""
_EMPTY = {dict: "{}", list: "[]", type(None): "null"}
"""What most results, errors and metadata are, so that nobody has to be asked for their JSON."""


def normalized(value: Any, path: str, depth: int = 0) -> Any:
    """Return the value in types of JSON: dictionaries, lists, text, numbers, true, false and null.

    ``path``: what errors call it, such as ``args[0]``. Raises ``TypeError`` for a type that JSON does not have, and
    ``ValueError`` for NaN, infinities, bytes that are no UTF-8, and deeper nesting.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"Unsupported value: {path[:80]}… is nested deeper than {MAX_DEPTH} levels.")
    match value:
        case list() | tuple():
            return _elements(value, path, depth)
        case dict() | Mapping():
            return {
                _key(key, path): item
                if type(item) in PLAIN
                else normalized(item, f"{path}[{key!r}]", depth + 1)
                for key, item in value.items()
            }
        case bytes():
            return _text(value, path)
        case float() if not math.isfinite(value):
            raise ValueError(f"Unsupported value: {path} is {value!r}, which JSON does not have.")
        case str() | int() | float() | bool() | None:
            return value
        case Sequence():
            return _elements(value, path, depth)
    raise TypeError(
        f"Unsupported type: {type(value)} in {path}. Pass text, numbers, lists and dictionaries of them."
    )


def _elements(values: Sequence[Any], path: str, depth: int) -> list[Any]:
    return [
        item if type(item) in PLAIN else normalized(item, f"{path}[{n}]", depth + 1)
        for n, item in enumerate(values)
    ]


def _key(key: Any, path: str) -> str:
    key = _text(key, f"a key of {path}") if isinstance(key, bytes) else key
    if not isinstance(key, str):
        raise TypeError(
            f"Unsupported type: {type(key)} as the key {key!r} of {path}. JSON has only text as keys."
        )
    return key


def _text(value: bytes, path: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"Unsupported value: {path} is bytes that are no UTF-8.") from None


def dumps(value: Any) -> str:
    """Return JSON in ASCII, so that every database can hold every text, NUL and halves of surrogate pairs too."""
    if not value and (text := _EMPTY.get(type(value))) is not None:
        return text
    return _encoder.encode(value)


def loads(text: str) -> Any:
    """Return the value that ``dumps`` has written."""
    if text == "{}":
        return {}
    return [] if text == "[]" else json.loads(text)
