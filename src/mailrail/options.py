"""Check seconds, moments and whole numbers alike in arguments, settings and command lines.

Each check names the option, and raises ``TypeError`` for a wrong type and ``ValueError`` for a value out of range.
``Mistakes`` collects the errors of several checks, so that people see all of them at once.
"""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from django.conf import settings
from django.db.models import Model
from django.utils.module_loading import import_string

from .moments import as_django, aware, from_now

_MAX_SECONDS = timedelta(days=100 * 365).total_seconds()
LaneWithPlaces: TypeAlias = tuple[str, int]
"""A lane, and how many of it run at once, in any order."""
Lane: TypeAlias = str | LaneWithPlaces
"""A lane, of which one runs at a time, in order; or one with several places."""
LOWEST_PRIORITY, HIGHEST_PRIORITY = -100, 100
MAX_KEY_LENGTH = 255


def seconds(name: str, value: float | timedelta, *, above_zero: bool = False) -> float:
    """Return a length of time in seconds, from zero (``above_zero``: more than zero) to 100 years."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    rule = f"{name} must be seconds or a timedelta, {'more than zero' if above_zero else 'zero or more'} and at most"
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{rule} 100 years, not {value!r}.")
    if not 0 <= number <= _MAX_SECONDS or (above_zero and number == 0):
        raise ValueError(f"{rule} 100 years, not {value!r}.")
    return float(number)


def moment(name: str, value: datetime) -> datetime:
    """Return a moment at most 100 years from now, as Django has moments in this project (``moments.as_django``).

    Naive moments are accepted only with ``USE_TZ = False``, as by Django.
    """
    expected = "an aware datetime" if settings.USE_TZ else "a datetime"
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be {expected}, not {value!r}.")
    if value.utcoffset() is None and (settings.USE_TZ or value.tzinfo is not None):
        raise ValueError(f"{name} must be {expected} (django.utils.timezone.now() makes one), not {value!r}.")
    try:
        is_near = aware(value) <= aware(from_now(_MAX_SECONDS))
        converted = as_django(value)
    except OverflowError:  # near the first or the last year of the calendar
        is_near = False
    if not is_near:
        raise ValueError(f"{name} must be at most 100 years from now, not {value!r}.")
    return converted


def moment_or_seconds(name: str, value: datetime | timedelta | float) -> datetime:
    """Return a moment, as ``moment`` does; seconds and a ``timedelta`` count from now."""
    if isinstance(value, datetime):
        return moment(name, value)
    return from_now(seconds(name, value))


def whole_number(name: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """Return a whole number from ``least`` to ``most``."""
    rule = f"{name} must be a whole number from {least}" + ("" if most is None else f" to {most}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{rule}, not {value!r}.")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{rule}, not {value!r}.")
    return int(value)


def priority(value: int) -> int:
    """Return a priority of messages, -100 to 100."""
    return whole_number("priority", value, least=LOWEST_PRIORITY, most=HIGHEST_PRIORITY)


def label(name: str, value: str) -> str:
    """Return a key, or the name of a lane."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}.")
    if not 0 < len(value) <= MAX_KEY_LENGTH or not value.isprintable():
        raise ValueError(f"{name} must be 1 to {MAX_KEY_LENGTH} printable characters, not {value[:300]!r}.")
    return str(value)


@dataclass(frozen=True)
class LimitPerValue:
    """Hold a limit over all workers: at most ``count`` at once for each value that ``function`` returns.

    ``function``: a function, or a dotted path to one. It returns text or a number; ``None``: no limit.
    """

    count: int
    function: Callable[..., Any] | str

    def lane_of(self, *args: Any, **kwargs: Any) -> str | None:
        """Return the value for these arguments, as the name of a lane.

        Raises ``TypeError`` or ``ValueError`` for a value that is none, and what the function raises.
        """
        function = import_string(self.function) if isinstance(self.function, str) else self.function
        value = function(*args, **kwargs)
        if value is None:
            return None
        name = f"concurrency=({self.count}, function): what {getattr(function, '__qualname__', function)} returns"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"{name} must be text, a number or None, not {value!r}.")
        return label(name, str(value))


