"""Send messages: ``Channel("send-invite").send({"id": 7})``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation

from . import options as checked
from .conf import settings
from .layers import DurableLayer, get_layer
from .messages import Content, Message, Statement, check_channel_name, id_of_content
from .moments import aware
from .options import Lane
from .routing import Routing, check_routed, routing_with_limits


class Channel:
    """Send messages on a named channel.

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
        """Return the layer that carries this channel's messages."""
        return get_layer(self._alias)

    def send(
        self,
        content: Content,
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        key: str | None = None,
        lane: Lane | None = None,
        expires: float | timedelta | datetime | None = None,
        headers: Content | None = None,
        attempts: int | None = None,
        unique: bool = False,
        using: str | None = None,
        immediately: bool = False,
    ) -> UUID:
        """Send a message, and return its id.

        ``delay`` (seconds or ``timedelta``) or ``at`` (a ``datetime``, naive ones only with ``USE_TZ = False``): not
        before then. ``priority``: -100 to 100, higher first. ``key``: while a message with this key waits on the
        channel, it is the message (its id is returned, and the earlier time wins). ``lane``: messages of a lane run one
        at a time, in order; of ``("tenant-7", 5)``, 5 at once in any order. ``expires``: dropped if it waits then, for
        its first run or for another; one that runs goes on. ``headers``: JSON for the consumer, beside the content.
        ``attempts``: how often it is tried, if not as its route says. ``unique``: a repeat of this content changes
        nothing until the first message has ended, even while it runs. It is meant for records, whose rows hold their
        state (see ``mailrail.reconciliation``).

        The message follows the transaction of the database ``using`` (default: the layer's): rolled back, it was
        never sent. ``immediately=True`` sends it whatever becomes of the transaction, and past the outbox.

        Raises ``TypeError`` for content that JSON cannot hold, with its path, and for arguments of a wrong type. Raises
        ``ValueError`` for values out of range, ``MessageTooLarge``, and ``WouldDeadlock``. With
        ``MAILRAIL["UNROUTED"] = "raise"`` it raises ``NoRoute``, too.
        """
        options = _options(delay, at, expires, priority, key, lane, headers, attempts)
        [id] = self._send([content], options, unique, using, immediately)
        return id

    def send_many(
        self,
        contents: Iterable[Content],
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: int = 0,
        lane: Lane | None = None,
        expires: float | timedelta | datetime | None = None,
        headers: Content | None = None,
        attempts: int | None = None,
        unique: bool = False,
        using: str | None = None,
        immediately: bool = False,
    ) -> list[UUID]:
        """Send a message for each content, all or none of them, and return their ids. Options as for ``send``."""
        options = _options(delay, at, expires, priority, None, lane, headers, attempts)
        return self._send(list(contents), options, unique, using, immediately)

    def send_with_record(
        self,
        record: Statement,
        content: Content,
        *,
        at: datetime | None = None,
        priority: int = 0,
        unique: bool = False,
        using: str | None = None,
    ) -> UUID:
        """Execute the INSERT of the record that a message is about, send the message, and return its id: both, or none.

        ``record``: the statement and its values, such as ``("INSERT INTO shop_order (number) VALUES (%(number)s)",
        {"number": 7})``. It runs on the database ``using``. Where that is the layer's, and PostgreSQL, both take one
        round trip; a transaction of their own takes four. So does one whose values have names such as ``id``. The
        other options are as for ``send``. Raises what the database raises for the record, too.
        """
        options = _options(None, at, None, priority, None, None, None)
        match record:
            case (str(), dict()):
                pass
            case _:
                raise TypeError(f"record must be (statement, {{name: value}}), not {record!r}.")
        messages = self._messages([content], options, unique)
        [id] = get_layer(self._alias).send_with_record(record, messages, using)
        return id

    async def asend(self, content: Content, **options: Any) -> UUID:
        """Send a message from async code; options as for ``send``."""
        return await sync_to_async(self.send)(content, **options)

    async def asend_many(self, contents: Iterable[Content], **options: Any) -> list[UUID]:
        """Send messages from async code; options as for ``send_many``."""
        return await sync_to_async(self.send_many)(contents, **options)

    def unique_id(self, content: Content) -> UUID:
        """Return the id that a message with this content has if it is sent with ``unique=True``."""
        return id_of_content(self.name, content)

    def _send(
        self,
        contents: list[Content],
        options: dict[str, Any],
        unique: bool,
        using: str | None,
        immediately: bool,
    ) -> list[UUID]:
        layer, messages = get_layer(self._alias), self._messages(contents, options, unique)
        if not messages:
            return []
        try:
            if immediately:
                return layer.enqueue_immediately(messages)
            return layer.send_messages(messages, using)
        except SynchronousOnlyOperation as error:
            error.add_note(f"In async code: await Channel({self.name!r}).asend(…), or asend_many(…).")
            raise

    def _messages(self, contents: list[Content], options: dict[str, Any], unique: bool) -> list[Message]:
        if settings.unrouted == "raise":
            check_routed(self.name, self._alias)
        if not unique:
            messages = [Message(self.name, content, **options) for content in contents]
        else:
            messages = [
                Message(self.name, content, id_of_content(self.name, content), **options)
                for content in contents
            ]
        limits = routing_with_limits(self._alias)
        return messages if limits is None else [_placed(message, limits) for message in messages]


def _placed(message: Message, limits: Routing) -> Message:
    """Put a message into its lane, if its route limits how many run at once for a value."""
    place = limits.place_of(message)
    return message if place is None else replace(message, lane=place[0], places=place[1])


def _options(
    delay: float | timedelta | None,
    at: datetime | None,
    expires: float | timedelta | datetime | None,
    priority: int,
    key: str | None,
    lane: Lane | None,
    headers: Content | None,
    attempts: int | None = None,
) -> dict[str, Any]:
    """Return the message fields for the options that were given. Most sends give none, so the others cost nothing."""
    options: dict[str, Any] = {}
    if delay is not None or at is not None:
        options |= _when(delay, at)
    if expires is not None:
        options |= _until(expires)
    if priority != 0 or type(priority) is not int:
        options["priority"] = checked.priority(priority)
    if key is not None:
        options["key"] = checked.label("key", key)
    if lane is not None:
        options |= _in_lane(lane)
    if headers is not None:
        options["headers"] = _check_headers(headers)
    if attempts is not None:
        options["max_attempts"] = checked.whole_number("attempts", attempts)
    return options


def _in_lane(lane: Lane) -> dict[str, Any]:
    if not isinstance(lane, tuple):
        return {"lane": checked.label("lane", lane)}
    if len(lane) != 2:
        raise TypeError(f"lane must be a name, or (name, number of places), not {lane!r}.")
    name, places = lane
    return {
        "lane": checked.label("lane", name),
        "places": checked.whole_number("the places of a lane", places),
    }


def _when(delay: float | timedelta | None, at: datetime | None) -> dict[str, Any]:
    if at is None:
        return {} if delay is None else {"delay": checked.seconds("delay", delay)}
    if delay is not None:
        raise ValueError("Give delay or at, not both.")
    return {"due": aware(checked.moment("at", at)).timestamp()}


def _until(expires: float | timedelta | datetime) -> dict[str, Any]:
    if isinstance(expires, datetime):
        return {"expires": aware(checked.moment("expires", expires)).timestamp()}
    return {"lifetime": checked.seconds("expires", expires)}


def _check_headers(headers: Content) -> Content:
    if not isinstance(headers, dict):
        raise TypeError(f"headers must be a dict, not {type(headers).__name__}.")
    return headers
