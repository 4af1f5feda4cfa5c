"""Sends that wait for the commit of a transaction that their layer is no part of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from django.db import connections, transaction

from ..errors import LayerUnavailable
from ..messages import ChannelStats, Message, Statement, decode, encode


class Accepting(Protocol):
    """A layer, as far as this module knows it."""

    def accept(self, messages: Sequence[Message]) -> list[UUID]:
        """Take in a producer's messages, and return their ids."""


class SendBuffer(Protocol):
    """Where sends wait, in a database, until they are relayed to the layer's server; ``outbox.Outbox`` is one."""

    @property
    def channel(self) -> str:
        """The channel of ``store`` on which they wait."""

    @property
    def store(self) -> Any:
        """The database layer that keeps them."""

    @property
    def is_due(self) -> bool:
        """Tell whether something may have to be relayed. Costs microseconds."""

    def keep(self, messages: Sequence[Message]) -> list[UUID]:
        """Store messages in the caller's transaction, and return their ids."""

    def relay(self, most: int | None = None) -> int:
        """Pass messages on to the server, and return how many."""

    def waiting(self, channel: str, limit: int) -> list[Message]:
        """Return what waits for a channel."""

    def known(self, ids: Iterable[UUID]) -> set[UUID]:
        """Return which of these messages wait."""

    def stats(self) -> Mapping[str, ChannelStats]:
        """Return how many messages wait for each channel."""


class DeferredSend:
    """A send that waits for the commit of a transaction. Holds a copy: the sender may change its dictionary."""

    def __init__(self, layer: Accepting, messages: Sequence[Message]) -> None:
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
    what = f"message {messages[0].id}" if len(messages) == 1 else f"{len(messages):,} messages"
    return (
        f"The transaction is committed, but {what} for channel {messages[0].channel!r} could not be sent after it: "
        f"{error}"
    )


def _snapshot(message: Message) -> Message:
    content, headers, _ = decode(encode(message.content), encode(message.headers, "headers"), message.v)
    return replace(message, content=content, headers=headers)
