"""The database layer of a project that shares its tables with others: ``MAILRAIL["NAMESPACE"]``.

Every verb qualifies the names of channels, buckets and workers on their way into the vendor's layer, and gives bare
ones back. So the vendors' layers, and whoever uses this one, know nothing of namespaces. Projects without one pay
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from uuid import UUID

from ..messages import (
    ChannelStats,
    Claimed,
    Content,
    DeadMessage,
    Granted,
    Message,
    MessageSummary,
    Place,
    Rate,
    Statement,
    WorkerInfo,
    check_channel_name,
)
from ..namespace import Qualified, prefix
from .base import COUNTED, Lease
from .database import DatabaseChannelLayer, class_for
from .inspection import Waiting


class NamespacedLayer(DatabaseChannelLayer):
    """What ``DatabaseChannelLayer`` is in a project with a namespace: the vendor's layer, under other names."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.prefix = prefix()
        self._stored: DatabaseChannelLayer = class_for(self.using)(using=self.using)
        self._stored.prefix = self.prefix
        # What classes say of themselves elsewhere depends on the vendor here.
        self.__dict__.update(
            may_poll_early=self._stored.may_poll_early, has_one_writer=self._stored.has_one_writer
        )

    # -- names --------------------------------------------------------------------------------------------------

    def _name(self, bare: str) -> str:
        """Return the stored name of a bucket or a worker."""
        return Qualified(self.prefix + bare)

    def _channel(self, bare: str) -> str:
        """Return the stored name of a channel. Raises ``ValueError`` for what is no name."""
        return Qualified(self.prefix + check_channel_name(bare))

    def _channels(self, bare: Iterable[str]) -> list[str]:
        return [self._channel(name) for name in bare]

    def _bare(self, stored: str) -> str:
        return stored[len(self.prefix) :]

    def _into(self, messages: Iterable[Message]) -> list[Message]:
        return [replace(message, channel=self._channel(message.channel)) for message in messages]

    def _message(self, stored: Message) -> Message:
        worker = None if stored.worker is None else self._bare(stored.worker)
        return replace(stored, channel=self._bare(stored.channel), worker=worker)

    def _messages(self, stored: Iterable[Message]) -> list[Message]:
        return [self._message(message) for message in stored]

    def _dead(self, stored: DeadMessage) -> DeadMessage:
        return replace(stored, message=self._message(stored.message))

    def _summary(self, stored: MessageSummary) -> MessageSummary:
        worker = None if stored.worker is None else self._bare(stored.worker)
        return replace(stored, channel=self._bare(stored.channel), worker=worker)

    def _lease(self, lease: Lease) -> Lease:
        if not isinstance(lease, Mapping):
            return lease
        return {self._channel(channel): seconds for channel, seconds in lease.items()}

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        return self._stored.enqueue(self._into(messages))

    def _enqueue_with(self, record: Statement, messages: Sequence[Message]) -> list[UUID]:
        return self._stored._enqueue_with(record, self._into(messages))

    def check_immediately(self) -> None:
        self._stored.check_immediately()

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        return self._stored.enqueue_immediately(self._into(messages))

    def atomic(self) -> AbstractContextManager[None]:
        return self._stored.atomic()

    def breaker(self) -> Callable[[], None]:
        return self._stored.breaker()

    # -- working ------------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        rooms = {self._channel(channel): room for channel, room in limits.items()}
        found = self._stored.claim(self._name(worker), rooms, self._lease(lease), self._into(finished), total)
        claims, lost, expired = found
        return Claimed(self._messages(claims), _given(lost, finished), self._messages(expired))

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        return _given(self._stored.renew(self._into(claims), self._lease(lease)), claims)

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        return _given(self._stored.finish(self._into(claims)), claims)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        [stored] = self._into([claim])
        return _given(self._stored.retry(stored, delay, error, alone), [claim])

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return _given(self._stored.release(self._into(claims), delay), claims)

    def bury(self, claim: Message, error: str) -> list[Message]:
        [stored] = self._into([claim])
        return _given(self._stored.bury(stored, error), [claim])

    def poll(self, channels: Sequence[str]) -> float | None:
        return self._stored.poll(self._channels(channels))

    # -- operations ---------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._stored.cancel(self._channel(channel), ids)

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        return self._messages(self._stored.waiting(self._channel(channel), limit))

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        return self._stored.known(self._channel(channel), ids)

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        return [self._dead(each) for each in self._stored.dead(self._channel(channel), limit, before)]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._stored.requeue(self._channel(channel), ids)

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._stored.discard(self._channel(channel), ids)

    def pause(self, channel: str) -> None:
        self._stored.pause(self._channel(channel))

    def resume(self, channel: str) -> None:
        self._stored.resume(self._channel(channel))

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        return self._stored.take(self._name(bucket), n, rate)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        self._stored.heartbeat(self._name(worker), info)

    def workers(self) -> list[WorkerInfo]:
        return [replace(worker, id=self._bare(worker.id)) for worker in self._stored.workers()]

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        return {self._bare(channel): stats for channel, stats in self._stored.stats(most).items()}

    def concerns(self) -> list[str]:
        return self._stored.concerns()

    def unreadable(self) -> list[str]:
        return self._stored.unreadable()

    def shift(self, seconds: float) -> None:
        self._stored.shift(seconds)

    # -- inspection ------------------------------------------------------------------------------------------------

    def list_channels(self) -> list[str]:
        return [self._bare(channel) for channel in self._stored.list_channels()]

    def list_waiting(
        self,
        channels: Sequence[str],
        limit: int,
        after: Place | None = None,
        state: Waiting | None = None,
    ) -> list[MessageSummary]:
        found = self._stored.list_waiting(self._channels(channels), limit, after, state)
        return [self._summary(each) for each in found]

    def list_dead(
        self,
        channels: Sequence[str],
        limit: int,
        before: Place | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        found = self._stored.list_dead(self._channels(channels), limit, before, error_class)
        return [self._summary(each) for each in found]

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return self._stored.error_classes(self._channels(channels))

    def get(self, channel: str, id: UUID) -> Message | None:
        found = self._stored.get(self._channel(channel), id)
        return found and self._message(found)

    def get_dead(self, channel: str, id: UUID) -> DeadMessage | None:
        found = self._stored.get_dead(self._channel(channel), id)
        return found and self._dead(found)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        self._stored.wake()

    @property
    def wakes(self) -> int:
        return self._stored.wakes

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        self._stored.wait(self._channels(channels), timeout, seen)

    def _change(self) -> object:
        return self._stored._change()

    def stop_listening(self) -> None:
        self._stored.stop_listening()


def _given(lost: Iterable[Message], claims: Iterable[Message]) -> list[Message]:
    """Return the lost ones of these claims, as the caller has them."""
    names = {(message.id, message.token) for message in lost}
    found = {(claim.id, claim.token): claim for claim in claims}
    return [claim for name, claim in found.items() if name in names] if names else []
