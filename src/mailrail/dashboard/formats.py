"""Format numbers and moments for the live page, in the active language and time zone."""

from __future__ import annotations

from datetime import datetime

from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.translation import pgettext, pgettext_lazy

from mailrail.moments import from_timestamp
from mailrail.monitoring.facts import Count

_SECOND = (1.0, pgettext_lazy("duration", "%(n)s s"))
_UNITS = (
    (86400.0, pgettext_lazy("duration", "%(n)s d")),
    (3600.0, pgettext_lazy("duration", "%(n)s h")),
    (60.0, pgettext_lazy("duration", "%(n)s min")),
)


def number(count: Count) -> str:
    """Return a count; an estimate has a sign in front."""
    digits = str(count.n) if abs(count.n) < 1000 else number_format(count.n, force_grouping=True)
    return f"≈{digits}" if count.is_estimate else digits


def rate(value: float | None) -> str:
    """Return a rate with one decimal below ten; nothing if nobody knows it."""
    if value is None:
        return ""
    return number_format(value, 1 if 0 < value < 10 else 0, force_grouping=True)


def duration(seconds: float | None) -> str:
    """Return seconds in the largest unit that they fill twice, so that the text seldom changes."""
    if seconds is None:
        return ""
    size, text = next((unit for unit in _UNITS if seconds >= 2 * unit[0]), _SECOND)
    return str(text) % {"n": number(Count(max(0, int(seconds / size))))}


def moment(at: float | None, now: float) -> str:
    """Return the time of day, with the date unless it is today's; nothing for a moment that no calendar has."""
    if at is None:
        return ""
    try:
        local, today = _local(at), _local(now)
    except (OverflowError, ValueError, OSError):
        return ""
    time = date_format(local, "H:i")
    return time if local.date() == today.date() else f"{date_format(local, 'SHORT_DATE_FORMAT')} {time}"


def memory(size: int | None) -> str:
    """Return bytes as people read them."""
    return "" if size is None else str(filesizeformat(size))


def joined(*texts: str) -> str:
    """Return the texts that are not empty as a list in a sentence."""
    return pgettext("between remarks", "; ").join(text for text in texts if text)


def _local(at: float) -> datetime:
    moment = from_timestamp(at)
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment
