"""Convert moments exactly, with and without ``USE_TZ``.

With ``USE_TZ = False`` Django's moments are naive: local times of the setting ``TIME_ZONE``. Where clocks are changed,
such a time may occur twice, or not at all. Then PEP 495 decides. Of two, such a time means the first, or with
``fold=1`` the second. A time that is skipped moves forward by as much as the clocks do.

Python ignores the offset when it compares or subtracts two times of the same zone, so ``seconds_between`` does both.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.utils.timezone import get_default_timezone


def aware(moment: datetime) -> datetime:
    """Return the moment as an aware datetime. A naive one is local time of ``TIME_ZONE``."""
    return moment.replace(tzinfo=get_default_timezone()) if moment.tzinfo is None else moment


def as_django(moment: datetime) -> datetime:
    """Return the moment as this project's Django has it: aware, or naive local time with ``USE_TZ = False``."""
    if settings.USE_TZ or moment.tzinfo is None:
        return moment
    return moment.astimezone(get_default_timezone()).replace(tzinfo=None)


def after(moment: datetime, seconds: float) -> datetime:
    """Return the moment ``seconds`` after another one; negative values mean before."""
    return as_django(aware(moment).astimezone(UTC) + timedelta(seconds=seconds))


def from_now(seconds: float) -> datetime:
    """Return the moment ``seconds`` from now; negative values are in the past."""
    return as_django(datetime.now(UTC) + timedelta(seconds=seconds))


def from_timestamp(seconds: float) -> datetime:
    """Convert Unix seconds. Raises ``ValueError`` or ``OverflowError`` outside the calendar's years."""
    return as_django(datetime.fromtimestamp(seconds, UTC))


def seconds_between(earlier: datetime, later: datetime) -> float:
    """Return the seconds between two moments, naive or aware; negative if ``later`` is earlier."""
    return aware(later).timestamp() - aware(earlier).timestamp()


def for_people(moment: datetime) -> str:
    """Format the moment for commands and logs: local time of ``TIME_ZONE`` with its offset from UTC."""
    return aware(moment).astimezone(get_default_timezone()).isoformat(sep=" ", timespec="seconds")


def for_machines(moment: datetime) -> str:
    """Format the moment for ``--json``: ISO 8601 in UTC."""
    return aware(moment).astimezone(UTC).isoformat()


class _MomentField(models.DateTimeField):  # type: ignore[type-arg]  # generic only for the type checker
    """Store a moment exactly, also with ``USE_TZ = False``: the database holds the same as with ``USE_TZ``.

    Django would store local time, in which an hour occurs twice a year. Migrations see a ``DateTimeField``.
    """

    def deconstruct(self) -> Any:
        name, _, arguments, options = super().deconstruct()
        return name, "django.db.models.DateTimeField", arguments, options

    def get_db_converters(self, connection: Any) -> list[Any]:
        """Return no converter with ``USE_TZ``, so that reading costs nothing more."""
        return [] if settings.USE_TZ else [_from_database]

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        value = value if prepared else self.get_prep_value(value)
        if isinstance(value, datetime) and not settings.USE_TZ:
            value = aware(value).astimezone(UTC)
            value = value if connection.vendor == "postgresql" else value.replace(tzinfo=None)
        return connection.ops.adapt_datetimefield_value(value)


def _from_database(value: datetime | None, expression: Any, connection: Any) -> datetime | None:
    """Convert a stored value. PostgreSQL returns local time of ``TIME_ZONE``; other databases hold UTC."""
    if value is None or connection.vendor == "postgresql":
        return value
    return as_django(value.replace(tzinfo=UTC))


if TYPE_CHECKING:
    MomentField = models.DateTimeField  # whose types the plugin knows
else:
    MomentField = _MomentField
    MomentField.__name__ = MomentField.__qualname__ = "MomentField"
