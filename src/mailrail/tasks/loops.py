"""Go through a queryset or a sequence in chunks, and know where to go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    def next_chunk(self, position: Position) -> tuple[Sequence[Any], Position]:
        """Return the chunk that begins at a position, and the position at its end."""

    def worked_through(self, position: Position) -> Position:
        """Return the position at the end of a chunk whose items were worked through."""
        return position


class _Items(LoopSource):
    def next_chunk(self, position: Position) -> tuple[Sequence[Any], Position]:
        end = min(position.count + self._size, len(self._items))
        chunk = [self._items[n] for n in range(position.count, end)]  # not all sequences have slices
        return chunk, Position(None, end)

    def worked_through(self, position: Position) -> Position:
        return replace(position, is_done=position.count >= len(self._items))  # it may have grown


class _Rows(LoopSource):
    """The rows of a queryset by their primary keys: rows that come or go meanwhile shift no others."""

    def next_chunk(self, position: Position) -> tuple[Sequence[Any], Position]:
        rows = self._items.order_by("pk")
        if not rows.query.standard_ordering:  # of a queryset that was reversed
            rows = rows.reverse()
        if position.behind is not None:
            rows = rows.filter(pk__gt=self._items.model._meta.pk.to_python(position.behind))
        chunk = list(rows[: self._size + 1])
        if not chunk:
            return chunk, replace(position, is_done=True)
        beyond, last = chunk[self._size :], chunk[: self._size][-1]
        behind = last._meta.pk.value_to_string(last)
        if beyond and beyond[0].pk == last.pk:  # a join repeats the row, and the chunk would end amid that
            chunk = [row for row in chunk if row.pk != last.pk] + list(rows.filter(pk=last.pk))
        else:
            del chunk[self._size :]
        is_done = not beyond and len(chunk) < self._size
        return chunk, Position(behind, position.count + len(chunk), is_done)


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
    if rows.query.select_for_update:
        return (
            "select_for_update() locks until the end of a transaction, and a chunk is read outside of one. Lock each "
            "row in the transaction of its own work."
        )
    if any(getattr(value, "contains_over_clause", False) for value in rows.query.annotations.values()):
        return (
            "a window function sees the rows of one chunk only, not those before it. Compute it in a step before, or "
            "give a list of keys."
        )
    if type(rows.model._meta.pk).__name__ == "CompositePrimaryKey":
        return "its primary key has several columns, and a loop goes on by one. Give a list of keys instead."
    return ""
