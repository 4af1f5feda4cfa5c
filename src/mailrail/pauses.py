"""Say that something is paused: since when, by whom, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from getpass import getuser
from typing import Any

from .moments import for_people, from_timestamp
from .storable import storable

MAX_BY_LENGTH, MAX_REASON_LENGTH = 200, 1000
"""Characters."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Say since when something is paused, by whom and why; empty texts: it was not said."""

    since: float | None
    by: str = ""
    reason: str = ""


def new_pause(by: str, reason: str) -> Pause:
    """Return a pause that is to begin, as every store takes it.

    Raises ``TypeError`` for what is no string, and ``ValueError`` for one that is too long.
    """
    return Pause(None, _checked("by", by, MAX_BY_LENGTH), _checked("reason", reason, MAX_REASON_LENGTH))


def os_user() -> str:
    """Return the name of the user of this process; an empty text, where the system knows none."""
    try:
        return getuser()[:MAX_BY_LENGTH]
    except (
        ImportError,
        KeyError,
        OSError,
    ):  # as ``getpass.getuser`` says: no variable, no entry in the user database
        return ""


def describe_pause(pause: Pause) -> str:
    """Return since when, by whom and why, for terminals: ``since 2026-01-31 14:02 by alice (the reason)``."""
    since = "" if pause.since is None else f"since {for_people(from_timestamp(pause.since))}"
    by, reason = pause.by and f"by {pause.by}", pause.reason and f"({pause.reason})"
    return " ".join(filter(None, (since, by, reason)))


def changed_pause(before: Pause | None, pause: Pause, now: float) -> Pause:
    """Return what becomes of a pause by another one: it began when it began, and a new reason replaces who and why."""
    if before is None:
        return replace(pause, since=now)
    return replace(pause, since=before.since) if pause.reason else before


def _checked(name: str, text: Any, most: int) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, not {text!r}.")
    if len(text) > most:
        raise ValueError(f"{name} has {len(text):,} characters: say it in at most {most:,}.")
    return storable(text)
