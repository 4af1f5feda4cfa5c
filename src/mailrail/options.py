"""What callers give as options, read and checked the same way by all who take them. Errors name the option."""

from __future__ import annotations

from datetime import datetime, timedelta

from .messages import HIGHEST_PRIORITY, LONGEST_KEY, LOWEST_PRIORITY

LONGEST_DELAY = timedelta(days=100 * 365)


def seconds(name: str, value: float | timedelta) -> float:
    """A time from now, in seconds."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}.")
    if not 0 <= number <= LONGEST_DELAY.total_seconds():
        raise ValueError(f"{name} must be between zero and 100 years from now, not {value!r}.")
    return float(number)


def moment(name: str, value: datetime) -> datetime:
    """A time that everybody understands alike."""
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be an aware datetime, not {value!r}.")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{name} must be an aware datetime (django.utils.timezone.now() makes one), not {value!r}."
        )
    return value


def priority(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be a whole number, not {value!r}.")
    if not LOWEST_PRIORITY <= value <= HIGHEST_PRIORITY:
        raise ValueError(f"priority must be between {LOWEST_PRIORITY} and {HIGHEST_PRIORITY}, not {value}.")
    return int(value)


def label(name: str, value: str) -> str:
    """A key, or the name of a lane."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}.")
    if not 0 < len(value) <= LONGEST_KEY or not value.isprintable():
        raise ValueError(f"{name} must be 1 to {LONGEST_KEY} printable characters, not {value[:300]!r}.")
    return str(value)
