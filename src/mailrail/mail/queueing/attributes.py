"""The attributes of a message beyond Django's fields: which are stored with the email, and which are left out.

Bytes on the wire do not depend on them. A class that keeps its request or a model (django-templated-mail, djoser) is
queued without that attribute. Two kinds of attributes decide what is delivered, and are stored or refused: those that
Anymail reads, and those that the class names in ``mailrail_attributes``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.core.mail import EmailMessage

from mailrail.log import logger_of

from .validation import check_text
from .values import CannotBeStored, pack

logger = logger_of("mailrail.mail")

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
    if not present and not named:
        return {}  # nearly always
    _check_named(kind, named)
    for name in set(named).difference(present, without):
        if hasattr(message, name):  # the class has it, or it is a property
            present[name] = getattr(message, name)
    packed = {}
    for name, value in present.items():
        if _is_unset(value):
            continue
        if name in OF_ANYMAIL or name in named:
            packed[name] = _pack(value, name)
        elif not needed_only:
            try:
                packed[name] = _pack(value, name)
            except Exception as error:  # whatever an object says that is looked at
                _log_left_out(kind, name, error)
    return packed


def _check_named(kind: type[EmailMessage], named: Any) -> None:
    if not isinstance(named, Collection) or isinstance(named, str | bytes):
        raise TypeError(
            f"{kind.__qualname__}.mailrail_attributes must be a list of names of attributes, not {named!r}."
        )


def _pack(value: Any, name: str) -> Any:
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