def related_object(name: str, value: Model | str | None) -> str:
    """Return the name under which a record keeps the object that it is about: ``app_label.model:pk``, or free text."""
    if isinstance(value, Model):
        if value.pk is None:
            raise ValueError(f"{name} must be a saved object: {value!r} has no primary key yet.")
        value = f"{value._meta.label_lower}:{value.pk}"
    if not isinstance(value, str | None):
        raise TypeError(f"{name} must be a saved object or a string, not {value!r}.")
    if value and len(value) > MAX_KEY_LENGTH:
        raise ValueError(f"{name} must be at most {MAX_KEY_LENGTH} characters, not {len(value)}.")
    if value and re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{name} must be text without NUL and halves of surrogate pairs, not {value!r}.")
    return value or ""


def concurrency(name: str, value: Any) -> int | LimitPerValue:
    """Return a whole number, or the limit that ``(number, function)`` means."""
    if isinstance(value, LimitPerValue):
        return value
    if not isinstance(value, list | tuple):
        return whole_number(name, value)
    number, function = value if len(value) == 2 else (0, None)
    if not (callable(function) or isinstance(function, str)) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{name} must be a whole number, or (number, function), where the function returns whose limit it is: "
            f"at most so many run at once for each value. It is no coroutine function. Not {value!r}."
        )
    return LimitPerValue(whole_number(f"the number in {name}=(number, function)", number), function)


# -- command lines: argparse names the argument and shows the texts of these errors --------------------------------


def seconds_argument(text: str) -> float:
    """Read seconds, zero or more. Raises ``ArgumentTypeError``."""
    return _length_argument(text, 1.0, "seconds")


def days_argument(text: str) -> timedelta:
    """Read days, zero or more. Raises ``ArgumentTypeError``."""
    return timedelta(seconds=_length_argument(text, 86400.0, "days"))


def whole_number_argument(text: str) -> int:
    """Read a whole number from 1. Raises ``ArgumentTypeError``."""
    try:
        return whole_number("it", int(text if text.isdecimal() else ""))
    except ValueError:  # also of thousands of digits
        raise ArgumentTypeError(f"must be a whole number from 1, not {text[:300]!r}") from None


def _length_argument(text: str, unit: float, units: str) -> float:
    try:
        return seconds("it", float(text) * unit)
    except ValueError:
        raise ArgumentTypeError(
            f"must be {units}, zero or more and at most 100 years, not {text[:300]!r}"
        ) from None


# -- several mistakes ------------------------------------------------------------------------------------------------


class Mistakes:
    """Collect mistakes, one sentence each.

    ``kinds``: the exceptions that count as mistakes. One with ``mistakes`` (``InvalidSettings``) adds all of them.
    """

    def __init__(self, *kinds: type[Exception]) -> None:
        self._kinds = kinds or (TypeError, ValueError)
        self.errors: list[Exception] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Catch a mistake that the block raises, and go on after the block."""
        try:
            yield
        except self._kinds as error:
            self.errors.append(error)

    def add(self, error: Exception) -> None:
        """Add a mistake that was not raised."""
        self.errors.append(error)

    @property
    def texts(self) -> list[str]:
        """Return the sentences, in the order in which the mistakes were found."""
        all_texts = [getattr(error, "mistakes", None) or (str(error),) for error in self.errors]
        return list(dict.fromkeys(text for texts in all_texts for text in texts))

    def raise_any(self, kind: Any = None) -> None:
        """Raise one exception with all texts, if there is a mistake.

        ``kind``: its class, which takes several texts (``InvalidSettings``). By default it is the class of the mistake;
        for several mistakes, ``TypeError`` if one of them is, else ``ValueError``.
        """
        if not self.errors:
            return
        if len(self.errors) == 1 and kind in (None, type(self.errors[0])):
            raise self.errors[0]
        is_type = any(isinstance(error, TypeError) for error in self.errors)
        texts = self.texts if kind else ["\n".join(self.texts)]
        raise (kind or (TypeError if is_type else ValueError))(*texts) from self.errors[0]
