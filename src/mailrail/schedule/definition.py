"""Define entries of the schedule: what runs, when, and what becomes of ticks that cannot run in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from django.conf import settings

from mailrail import options as checked
from mailrail.messages import encode
from mailrail.options import Mistakes

from .choices import ALL, MAX_NAME_LENGTH, MISSED, ONCE, OVERLAP, SKIP
from .times import LONGEST_S, Cron, Every

Times: TypeAlias = Cron | Every
SHORTEST_S = 10
"""Seconds between two runs of ``every``, at least."""


def every(
    *,
    seconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
) -> Every:
    """Return times for ``periodic``: every so many seconds, minutes, hours and days, counted from 1970 in UTC.

    Raises ``TypeError`` and ``ValueError``, for less than 10 seconds and for a part of a second too.
    """
    parts = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days}
    for name, value in parts.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, not {value!r}.")
        if not 0 <= value <= LONGEST_S:
            raise ValueError(f"{name} must be zero or more, and ten years at most, not {value!r}.")
    length = timedelta(**parts)
    if length < timedelta(seconds=SHORTEST_S) or length.microseconds:
        raise ValueError(
            f"every() needs whole seconds, at least {SHORTEST_S}, such as minutes=5, not {length}."
        )
    return Every(int(length.total_seconds()))


@dataclass(frozen=True, kw_only=True)
class Definition:
    """Hold an entry: ``task`` (a dotted path) or ``channel``, when it is due, and its options.

    Raises ``TypeError`` or ``ValueError`` with all mistakes, each naming its option.
    """

    name: str
    times: Times
    task: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    channel: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    missed: str = ONCE
    overlap: str = SKIP
    jitter: float = 0.0

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        with mistakes.noted():
            _check_name(self.name)
        for option, value, choices in (("missed", self.missed, MISSED), ("overlap", self.overlap, OVERLAP)):
            with mistakes.noted():
                _check_choice(option, value, [name for name, _ in choices])
        with mistakes.noted():
            object.__setattr__(self, "jitter", checked.seconds("jitter", self.jitter))
        for option, kind in (("args", list | tuple), ("kwargs", Mapping), ("content", Mapping)):
            with mistakes.noted():
                object.__setattr__(self, option, _sendable(option, getattr(self, option), kind))
        for error in self._contradictions():
            mistakes.add(error)
        mistakes.raise_any()

    def _contradictions(self) -> Iterator[ValueError]:
        if (self.missed, self.overlap) == (ALL, SKIP):
            yield ValueError(
                "missed='all' needs overlap='queue' or 'allow': with overlap='skip', the first of the missed runs "
                "would keep the others from running."
            )
        if self.content and not self.channel:
            yield ValueError(
                "content is that of a message, so it needs channel=…. A task has args and kwargs."
            )
        if (self.args or self.kwargs) and not self.task:
            yield ValueError("args and kwargs are those of a task. A message has content.")

    @property
    def identity(self) -> str:
        """Return the times as text: another text means that the entry is due at other moments."""
        is_of_site = isinstance(self.times, Cron) and self.times.zone is None
        return f"{self.times} {settings.TIME_ZONE}" if is_of_site else str(self.times)


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}.")
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise ValueError(f"name must be 1 to {MAX_NAME_LENGTH} printable characters, not {name[:300]!r}.")


def _check_choice(option: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be {', '.join(map(repr, choices))}, not {value!r}.")


def _sendable(option: str, value: Any, kind: Any) -> Any:
    """Return a copy of the value in types of JSON, by the rules of tasks or of messages. Raises what sending raises."""
    if not isinstance(value, kind):
        raise TypeError(f"{option} must be a {'dict' if kind is Mapping else 'list'}, not {value!r}.")
    if option == "content":
        encode(dict(value))
        return deepcopy(dict(value))
    if not value:
        return value
    from mailrail.tasks.json_values import normalized

    return normalized(value, option)
