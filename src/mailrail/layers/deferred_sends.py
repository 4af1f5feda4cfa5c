"""Sends that wait for the commit of a transaction that their layer is no part of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from django.db import connections, transaction

from ..errors import LayerUnavailable
from ..messages import Message, Statement, decode, encode

if TYPE_CHECKING:
    from .layer import DurableLayer


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


@contextmanager
def with_record(using: str, record: Statement) -> Iterator[None]:
    """Execute a statement on this database, and commit it together with what the block does there: both, or none."""
    with transaction.atomic(using, savepoint=False):
        with connections[using].cursor() as cursor:
            cursor.execute(*record)
        yield


def is_in_transaction(using: str) -> bool:
    """Tell whether the calling thread has a transaction open on this database."""
    connection = connections[using]
    # Not get_autocommit(): it would connect, which a test without a database must not.
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def _committed(messages: Sequence[Message], error: LayerUnavailable) -> str:
    name = f"message {messages[0].id}" if len(messages) == 1 else f"{len(messages):,} messages"
    return (
        f"The transaction is committed, but {name} for channel {messages[0].channel!r} could not be sent after it: "
        f"{error}"
    )


def _snapshot(message: Message) -> Message:
    content, headers, _ = decode(encode(message.content), encode(message.headers, "headers"), message.v)
    return replace(message, content=content, headers=headers)
