"""Values of an email message as JSON and back, exactly, without pickle.

JSON's own types stand for themselves. All others are an object with one key that begins with ``$``. An aware time
keeps its offset, not the name of its zone.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from email.charset import Charset
from email.headerregistry import Address
from typing import Any
from uuid import UUID

from django.utils.functional import Promise


class CannotBeStored(ValueError):
    """Name the part of the email that is no data, and say what to do."""


def pack(value: Any, where: str) -> Any:
    """Return a value as JSON. ``where`` the value stands in the message, for the error."""
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        packed = [item if type(item) is str else pack(item, f"{where}[{n}]") for n, item in enumerate(value)]
        return {"$tuple": packed} if isinstance(value, tuple) else packed
    if isinstance(value, (str, Promise, Address)):
        return str(value)  # a safe string, a translation, an address: Django takes str() of each
    if isinstance(value, dict):
        return _pack_dict(value, where)
    if isinstance(value, Charset):
        return {"$charset": [value.input_charset, value.header_encoding, value.body_encoding]}
    for name, (tagged, write, _) in _tags.items():
        if kind is tagged:
            return {name: write(value)}
    raise CannotBeStored(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__} that cannot be stored with an email. "
        "Give it as text, number, date, list or dict."
    )


def pack_text(value: Any, where: str) -> Any:
    """Return a text, or a dict of texts, that may have a NUL as JSON: PostgreSQL's cannot hold one."""
    packed = pack(value, where)
    if type(packed) is str and "\0" in packed:
        return {"$text": base64.b64encode(packed.encode("utf-8", "surrogatepass")).decode()}
    if type(packed) is dict and not any(key.startswith("$") for key in packed):
        return {key: pack_text(item, where) if type(item) is str else item for key, item in packed.items()}
    return packed


def unpack(value: Any) -> Any:
    """Return the value of its JSON. Most of it is text, alone or in lists."""
    kind = type(value)
    if kind is list:
        return [item if type(item) is str else unpack(item) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        (name, inner), *_ = value.items()
        if name.startswith("$"):
            return _unpack_tagged(name, inner)
    return {key: unpack(item) for key, item in value.items()}


def _pack_dict(value: Mapping[Any, Any], where: str) -> Any:
    if all(type(key) is str for key in value) and not any(key.startswith("$") for key in value):
        return {key: pack(item, f"{where}[{key!r}]") for key, item in value.items()}
    items = [[pack(key, f"a key of {where}"), pack(item, f"{where}[{key!r}]")] for key, item in value.items()]
    return {"$dict": items}


def _unpack_tagged(name: str, inner: Any) -> Any:
    if name == "$tuple":
        return tuple(unpack(inner))
    if name == "$dict":
        return {unpack(key): unpack(item) for key, item in inner}
    if name == "$charset":
        charset = Charset(inner[0])
        charset.header_encoding, charset.body_encoding = inner[1:]
        return charset
    if name == "$text":
        return base64.b64decode(inner).decode("utf-8", "surrogatepass")
    _, _, read = _tags[name]
    return read(inner)


_tags: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "$bytes": (bytes, lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "$datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time, time.isoformat, time.fromisoformat),
    "$timedelta": (
        timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda value: timedelta(*value),
    ),
    "$decimal": (Decimal, str, Decimal),
    "$uuid": (UUID, str, UUID),
}
