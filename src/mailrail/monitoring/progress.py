"""Tell how far an object of any app is: what ``{% mailrail_progress object %}`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class FailedItem(NamedTuple):
    """Name one thing that has failed, and say why. ``url``: a page about it, if the reader may see one."""

    name: str
    reason: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class WorkProgress:
    """Say how far something is: of ``total``, ``done`` have succeeded, and ``failed`` have failed for good.

    ``total=None``: nobody knows. ``failures``: the first of those that failed, as many as a page should show.
    ``is_over``: whether it has ended; by default, once nothing waits. ``text``: what it does now, in a few words.
    Raises ``ValueError`` for a number that is negative or not finite, and for a ``url`` that is no page, such as
    ``javascript:``.
    """

    done: float
    total: float | None = None
    failed: float = 0
    failures: Sequence[FailedItem] = ()
    is_over: bool | None = None
    text: str = ""

    def __post_init__(self) -> None:
        for name in ("done", "total", "failed"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and isfinite(value) and value >= 0
            if not is_number and (value is not None or name != "total"):
                raise ValueError(f"WorkProgress: {name} must be a number, 0 or more, not {value!r}.")
        for item in self.failures:
            if urlsplit(item.url).scheme not in ("", "http", "https"):
                raise ValueError(
                    f"FailedItem: url must be that of a page, such as get_absolute_url(), not {item.url!r}."
                )

    @property
    def waiting(self) -> float:
        """Return how many have neither succeeded nor failed, and still may."""
        return 0 if self.total is None or self.is_over else max(0, self.total - self.done - self.failed)

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more is to come."""
        return self.total is not None and not self.waiting if self.is_over is None else self.is_over


def progress_of(value: Any) -> WorkProgress:
    """Return the progress that an object tells by its method ``mailrail_progress()``; a ``WorkProgress`` is its own.

    Raises ``TypeError`` for any other object.
    """
    method = getattr(value, "mailrail_progress", None)
    progress = method() if callable(method) else value
    if not isinstance(progress, WorkProgress):
        culprit = (
            f"mailrail_progress() of {value!r} returned {progress!r}" if callable(method) else repr(value)
        )
        raise TypeError(
            f"{{% mailrail_progress %}} cannot show {culprit}. Give it an object whose method mailrail_progress() "
            "returns a mailrail.monitoring.WorkProgress, or a WorkProgress itself."
        )
    return progress
