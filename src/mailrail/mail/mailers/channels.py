"""The channel of each mailer: its email waits there, and a mailer that waits keeps no other waiting."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

from mailrail import Channel
from mailrail.errors import InvalidSettings

from .config import UNNAMED, alias_of, configured, delivering

CHANNEL = "mailrail.mail"
"""What the channels of all mailers begin with. In commands and options it means all of them."""
PATTERN = f"{CHANNEL}.*"
_PREFIX = f"{CHANNEL}."
_MAX_LENGTH = 99
_UNNAMED_BESIDE_MAILERS = f"{_PREFIX}.unnamed"
"""For email that was queued before the project had MAILERS. No alias is written so."""
_OTHER = re.compile(r"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(r"(?:\.[0-9a-f]{2})+")
_WHOLE = re.compile(rf"(?:[A-Za-z0-9_-]|{_ESCAPED.pattern})+")


def channel_of(mailer: str) -> str:
    """Return the channel on which the email of a mailer waits. ``mailer``: its alias, as records name it."""
    if mailer == UNNAMED:
        return f"{_PREFIX}default" if configured() is None else _UNNAMED_BESIDE_MAILERS
    return _channel_of(mailer)


@lru_cache(maxsize=1024)
def _channel_of(mailer: str) -> str:
    """Write an alias with the characters of a channel: any other is a period and its UTF-8 in hexadecimal digits."""
    name = _PREFIX + _OTHER.sub(_escape, mailer)
    if len(name) <= _MAX_LENGTH:
        return name
    return f"{name[: _MAX_LENGTH - 34]}..{sha256(mailer.encode()).hexdigest()[:32]}"


def _escape(match: re.Match[str]) -> str:
    return "".join(f".{byte:02x}" for byte in match[0].encode("utf-8", "surrogatepass"))


def mailer_of(channel: str) -> str | None:
    """Return the mailer whose email waits on a channel, or ``None`` if its alias is too long to be read from it."""
    if channel == _UNNAMED_BESIDE_MAILERS:
        return UNNAMED
    if (name := _WHOLE.fullmatch(channel.removeprefix(_PREFIX))) is None:
        return next((mailer for mailer in delivering() if channel_of(mailer) == channel), None)
    return alias_of(_ESCAPED.sub(_unescape, name[0]))


def _unescape(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace(".", "")).decode("utf-8", "surrogatepass")


def is_mail(channel: str) -> bool:
    """Tell whether email waits on a channel of this name."""
    return channel.startswith(_PREFIX)


def known_channels() -> list[str]:
    """Return the channels of the mailers that the settings have; none while a check has to say what is wrong there."""
    try:
        return [channel_of(mailer) for mailer in delivering()]
    except (AttributeError, InvalidSettings, TypeError):
        return []


def all_channels() -> list[str]:
    """Return the channels of the mailers that the settings have, and of those whose messages the layer still has."""
    found = Channel(f"{_PREFIX}default").layer.list_channels()
    return list(dict.fromkeys([*known_channels(), *filter(is_mail, found)]))
