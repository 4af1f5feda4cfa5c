"""What goes into the statements of PostgreSQL, and what comes out of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from ...messages import Message, row_of
from ..rows import read_message
from .scan_floor import Level

AT_ONCE = 5_000
"""Messages per INSERT."""


@dataclass
class Answer:
    """What the statement which claims returns."""

    claims: list[Message]
    dues: list[tuple[Level, float]]  # of the claims, before they were claimed
    lost: list[tuple[UUID, int]]
    blocked: list[tuple[str, str]]  # (channel, lane) of messages behind others
    unplaced: list[tuple[str, str]]  # likewise of those that wait for one of several places
    overdue: list[str]  # channels with expired messages
    passed_over: bool  # somebody else has locked the best of all channels


def read_answer(rows: Iterable[tuple[Any, ...]]) -> Answer:
    answer = Answer([], [], [], [], [], [], False)
    claims: dict[str, Message] = {}
    news: dict[str, Any] = {}
    for text, *columns in rows:
        if text is None:
            claims[str(columns[0])] = read_message(columns)
        else:
            news = json.loads(text)
    for id, was_due in news["chosen"] or ():
        claim = claims[id]
        answer.claims.append(claim)
        answer.dues.append((Level(claim.channel, claim.priority), was_due))
    answer.lost = [(UUID(id), token) for id, token in news["lost"] or ()]
    for channel, lane, is_unplaced in news["blocked"] or ():
        (answer.unplaced if is_unplaced else answer.blocked).append((channel, lane))
    answer.overdue = news["overdue"] or []
    answer.passed_over = news["passed_over"]
    return answer


def enqueued(message: Message) -> dict[str, Any]:
    """Return the values of ``enqueue.sql`` and its kin."""
    own = {"lane": message.lane, "places": message.places, "key": message.key}
    return row_of(message, delay=message.delay, lifetime=message.lifetime, **own)


def runs(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """In order, in parts that one statement can store: those without a key together, but not too many at once."""
    for has_key, run in groupby(rows, key=lambda row: row["key"] is not None):
        rest = list(run)
        size = len(rest) if has_key else AT_ONCE
        yield from (rest[begin : begin + size] for begin in range(0, len(rest), size))


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """An array for each."""
    return {name: _column([row[name] for row in rows]) for name in rows[0]}


def _column(values: Sequence[Any]) -> str:
    if values.count(values[0]) == len(values):  # most columns are the same in all messages of one call
        return plain_array([_item(values[0])] * len(values))
    return plain_array(map(_item, values))


def _item(value: Any) -> str:
    """As it stands in an array: text in quotes, and what ends it escaped."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, int | float):  # also one of an enumeration, whose str() is a name
        return float.__repr__(value) if isinstance(value, float) else str(int(value))
    return "NULL"


def lane_number(lane: tuple[str, str], lock: str = "mailrail") -> int:
    """The key of the lane's advisory lock. Two lanes that share one would only wait for each other."""
    digest = hashlib.blake2b("\0".join((lock, *lane)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def lane_columns(lanes: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    ordered = sorted(lanes)
    return {"channels": [channel for channel, _ in ordered], "lanes": [lane for _, lane in ordered]}


def text_columns(lanes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The same as text."""
    return {name: plain_array(map(_item, column)) for name, column in lane_columns(lanes).items()}


def token_columns(claims: Sequence[Message]) -> dict[str, str]:
    return {
        "ids": plain_array(claim.id.hex for claim in claims),
        "tokens": plain_array("NULL" if claim.token is None else str(claim.token) for claim in claims),
    }


def plain_array(items: Iterable[str]) -> str:
    """An array as PostgreSQL reads it from text (manual, 8.15.2), of items as they stand in one.

    To write one item after the other costs a driver more than these statements cost the server.
    """
    return "{" + ",".join(items) + "}"


def name_array(names: Iterable[str]) -> str:
    """The same of channel names: one may be "null", which without quotes is no text at all."""
    return plain_array(f'"{name}"' for name in names)
