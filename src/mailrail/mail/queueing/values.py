"""Values of an email message as JSON and back, exactly, without pickle; and its attributes beyond Django's fields.

JSON's own types stand for themselves. All others are an object with one key that begins with ``$``. An aware time
keeps its offset, not the name of its zone.

Bytes on the wire do not depend on attributes. A class that keeps its request or a model (django-templated-mail, djoser)
is queued without that attribute. Two kinds of attributes decide what is delivered, and are stored or refused: those
that Anymail reads, and those that the class names in ``mailrail_attributes``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from email.charset import Charset
from email.headerregistry import Address
from typing import Any
from uuid import UUID

from django.core.mail import EmailMessage
from django.utils.functional import Promise

from mailrail.log import logger_of

from .validation import check_text

logger = logger_of("mailrail.mail")


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


# -- attributes ------------------------------------------------------------------------------------------------------

OF_ANYMAIL = frozenset(
    {
        "envelope_sender",
        "esp_extra",
        "merge_data",
        "merge_global_data",
        "merge_headers",
        "merge_metadata",
        "metadata",
        "send_at",
        "tags",
        "template_id",
        "track_clicks",
        "track_opens",
    }
)
ABOUT = "mailrail_about"
"""The attribute by which a message names the object it is about, where ``mail.queue(…, about=…)`` is not called."""
MAX_LOGGED = 1000
"""Classes and names that are remembered as logged: a process that makes classes as it runs keeps no more."""
_logged: set[tuple[str, str]] = set()


def dump_attributes(
    message: EmailMessage, without: Collection[str], *, needed_only: bool = False
) -> dict[str, Any]:
    """Return the attributes as JSON, by their names; ``needed_only``: those that decide what is delivered.

    Raise ``CannotBeStored`` for one of these, and ``CannotQueue`` for a character in it that no database stores. Leave
    out any other attribute that cannot be stored, and log that once for each class and name.
    """
    kind = type(message)
    present = {name: value for name, value in vars(message).items() if name not in without}
    named = getattr(kind, "mailrail_attributes", ())
    _check_named(kind, named)
    for name in set(named).difference(present, without):
        if hasattr(message, name):  # the class has it, or it is a property
            present[name] = getattr(message, name)
    packed = {}
    for name, value in present.items():
        if _is_unset(value):
            continue
        if name in OF_ANYMAIL or name in named:
            packed[name] = _pack_attribute(value, name)
        elif not needed_only:
            try:
                packed[name] = _pack_attribute(value, name)
            except Exception as error:  # whatever an object says that is looked at
                _log_left_out(kind, name, error)
    return packed


def _check_named(kind: type[EmailMessage], named: Any) -> None:
    if not isinstance(named, Collection) or isinstance(named, str | bytes):
        raise TypeError(
            f"{kind.__qualname__}.mailrail_attributes must be a list of names of attributes, not {named!r}."
        )


def _pack_attribute(value: Any, name: str) -> Any:
    try:
        packed = pack(value, name)
    except RecursionError:
        raise CannotBeStored(f"{name} contains itself. Give only what is needed of it.") from None
    check_text(packed, name)
    return packed


def _is_unset(value: Any) -> bool:
    """Tell whether a value means that nothing was given. ``AnymailMessage`` puts a class of Anymail's there."""
    return issubclass(type(value), type) and value.__name__ == "UNSET"


def _log_left_out(kind: type, name: str, error: Exception) -> None:
    attribute = f"{kind.__module__}.{kind.__qualname__}", name
    if attribute in _logged or len(_logged) >= MAX_LOGGED:
        return
    _logged.add(attribute)  # first: a log may be mailed
    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    logger.warning(
        "Emails of %s are queued without their attribute %r: %s If what delivers them needs it, give it as data and "
        "name it in mailrail_attributes of the class.",
        *attribute,
        reason,
    )
