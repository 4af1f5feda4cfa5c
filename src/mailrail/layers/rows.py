"""Rows of the tables as messages, and back: the same on every database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from ..messages import Message, MessageSummary, decode
from ..tracebacks import error_class

COLUMNS = (
    "id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, priority, due, expires, "
    "sent_at, key, worker, token"
)
"""Of a message, as all statements that return whole ones name them and ``read_message`` takes them."""

TABLES_WITH_TIMES = (
    "messages",
    "dead",
    "buckets",
    "workers",
    "pauses",
    "history",
    "history_again",
    "troubles",
)
"""What holds times; there is a statement ``age_…`` for each, which moves them back."""


def read_message(row: Sequence[Any]) -> Message:
    """Build a message from the columns ``COLUMNS`` of a row; whatever is unreadable becomes its ``defect``.

    Behind them, perhaps, the column ``error``.
    """
    id, channel, content, headers, v, lane, lane_seq, attempt, losses, alone, max_attempts, *rest = row
    priority, due, expires, sent_at, key, worker, token, *error = rest
    content, headers, defect = decode(content, headers, v)
    try:
        return Message(
            channel=channel,
            content=content,
            id=id if isinstance(id, UUID) else UUID(id),
            headers=headers,
            v=v,
            lane=lane,
            lane_seq=lane_seq,
            attempt=int(attempt),
            losses=int(losses),
            alone=bool(alone),
            max_attempts=None if max_attempts is None else int(max_attempts),
            priority=int(priority),
            due=float(due),
            expires=None if expires is None else float(expires),
            sent_at=float(sent_at),
            key=key,
            worker=worker,
            token=token,
            defect=defect,
            error=error[0] if error else "",
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        return Message(
            channel=channel,
            content=content,
            id=_read_id(id),
            due=due if isinstance(due, float) else 0.0,
            token=token,
            defect=f"its row cannot be read: {error}",
        )


def _read_id(id: object) -> UUID:
    """Zero for what is no id. Only SQLite can hold such a thing, and its ``claim`` gives it another."""
    try:
        return id if isinstance(id, UUID) else UUID(str(id))
    except ValueError:
        return UUID(int=0)


def read_dead(row: Sequence[Any]) -> Message:
    """Build a dead message from its columns, those of ``read_message`` first."""
    *columns, error, buried_at = row
    return replace(read_message(columns), error=str(error), buried_at=float(buried_at))


def read_summary(row: Sequence[Any], is_dead: bool = False) -> MessageSummary:
    """Build a summary from the columns of a row as ``list_waiting.sql`` or ``list_dead.sql`` return them."""
    id, channel, at, state, preview, attempt, losses, priority, lane, key, *rest = row
    if is_dead:
        worker, (died_of, error) = None, rest
    else:
        worker, error = rest
        died_of = error_class(error)
    return MessageSummary(
        channel=str(channel),
        id=_read_id(id),
        at=float(at) if isinstance(at, int | float) else 0.0,
        state=state,
        preview=str(preview),
        attempt=_whole(attempt),
        losses=_whole(losses),
        priority=_whole(priority),
        lane=lane,
        key=key,
        worker=None if worker is None else str(worker),
        error_class=str(died_of),
        error=str(error),
    )


def _whole(value: Any) -> int:
    """Only SQLite can hold another thing in a column of numbers."""
    return value if isinstance(value, int) else 0
