"""What ``queue`` and ``queue_many`` are told beside the emails: looked at before anything is stored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.utils import timezone

from mailrail import Channel
from mailrail import options as checked
from mailrail.conf import settings
from mailrail.moments import seconds_between
from mailrail.namespace import current

from ..mailers.channels import channel_of
from ..mailers.config import (
    alias_of,
    check_delivering,
    configured,
    default_alias,
    email_backend,
    may_be_composed,
)
from .validation import check_text


@dataclass(frozen=True)
class Options:
    """Hold what the emails of one call have in common.

    ``channel``: that of their mailer. ``composes``: whether that mailer may write them as bytes. ``columns``: of their
    records, as far as the database's defaults differ.
    """

    mailer: str
    channel: Channel
    composes: bool
    columns: dict[str, Any]
    priority: int = 0
    send_at: datetime | None = None


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
    priority = checked.priority(priority)
    given: dict[str, Any] = {
        "priority": priority,
        "send_at": start,
        "expires_at": end,
        "tags": [*words],
        "related_object": label,
    }
    columns = plain.columns | {name: value for name, value in given.items() if value}
    return replace(plain, columns=columns, priority=priority, send_at=start)


def plain_options(mailer: str) -> Options:
    """Return the options of emails of which nothing is told but the mailer: prepared once for each state of the
    settings. Raise ``InvalidSettings``."""
    mailers = configured()
    state = (
        email_backend() if mailers is None else mailers,
        settings.mailers,
        settings.deliver_with,
        current(),
    )
    prepared = _prepared.get(mailer) if isinstance(mailer, str) else None
    if prepared is not None and prepared[0] == state:
        return prepared[1]
    alias = alias_of(check_delivering(mailer))
    columns = {name: value for name, value in (("mailer", alias), ("namespace", current())) if value}
    options = Options(alias, Channel(channel_of(alias)), may_be_composed(alias), columns)
    _prepared[mailer] = state, options
    return options


_prepared: dict[str, tuple[tuple[object, ...], Options]] = {}
"""By the mailer that is named: the state of the settings, and the options of its plain emails. Each send asks."""


def _moment(name: str, value: datetime | timedelta | float | None) -> datetime | None:
    return None if value is None else checked.moment_or_seconds(name, value)
