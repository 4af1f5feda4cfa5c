"""Sends that wait for the commit of a transaction the layer itself knows nothing of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import connections, transaction

from ..errors import LayerUnavailable
from ..messages import Message, Statement, decode, encode

if TYPE_CHECKING:
    from .base import DurableLayer


class DeferredSend:
    """A send that waits for the commit of a transaction. Holds a copy: the sender may change its dictionary."""

    def __init__(self, layer: DurableLayer, messages: Sequence[Message]) -> None:
        self.layer = layer
        self.messages = [_snapshot(message) for message in messages]

    def __call__(self) -> None:
        """After the commit; raises ``LayerUnavailable`` to whoever committed, as nobody else knows of the messages."""
        try:
            self.layer.accept(self.messages)
        except LayerUnavailable as error:
            raise LayerUnavailable(_committed(self.messages, error)) from error
        self.messages = []  # a TestCase that runs its hooks keeps them, too


def send_with(
    layer: DurableLayer,
    messages: Sequence[Message],
    using: str | None = None,
    record: Statement | None = None,
) -> list[UUID]:
    """Send with the transaction of the database ``using`` (default: the layer's): inside it, or after its commit.

    ``record``: stored in that database first, in the same transaction.
    """
    using = using or layer.using
    if record is not None:
        return _store_and_send(layer, messages, using, record)
    if (layer.joins_transactions and using == layer.using) or not _in_transaction(using):
        return layer.accept(messages)
    transaction.on_commit(DeferredSend(layer, messages), using=using)
    return [message.id for message in messages]


def _store_and_send(
    layer: DurableLayer, messages: Sequence[Message], using: str, record: Statement
) -> list[UUID]:
    if layer.joins_transactions and using == layer.using and layer.outbox is None:
        return layer._enqueue_with(record, messages)
    with transaction.atomic(using, savepoint=False):
        with connections[using].cursor() as cursor:
            cursor.execute(*record)
        return send_with(layer, messages, using)


def _committed(messages: Sequence[Message], error: LayerUnavailable) -> str:
    what = f"message {messages[0].id}" if len(messages) == 1 else f"{len(messages):,} messages"
    return (
        f"The transaction is committed, but {what} for channel {messages[0].channel!r} could not be sent after it: "
        f"{error}"
    )


def _snapshot(message: Message) -> Message:
    content, headers, _ = decode(encode(message.content), encode(message.headers, "headers"), message.v)
    return replace(message, content=content, headers=headers)


def _in_transaction(using: str) -> bool:
    connection = connections[using]
    # Not get_autocommit(): it would connect, which a test without a database must not.
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)
