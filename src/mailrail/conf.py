"""The settings: one frozen object, built from ``MAILRAIL = {…}`` in the project's settings.

Use ``from mailrail.conf import settings`` and read attributes: ``settings.attempts``. Tests may use Django's
``override_settings(MAILRAIL={…})``; the object is rebuilt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from .errors import InvalidSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``MAILRAIL`` may hold; the key is the attribute's name in capitals. Times are in seconds."""

    layer: str = "default"
    """Alias in ``CHANNEL_LAYERS`` of the layer that carries messages when none is named."""
    max_message_bytes: int = 1024 * 1024
    """Largest content of a message, as JSON in UTF-8."""
    attempts: int = 5
    """How often a message is tried before it is buried, where its route does not say."""
    backoff: float = 15.0
    """Upper bound of the wait before the second attempt; doubled before each later one, with full jitter."""
    backoff_max: float = 3600.0
    """The doubling stops here."""
    lease: float = 15.0
    """How long a claim lasts without renewal: after it a dead worker's messages are claimed by others."""
    timeout: float | None = None
    """Limit for one run of a consumer, where its route does not say. ``None``: no limit."""
    threads: int = 8
    """Sync consumers that run at once in one worker process, and the default concurrency of a channel."""
    processes: int = 1
    """Worker processes that ``runworker`` starts."""
    shutdown_timeout: float = 25.0
    """How long a worker told to stop waits for running consumers before it releases their messages."""
    consumer_middleware: tuple[str, ...] = ()
    """Dotted paths of functions ``wrap(consume) -> consume``, the first one outermost."""
    base_url: str | None = None
    """Where the site is reached from outside, for links in email: ``https://example.com``."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name.upper(), str(field.type), getattr(self, field.name))


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "str | None": (str, type(None)),
    "tuple[str, ...]": (tuple,),
}
_SAID = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number of seconds",
    "float | None": "a number of seconds or None",
    "str | None": "a string or None",
    "tuple[str, ...]": "a list of dotted paths",
}
_MAY_BE_ZERO = {"BACKOFF", "BACKOFF_MAX", "SHUTDOWN_TIMEOUT"}


def _check(key: str, kind: str, value: Any) -> None:
    if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
        raise InvalidSettings(f"MAILRAIL[{key!r}] must be {_SAID[kind]}, not {value!r}.")
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        raise InvalidSettings(f"MAILRAIL[{key!r}] must be {_SAID[kind]}, not {list(value)!r}.")
    if isinstance(value, int | float):
        least = 0 if key in _MAY_BE_ZERO else None
        if not (value > 0 or value == least) or value == float("inf"):
            rule = "greater than zero" if least is None else "zero or more"
            raise InvalidSettings(f"MAILRAIL[{key!r}] must be {rule}, and finite, not {value!r}.")


def build(raw: Any) -> Settings:
    """Build the settings from the dictionary a project wrote.

    Raises ``InvalidSettings``, naming the key, for an unknown key or a value of the wrong type.
    """
    if not isinstance(raw, Mapping):
        raise InvalidSettings(f"MAILRAIL must be a dictionary, not {raw!r}.")
    known = {field.name.upper(): field.name for field in dataclasses.fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise InvalidSettings(f"MAILRAIL has no key {key!r}. It knows: {', '.join(sorted(known))}.")
        values[known[key]] = tuple(value) if isinstance(value, list) else value
    return Settings(**values)


class _LazySettings:
    """Builds the ``Settings`` at first use, as Django's own settings may not be ready at import."""

    _built: Settings | None = None

    def __getattr__(self, name: str) -> Any:
        if self._built is None:
            self._built = build(getattr(django_settings, "MAILRAIL", {}))
        return getattr(self._built, name)

    def forget(self) -> None:
        self._built = None


_lazy = _LazySettings()
settings: Settings = _lazy  # type: ignore[assignment]  # reads like the dataclass it builds


@receiver(setting_changed, dispatch_uid="mailrail.conf")
def _rebuild(*, setting: str, **kwargs: Any) -> None:
    if setting == "MAILRAIL":
        _lazy.forget()
