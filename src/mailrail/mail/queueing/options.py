"""What ``queue`` and ``queue_many`` are told beside the emails: looked at before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils import timezone

from mailrail import options as checked
from mailrail.moments import seconds_between
from mailrail.namespace import current

from ..mailers.config import alias_of, check_delivering, default_alias, may_be_composed
from .validation import check_text


@dataclass(frozen=True)
class Options:
    """Hold what the emails of one call have in common."""

    mailer: str
    composes: bool
    priority: int = 0
    send_at: datetime | None = None
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()
    about: str = ""


def read_options(
    mailer: str | None,
    priority: int,
    send_at: datetime | timedelta | float | None,
    expires_at: datetime | timedelta | float | None,
    tags: Iterable[str],
    about: models.Model | str | None,
) -> Options:
    start, end = _moment("send_at", send_at), _moment("expires_at", expires_at)
    if end is not None and seconds_between(start or timezone.now(), end) <= 0:
        raise ValueError("expires_at must be later than now, and than send_at.")
    words = () if isinstance(tags, str | bytes) else tuple(tags)
    if isinstance(tags, str | bytes) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"tags must be a list of strings, not {tags!r}.")
    label = checked.related_object("about", about)
    if words or label:
        check_text([*words, label], "tags or about")
    plain = plain_options(default_alias() if mailer is None else mailer)
    return replace(
        plain, priority=checked.priority(priority), send_at=start, expires_at=end, tags=words, about=label
    )


def plain_options(mailer: str) -> Options:
    """Return the options of emails of which nothing is told but the mailer. Raise ``InvalidSettings``."""
    mailer = alias_of(check_delivering(mailer))
    return Options(mailer, composes=may_be_composed(mailer))


def columns_of(options: Options) -> dict[str, Any]:
    """Return the columns that the records of one call have in common, as far as the database's defaults differ."""
    columns = {
        "mailer": options.mailer,
        "priority": options.priority,
        "send_at": options.send_at,
        "expires_at": options.expires_at,
        "tags": [*options.tags],
        "related_object": options.about,
        "namespace": current(),
    }
    return {name: value for name, value in columns.items() if value}


def _moment(name: str, value: datetime | timedelta | float | None) -> datetime | None:
    return None if value is None else checked.moment_or_seconds(name, value)
