"""The contract of a layer: what every one of them can do, and what the verbs mean.

A layer is a Channels 4 channel layer (``channels_bridge``) plus the durable verbs for named channels
(``DurableLayer``). The verbs are synchronous, so that a send joins the transaction of its caller; ``acall`` runs any of
them from async code.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction

from ..messages import (
    ChannelStats,
    Claimed,
    Content,
    DeadMessage,
    Granted,
    Message,
    Rate,
    Statement,
    WorkerInfo,
)
from ..namespace import current
from .deferred_sends import DeferredSend, is_in_transaction
from .inspection import Inspection

Lease: TypeAlias = float | Mapping[str, float]
"""Seconds for all claims, or seconds per channel."""

COUNTED = 10_000
"""Messages of a kind and a channel that ``stats`` counts; where counting takes long, more are estimated."""
WORKER_FORGOTTEN_AFTER = 60.0
"""Seconds of silence after which a worker is no longer listed."""


def lease_for(channel: str, lease: Lease) -> float:
    return lease[channel] if isinstance(lease, Mapping) else lease


class SendBuffer(Protocol):
    """Where sends wait, in a database, until they are relayed to the layer's server; ``outbox.Outbox`` is one."""

    @property
    def channel(self) -> str:
        """The channel of ``store`` on which they wait."""

    @property
    def store(self) -> DurableLayer:
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


