"""Go through a queryset or a sequence in chunks, and know where to go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.db.models import QuerySet
from django.db.models.query import ModelIterable

from mailrail import options as checked


@dataclass(frozen=True, slots=True)
class Position:
    """How far a loop is. ``behind``: the primary key of its last row as text, or ``None``. ``count``: of all items."""

    behind: str | None = None
    count: int = 0
    is_done: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the position as it is kept."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """Return a position that was kept."""
        return cls(**value)


class LoopSource(ABC):
    """What a loop goes through, in chunks of ``size``."""

    def __init__(self, items: Any, size: int) -> None:
        self._items = items
        self._size = size

    @classmethod
    def of(cls, items: Any, chunk: int, what: str) -> LoopSource:
        """Return the source for a queryset or a sequence. Raises ``TypeError`` for all else, and ``ValueError``.

        ``what``: how errors call the loop.
        """
        checked.whole_number(f"chunk of {what}", chunk)
        if isinstance(items, QuerySet):
            if mistake := _mistake(items):
                raise TypeError(f"{what}: {mistake}")
            return _Rows(items, chunk)
        if isinstance(items, Sequence) and not isinstance(items, str | bytes | bytearray):
            return _Items(items, chunk)
        raise TypeError(
            f"{what} needs a queryset or a list, not {items!r:.100}: the next attempt has to find the same items in "
            "the same order."
        )

    @abstractmethod
    def behind(self, position: Position) -> Sequence[Any]:
        """Return the next chunk."""

    @abstractmethod
    def position_after(self, position: Position, chunk: Sequence[Any]) -> Position:
        """Return the position at the end of a chunk that begins at ``position``."""


class _Items(LoopSource):
    def behind(self, position: Position) -> Sequence[Any]:
        return list(self._items[position.count : position.count + self._size])

    def position_after(self, position: Position, chunk: Sequence[Any]) -> Position:
        count = position.count + len(chunk)
        return Position(None, count, count >= len(self._items))


class _Rows(LoopSource):
    """The rows of a queryset by their primary keys: rows that come or go meanwhile shift no others."""

    def behind(self, position: Position) -> Sequence[Any]:
        rows = self._items.order_by("pk")
        if not rows.query.standard_ordering:  # of a queryset that was reversed
            rows = rows.reverse()
        if position.behind is not None:
            rows = rows.filter(pk__gt=self._items.model._meta.pk.to_python(position.behind))
        return list(rows[: self._size])

    def position_after(self, position: Position, chunk: Sequence[Any]) -> Position:
        behind = chunk[-1]._meta.pk.value_to_string(chunk[-1]) if chunk else position.behind
        return Position(behind, position.count + len(chunk), len(chunk) < self._size)


def _mistake(rows: QuerySet[Any]) -> str:
    """Return why a loop cannot go on by the primary keys of a queryset, or an empty text."""
    if rows.query.is_sliced or rows.query.combinator or rows.query.distinct_fields:
        return (
            "a queryset that is sliced, a union or distinct by fields cannot be put in the order of its primary keys. "
            "Filter it instead."
        )
    if not issubclass(rows._iterable_class, ModelIterable):
        return (
            "a queryset of values() or values_list() has no primary key to go on behind. Use only() instead."
        )
    if type(rows.model._meta.pk).__name__ == "CompositePrimaryKey":
        return "its primary key has several columns, and a loop goes on by one. Give a list of keys instead."
    return ""
