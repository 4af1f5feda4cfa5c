"""The producer: ``Channel("send-invite").send({"id": 7})``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from .layers import DurableLayer, get_layer
from .messages import (
    HIGHEST_PRIORITY,
    LONGEST_KEY,
    LOWEST_PRIORITY,
    Content,
    Message,
    check_channel_name,
    decode,
    encode,
)

LONGEST_DELAY = timedelta(days=100 * 365)


class Channel:
    """A named channel to send on.

    ``name``: 1 to 99 ASCII letters, digits, ``-``, ``_``, ``.``; ``ValueError`` otherwise. ``layer``: an alias in
    ``CHANNEL_LAYERS``; by default the one in ``MAILRAIL["LAYER"]``.
    """

    def __init__(self, name: str, layer: str | None = None) -> None:
        self.name = check_channel_name(name)
        self._alias = layer

    def __repr__(self) -> str:
        return f"Channel({self.name!r})"

    @property
    def layer(self) -> DurableLayer:
        """The layer that carries this channel's messages."""
        return get_layer(self._alias)

    def send(
        self,
        content: Content,
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        key: str | None = None,
        lane: str | None = None,
        expires: float | timedelta | datetime | None = None,
        headers: Content | None = None,
        using: str | None = None,
        immediately: bool = False,
    ) -> UUID:
        """Send a message, and return its id.

        ``delay`` (seconds or ``timedelta``) or ``at`` (aware ``datetime``): not before then. ``priority``: -100 to
        100, higher first. ``key``: while a message with this key waits on the channel, it is the message (its id
        is returned, and the earlier time wins). ``lane``: messages of a lane run one at a time, in order.
        ``expires``: dropped if it waits then, for its first run or for another; one that runs goes on. ``headers``:
        JSON for the consumer, beside the content.

        The message follows the transaction of the database ``using`` (default: the layer's): rolled back, it was
        never sent. ``immediately=True`` sends it whatever becomes of the transaction.

        Raises ``TypeError`` for what JSON cannot hold (naming its path) and for arguments of a wrong type,
        ``ValueError`` for values out of range, ``MessageTooLarge``, ``WouldDeadlock``.
        """
        [id] = self._send(
            [content],
            {
                **_when(delay, at),
                **_until(expires),
                "priority": _check_priority(priority),
                "key": _check_label("key", key),
                "lane": _check_label("lane", lane),
                "headers": _check_headers(headers),
            },
            using,
            immediately,
        )
        return id

    def send_many(
        self,
        contents: Iterable[Content],
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        lane: str | None = None,
        expires: float | timedelta | datetime | None = None,
        headers: Content | None = None,
        using: str | None = None,
        immediately: bool = False,
    ) -> list[UUID]:
        """Send a message for each content, all or none of them, and return their ids. Options as for ``send``."""
        options = {
            **_when(delay, at),
            **_until(expires),
            "priority": _check_priority(priority),
            "lane": _check_label("lane", lane),
            "headers": _check_headers(headers),
        }
        return self._send(list(contents), options, using, immediately)

    async def asend(self, content: Content, **options: Any) -> UUID:
        """``send`` from async code; the same options."""
        return await sync_to_async(self.send)(content, **options)

    async def asend_many(self, contents: Iterable[Content], **options: Any) -> list[UUID]:
        """``send_many`` from async code; the same options."""
        return await sync_to_async(self.send_many)(contents, **options)

    def _send(
        self, contents: list[Content], options: dict[str, Any], using: str | None, immediately: bool
    ) -> list[UUID]:
        layer = self.layer
        messages = [Message(channel=self.name, content=content, **options) for content in contents]
        if not messages:
            return []
        if immediately:
            return layer.enqueue_immediately(messages)
        using = using or layer.using
        if (layer.joins_transactions and using == layer.using) or not _in_transaction(using):
            return layer.enqueue(messages)
        deferred = DeferredSend(layer, messages)
        transaction.on_commit(deferred, using=using)
        return [message.id for message in messages]


class DeferredSend:
    """A send that waits for the commit of a transaction. Holds a copy: the sender may change its dictionary."""

    def __init__(self, layer: DurableLayer, messages: Sequence[Message]) -> None:
        self.layer = layer
        self.messages = [_snapshot(message) for message in messages]

    def __call__(self) -> None:
        self.layer.enqueue(self.messages)
        self.messages = []  # a TestCase that runs its hooks keeps them, too


def _snapshot(message: Message) -> Message:
    content, headers, _ = decode(encode(message.content), encode(message.headers, "headers"), message.v)
    return replace(message, content=content, headers=headers)


def _in_transaction(using: str) -> bool:
    connection = connections[using]
    # Not get_autocommit(): it would connect, which a test without a database must not.
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _when(delay: float | timedelta | None, at: datetime | None) -> dict[str, Any]:
    if at is None:
        return {"delay": 0.0 if delay is None else _seconds("delay", delay)}
    if delay is not None:
        raise ValueError("Give delay or at, not both.")
    return {"due": _moment("at", at)}


def _until(expires: float | timedelta | datetime | None) -> dict[str, Any]:
    if expires is None:
        return {}
    if isinstance(expires, datetime):
        return {"expires": _moment("expires", expires)}
    return {"lifetime": _seconds("expires", expires)}


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}.")
    if not 0 <= seconds <= LONGEST_DELAY.total_seconds():
        raise ValueError(f"{name} must be between zero and 100 years from now, not {value!r}.")
    return float(seconds)


def _moment(name: str, value: datetime) -> float:
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be an aware datetime, not {value!r}.")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{name} must be an aware datetime (django.utils.timezone.now() makes one), not {value!r}."
        )
    return value.timestamp()


def _check_priority(priority: int) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority must be a whole number, not {priority!r}.")
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise ValueError(
            f"priority must be between {LOWEST_PRIORITY} and {HIGHEST_PRIORITY}, not {priority}."
        )
    return int(priority)


def _check_label(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r}.")
    if not 0 < len(value) <= LONGEST_KEY or "\0" in value or not value.isprintable():
        raise ValueError(f"{name} must be 1 to {LONGEST_KEY} printable characters, not {value[:300]!r}.")
    return str(value)


def _check_headers(headers: Content | None) -> Content:
    if headers is not None and not isinstance(headers, dict):
        raise TypeError(f"headers must be a dict, not {type(headers).__name__}.")
    return headers or {}