class DurableLayer(Inspection):
    """The durable verbs; ``Inspection`` has those that only read. All of them are safe to call from several threads."""

    # Do messages survive the end of this process?
    is_durable: ClassVar[bool]
    # Do other processes see the same messages?
    is_shared: ClassVar[bool]
    # Can a consumer's own writes and its finish commit together (route(…, atomic=True))?
    supports_atomic: ClassVar[bool] = False

    # Does ``poll`` take messages behind others of their lane for due until a claim has looked?
    may_poll_early: ClassVar[bool] = False

    # Does one open transaction keep everybody else from writing?
    has_one_writer: ClassVar[bool] = False

    #: Does one claim put the messages of several channels in order among each other? Else channels take turns.
    orders_channels: bool = True
    #: Can some channels be out of reach while others are not? Then these go on.
    is_sharded: bool = False
    #: Alias of the database whose transactions sends follow.
    using: str
    #: Dotted path of the routing, from CONFIG.
    routing: str | None
    #: Is that database also where sends are written (messages, or the outbox), so that they are inside the transaction?
    joins_transactions: bool = False
    #: That of the project, as it was when the layer was made.
    namespace: str
    #: Where sends wait until they are relayed to the layer's server, if it has one and CONFIG asks for it.
    outbox: SendBuffer | None = None

    # -- sending ------------------------------------------------------------------------------------------------

    def send_messages(self, messages: Sequence[Message], using: str | None = None) -> list[UUID]:
        """Send with the transaction of the database ``using`` (default: the layer's): inside it, or after its commit.

        Returns the messages' ids, in order.
        """
        using = using or self.using
        if (self.joins_transactions and using == self.using) or not is_in_transaction(using):
            return self.accept(messages)
        transaction.on_commit(DeferredSend(self, messages), using=using)
        return [message.id for message in messages]

    def send_with_record(
        self, record: Statement, messages: Sequence[Message], using: str | None = None
    ) -> list[UUID]:
        """``send_messages``, and before it a statement for the database ``using``: both, or none."""
        using = using or self.using
        if self.joins_transactions and using == self.using and self.outbox is None:
            return self._enqueue_with(record, messages)
        with transaction.atomic(using, savepoint=False):
            with connections[using].cursor() as cursor:
                cursor.execute(*record)
            return self.send_messages(messages, using)

    @abstractmethod
    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        """Store the messages: all or none per channel. Returns their ids, in order.

        A repeat of an id is harmless while the first is waiting or claimed, and runs again after it finished. A message
        is not stored if its ``key`` waits on its channel already and has not started. The id of the waiting twin is
        returned, with the earlier ``due`` and the later ``expires`` of the two.
        """

    def _enqueue_with(self, record: Statement, messages: Sequence[Message]) -> list[UUID]:
        """``enqueue``, and before it a statement for the layer's database: both, or none.

        Only where the layer joins transactions.
        """
        with transaction.atomic(self.using, savepoint=False):
            with connections[self.using].cursor() as cursor:
                cursor.execute(*record)
            return self.enqueue(messages)

    def accept(self, messages: Sequence[Message]) -> list[UUID]:
        """Take in a producer's messages: into the outbox, if there is one; else ``enqueue``. Returns their ids."""
        return self.enqueue(messages) if self.outbox is None else self.outbox.keep(messages)

    @abstractmethod
    def check_immediately(self) -> None:
        """Raise ``WouldDeadlock`` if ``enqueue`` outside the caller's transaction would wait for that very one."""

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        """Store the messages whatever becomes of the caller's transaction, past the outbox."""
        self.check_immediately()
        return self.enqueue(messages)

    def atomic(self) -> AbstractContextManager[None]:
        """A transaction on the layer's database, in which a consumer runs and ``finish`` is the last statement."""
        raise NotImplementedError(f"{type(self).__name__} keeps no messages in a database.")

    def breaker(self) -> Callable[[], None]:
        """Inside ``atomic()``: returns what undoes that transaction at once, from another thread.

        Needed where others would wait for it (``has_one_writer``). Elsewhere one that is abandoned hinders nobody: the
        ``finish`` at its end finds the claim lost, and undoes it.
        """
        return lambda: None

    # -- working ------------------------------------------------------------------------------------------------

    @abstractmethod
    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        """Settle ``finished``, then lease what is due: at most ``limits[channel]`` each and ``total`` in all.

        Highest priority first, then oldest due; within each channel only where ``orders_channels`` is false.
        ``attempt`` is raised by one; re-claiming a lease that lapsed unsettled leaves it and raises ``losses``
        instead. Ids in ``finished`` are never leased by the same call.
        Expired messages are dropped and reported.
        """

    @abstractmethod
    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        """Push the end of the leases to ``lease`` seconds from now. Returns the claims that were lost.

        A lease of 0 gives up: the message lapses at once, and is a loss when it is claimed again.
        """

    @abstractmethod
    def finish(self, claims: Sequence[Message]) -> list[Message]:
        """Done: the messages are gone. Returns the claims that were lost (and so were not finished)."""

    @abstractmethod
    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        """Again, ``delay`` seconds from now; ``alone``: not in a batch with others. Returns what was lost.

        ``error`` is kept with the message until the next one, or its end: ``get`` and ``list_waiting`` tell it.
        """

    @abstractmethod
    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        """Give the messages back untouched, the attempt too. Returns the claims that were lost."""

    @abstractmethod
    def bury(self, claim: Message, error: str) -> list[Message]:
        """Keep the message among the dead, with the reason. Returns what was lost."""

    @abstractmethod
    def poll(self, channels: Sequence[str]) -> float | None:
        """Seconds until something is due (0: now; ``None``: nothing in sight). Cheap; writes nothing.

        Never later than the truth. Earlier, at most until the next ``claim``, where ``may_poll_early``.
        """

    def shards(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        """Return these channels by the layer of the server, or node, that has them now.

        A worker claims from each of these layers apart, so that one whose server hangs keeps nobody from the others.
        What a layer returns may change while it runs, as slots of a cluster move. Raises ``LayerUnavailable``.
        """
        return {self: list(channels)}

    # -- operations ---------------------------------------------------------------------------------------------

    @abstractmethod
    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Remove messages that nobody has claimed. Returns the ids that were removed."""

    @abstractmethod
    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        """The messages on a channel that nobody has claimed, soonest due first."""

    @abstractmethod
    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        """Which of these messages of a channel wait, are claimed, or are dead. By id, so cheap."""

    @abstractmethod
    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        """The dead messages of a channel, last buried first; ``before``: the page after that one."""

    @abstractmethod
    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Send dead messages again, with all their attempts, no expiry, and at the tail of their lane.

        One that died of losses keeps one, so that it still runs in a process of its own. Returns the ids found.
        """

    @abstractmethod
    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Forget dead messages. Returns the ids found."""

    @abstractmethod
    def pause(self, channel: str) -> None:
        """Let nobody claim from this channel; what is claimed goes on, sends are kept."""

    @abstractmethod
    def resume(self, channel: str) -> None:
        """Undo ``pause``."""

    @abstractmethod
    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        """Take up to ``n`` tokens of a bucket that all workers share (``n`` below zero gives back).

        The bucket holds ``rate.count`` tokens, is full at first, and gains ``rate.count`` every ``rate.seconds``.
        """

    @abstractmethod
    def heartbeat(self, worker: str, info: Content | None) -> None:
        """A sign of life, with what others may want to know; ``None`` says goodbye."""

    @abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The workers that gave a sign of life in the last minute."""

    @abstractmethod
    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        """How each channel stands that holds a message or is paused. Numbers above ``most`` may be estimates."""

    def concerns(self) -> list[str]:
        """What of the storage's own settings may lose messages, in words; asks the storage.

        Raises ``LayerUnavailable``, and ``InvalidSettings`` for a storage that cannot be used at all.
        """
        return []

    def unreadable(self) -> list[str]:
        """What is stored and cannot be read, in words, besides what is among the dead for it; asks the storage.

        Raises ``LayerUnavailable``.
        """
        return []

    @abstractmethod
    def shift(self, seconds: float) -> None:
        """Move every stored time back, as if so many seconds had passed. For tests."""

    # -- waiting ------------------------------------------------------------------------------------------------

    #: Seconds between looks at what other processes did.
    poll_interval: ClassVar[float] = 0.02

    def __init__(self) -> None:
        self.namespace = current()
        self._waking = threading.Condition()
        self._wakes = 0

    def wake(self) -> None:
        """Make every ``wait`` of this process return: something happened that it cannot see."""
        with self._waking:
            self._wakes += 1
            self._waking.notify_all()

    @property
    def wakes(self) -> int:
        """How often ``wake`` was called. Read it before looking for work, give it to ``wait`` after."""
        return self._wakes

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        """Return when something may be due, after ``wake``, or after ``timeout`` seconds. May lie both ways.

        ``seen``: the ``wakes`` at which the caller last looked; a wake since then returns at once.
        """
        seen = self._wakes if seen is None else seen
        deadline = time.monotonic() + timeout
        changed = self._change()
        due_at = self._due_at(channels)
        while (left := min(deadline, due_at) - time.monotonic()) > 0:
            with self._waking:
                if self._waking.wait_for(lambda: self._wakes != seen, min(left, self.poll_interval)):
                    return
            if self._change() != changed:
                changed, due_at = self._change(), self._due_at(channels)

    def _due_at(self, channels: Sequence[str]) -> float:
        soon = self.poll(channels)
        return float("inf") if soon is None else time.monotonic() + soon

    def _change(self) -> object:
        """Something that differs after another process changed what is stored. Must cost microseconds.

        Layers with a ``wait`` of their own need none.
        """
        raise NotImplementedError

    def stop_listening(self) -> None:
        """Give up what ``wait`` keeps open (threads, connections); the next ``wait`` opens it again."""

    # -- from async code ----------------------------------------------------------------------------------------

    async def acall(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Run one of the verbs from async code: ``await layer.acall("stats")``."""
        return await sync_to_async(getattr(self, verb))(*args, **kwargs)
