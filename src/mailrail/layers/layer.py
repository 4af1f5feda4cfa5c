"""The one layer above a ``Store``: what all layers do alike is written here, once.

Limits are clamped, names qualified, lost claims and lost replies told apart, statistics merged. Sends follow the
transaction of their caller, or wait in the outbox. ``base`` says what the verbs mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import DatabaseError, transaction

from ..errors import LayerUnavailable
from ..messages import (
    ChannelStats,
    Claimed,
    Content,
    Cursor,
    Granted,
    Message,
    MessageSummary,
    Rate,
    State,
    Statement,
    WorkerInfo,
    check_channel_name,
)
from ..namespace import current, owns
from ..pauses import Pause, new_pause
from ..tracebacks import error_class, storable_error
from .base import COUNTED, Capabilities, Lease
from .deferred_sends import DeferredSend, is_in_transaction, with_record
from .history import MINUTE, HistoryRow, Series, TroubleRow
from .lost_replies import UnconfirmedClaims
from .names import names_with
from .store import ClaimCall, ClaimName, Listing, Maintained, RecoversClaims, Settlement, Store, Unconfirmed
from .work_history import WorkHistory

if TYPE_CHECKING:
    from .outbox import Outbox

_ENDS: Mapping[bool, Cursor] = {False: (float("-inf"), UUID(int=0)), True: (float("inf"), UUID(int=0))}
"""Where lists begin: those of the dead go back in time."""


class DurableLayer(Capabilities):
    """Carry out the verbs of ``base``; ``send_messages``, transactions, the outbox and waiting stand around them."""

    #: Alias of the database whose transactions sends follow.
    using: str
    #: Dotted path of the routing, from CONFIG.
    routing: str | None
    #: That of the project, as it was when the layer was made.
    namespace: str
    #: Where sends wait until they are relayed to the layer's server, if it has one and CONFIG asks for it.
    outbox: Outbox | None

    def __init__(self, store: Store, using: str, routing: str | None, prefix: str = "", /) -> None:
        self.using, self.routing = using, routing
        self.namespace, self.outbox = current(), None
        self.may_poll_early, self.has_one_writer = store.may_poll_early, store.has_one_writer
        self._store = store
        self._recoverable = store if isinstance(store, RecoversClaims) else None
        self._waiting = store.waiting
        self._names = names_with(prefix)
        self._work_history = WorkHistory(store, self._names)
        self._unconfirmed = UnconfirmedClaims()

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
            return self._store.insert(self._names.stored(messages), record)
        with with_record(using, record):
            return self.send_messages(messages, using)

    def accept(self, messages: Sequence[Message]) -> list[UUID]:
        """Take in a producer's messages: into the outbox, if there is one; else ``enqueue``. Returns their ids."""
        return self.enqueue(messages) if self.outbox is None else self.outbox.keep(messages)

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        return self._store.insert(self._names.stored(messages))

    def enqueue_immediately(self, messages: Sequence[Message]) -> list[UUID]:
        """Store the messages whatever becomes of the caller's transaction, past the outbox.

        Raises ``WouldDeadlock`` if that would wait for that very transaction.
        """
        return self.enqueue(messages)

    def atomic(self) -> AbstractContextManager[None]:
        """A transaction on the layer's database, in which a consumer runs and ``finish`` is the last statement."""
        raise NotImplementedError(f"{type(self).__name__} keeps no messages in a database.")

    def transaction_aborter(self) -> Callable[[], None]:
        """Inside ``atomic()``: return what aborts that transaction at once, from another thread.

        Needed where others would wait for it (``has_one_writer``). Elsewhere one that is abandoned hinders nobody: the
        ``finish`` at its end finds the claim lost, and undoes it.
        """
        return lambda: None

    # -- claiming -----------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        limits = {channel: room for channel, room in limits.items() if room > 0}
        total = sum(limits.values()) if total is None else total
        if total <= 0:
            limits = {}
        if not limits and not finished:
            return Claimed([], [], [])
        if not isinstance(lease, Mapping):
            lease = dict.fromkeys([*limits, *(claim.channel for claim in finished)], lease)
        call = ClaimCall(worker, limits, lease, finished, total)
        if self._names.prefix:
            call = self._names.call(call)
        claims, lost = self._leased(call, self._recoverable) if self._recoverable else self._store.claim(call)
        self._waiting.fruitless = 0 if claims else self._waiting.fruitless + 1
        if self._names.prefix:
            claims, call.expired = self._names.own(claims), self._names.own(call.expired)
        return Claimed(claims, _named(lost, finished) if lost else [], call.expired)

    def _leased(self, call: ClaimCall, store: RecoversClaims) -> tuple[list[Message], Sequence[ClaimName]]:
        """Claim where a reply may be lost: what earlier calls have leased unheard takes the room of this one."""
        unconfirmed = self._unconfirmed
        call.expired += unconfirmed.take_expired(call.worker)
        try:
            tokens = unconfirmed.tokens(call.worker) if call.limits and unconfirmed.calls else []
            recovered = self._recovered(call, store.recover_claims(call, tokens)) if tokens else None
            claims, lost = recovered or self._store.claim(call)
            if lost and unconfirmed.calls:
                lost = self._really_lost(call, lost)
        except (DatabaseError, LayerUnavailable) as error:  # whatever has this token by now will be recovered
            if getattr(error, "may_have_run", True) or call.finished:
                # Calls to the parts of what is sharded have tokens of their own.
                channels = [] if self.is_sharded else [*call.limits]
                call.unconfirmed.append(Unconfirmed(call.token, call.longest_lease, call.finished, channels))
            unconfirmed.keep_expired(call)
            raise
        finally:
            unconfirmed.note(call)
        return claims, lost

    def _recovered(
        self, call: ClaimCall, claims: list[Message]
    ) -> tuple[list[Message], Sequence[ClaimName]] | None:
        """Return what was found of earlier calls; if there is something, only settle beside it."""
        self._unconfirmed.confirmed(call.worker, call.limits.keys() - {*call.unreached})
        if not claims:
            return None
        try:
            return claims, self._store.settle("finish", call.finished, {}) if call.finished else ()
        except (DatabaseError, LayerUnavailable):
            tokens_now = {claim.token or 0 for claim in claims}
            call.unconfirmed += [Unconfirmed(token, call.longest_lease, (), ()) for token in tokens_now]
            raise

    def _really_lost(self, call: ClaimCall, lost: Sequence[ClaimName]) -> Sequence[ClaimName]:
        """Leave out those that a call of ours has finished whose reply was lost.

        Only for the log: where the store cannot be asked, what was claimed just now is worth more.
        """
        ours = self._unconfirmed.may_have_finished(_named(lost, call.finished))
        try:
            stored = set[UUID]()
            for channel in {m.channel for m in ours}:
                stored |= self._store.existing_ids(channel, [m.id for m in ours if m.channel == channel])
        except (DatabaseError, LayerUnavailable):
            return lost
        gone = {(claim.id, claim.token) for claim in ours if claim.id not in stored}
        return [name for name in lost if name not in gone]

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        channels = {claim.channel for claim in claims}
        leases = {self._names.channel(c): lease[c] if isinstance(lease, Mapping) else lease for c in channels}
        return self._settle("renew", claims, leases=leases)

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        return self._settle("finish", claims)

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._reschedule([claim], delay=delay, alone=alone, error=storable_error(error))

    def release(
        self,
        claims: Sequence[Message],
        delay: float = 0.0,
        lane: str | None = None,
        places: int | None = None,
    ) -> list[Message]:
        return self._reschedule(claims, delay=delay, attempts=-1, lane=lane, places=places)

    def bury(self, claim: Message, error: str) -> list[Message]:
        error = storable_error(error)
        return self._settle("bury", [claim], error=error, error_class=error_class(error))

    def _reschedule(self, claims: Sequence[Message], **values: Any) -> list[Message]:
        unchanged = {"attempts": 0, "alone": False, "error": None, "lane": None, "places": None}
        return self._settle("reschedule", claims, **unchanged | values)

    def _settle(self, settlement: Settlement, claims: Sequence[Message], **values: Any) -> list[Message]:
        """Settle claims. Returns those that were lost, as they were given."""
        if not claims:
            return []
        lost = self._store.settle(settlement, self._names.stored(claims), values)
        return _named(lost, claims) if lost else []

    def poll(self, channels: Sequence[str]) -> float | None:
        if not channels:
            return None
        seconds = self._store.next_due([*map(self._names.channel, channels)])
        return None if seconds is None else max(0.0, seconds)

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        return self._store.take(self._names.qualify(bucket), n, rate)

    def shards(self, channels: Iterable[str]) -> Mapping[DurableLayer, list[str]]:
        """Return these channels by the layer of the server, or node, that has them now.

        A worker claims from each of these layers apart, so that one whose server hangs keeps nobody from the others.
        What a layer returns may change while it runs, as slots of a cluster move. Raises ``LayerUnavailable``.
        """
        return {self: list(channels)}

    def each_host(self) -> Sequence[DurableLayer]:
        """Return a layer for each host that has channels of its own: what holds for all channels can be asked apart."""
        return [self]

    # -- inspection ---------------------------------------------------------------------------------------------

    def list_messages(
        self,
        channels: Sequence[str],
        limit: int,
        state: State | None = None,
        cursor: Cursor | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        begin = cursor or _ENDS[state == "dead"]
        listing = Listing([*map(self._names.channel, channels)], limit, state, begin, error_class)
        return self._names.own(self._store.page(listing))

    def get(self, channel: str, ids: Iterable[UUID], dead: bool = False) -> list[Message]:
        wanted = [*dict.fromkeys(ids)]
        rows = self._store.read(self._names.channel(channel), wanted, dead) if wanted else ()
        messages = {message.id: message for message in self._names.own(rows)}
        return [messages[id] for id in wanted if id in messages]

    def existing_ids(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        wanted = [*dict.fromkeys(ids)]
        in_outbox = self.outbox.existing_ids(wanted) if self.outbox else set()  # first, as it moves here
        return in_outbox | self._store.existing_ids(self._names.channel(channel), wanted)

    def list_channels(self) -> list[str]:
        names = {name for name in self._store.channels() if owns(name, self._names.prefix)}
        return sorted(map(self._names.bare, names))

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        return sorted({*self._store.error_classes([*map(self._names.channel, channels)])})

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        counts = self._store.count(most)
        stats: dict[str, ChannelStats] = {}
        for name in sorted({*counts.live, *counts.dead, *counts.paused}):
            if not owns(name, self._names.prefix):
                continue
            ready, scheduled, claimed, oldest = counts.live.get(name, (0, 0, 0, None))
            dead, oldest = counts.dead.get(name, 0), oldest if ready else None
            stats[self._names.bare(name)] = ChannelStats(
                ready, scheduled, claimed, dead, oldest, counts.paused.get(name)
            )
        return stats

    def paused(self) -> dict[str, Pause]:
        """Return the channels that are paused, without counting anything."""
        pauses = self._store.count(0).paused.items()
        return {self._names.bare(name): pause for name, pause in pauses if owns(name, self._names.prefix)}

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._store.move("cancel", self._names.channel(channel), [*dict.fromkeys(ids)])

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._store.move("requeue", self._names.channel(channel), [*dict.fromkeys(ids)])

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        return self._store.move("discard", self._names.channel(channel), [*dict.fromkeys(ids)])

    def pause(self, channel: str, by: str = "", reason: str = "") -> None:
        self._store.pause(self._names.channel(check_channel_name(channel)), new_pause(by, reason))

    def resume(self, channel: str) -> None:
        self._store.pause(self._names.channel(channel), None)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        self._work_history.heartbeat(worker, info)

    def workers(self, lost: bool = False) -> list[WorkerInfo]:
        return self._work_history.workers(lost)

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow] = ()) -> None:
        self._work_history.record(rows, troubles)

    def history(self, series: Series, since: float, until: float, step: int = MINUTE) -> list[HistoryRow]:
        return self._work_history.history(series, since, until, step)

    def recent(self, since: float) -> dict[Series, HistoryRow]:
        return self._work_history.recent(since)

    def troubles(self, since: float = 0.0, limit: int = 100) -> list[TroubleRow]:
        return self._work_history.troubles(since, limit)

    def prune_history(self) -> None:
        self._work_history.prune_history()

    def maintain(self) -> None:
        """Set right what was left behind, and merge or forget old history; workers call it once a minute."""
        if isinstance(self._store, Maintained):
            self._store.maintain()
        self.prune_history()

    def concerns(self) -> list[str]:
        """Return what of the storage's own settings may lose messages, in words; asks the storage.

        Raises ``LayerUnavailable``, and ``InvalidSettings`` for a storage that cannot be used at all.
        """
        return []

    def unreadable(self) -> list[str]:
        """Return what is stored and cannot be read, in words, besides what is among the dead for it; asks the storage.

        Raises ``LayerUnavailable``.
        """
        return []

    def advance_time(self, seconds: float) -> None:
        """Move every stored time back, as if so many seconds had passed. For tests."""
        self._store.advance_time(seconds)
        self.wake()

    # -- waiting ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make every ``wait`` of this process return: something happened that it cannot see."""
        self._waiting.wake()

    @property
    def wakes(self) -> int:
        """How often ``wake`` was called. Read it before looking for work, give it to ``wait`` after."""
        return self._waiting.wakes

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        """Return when something may be due, after ``wake``, or after ``timeout`` seconds.

        Spurious and late returns are possible. ``seen``: the ``wakes`` at which the caller last looked; a wake since
        then returns at once.
        """
        seen = self._waiting.wakes if seen is None else seen
        self._waiting.wait(self.poll, channels, timeout, seen)

    def stop_listening(self) -> None:
        """Give up what ``wait`` keeps open (threads, connections); the next ``wait`` opens it again."""
        self._waiting.close()

    # -- from async code ----------------------------------------------------------------------------------------

    async def acall(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Run one of the verbs from async code: ``await layer.acall("stats")``."""
        return await sync_to_async(getattr(self, verb))(*args, **kwargs)


def _named(names: Iterable[ClaimName], claims: Sequence[Message]) -> list[Message]:
    """Return those of the claims that have these names, each once."""
    wanted, given = set(names), {(claim.id, claim.token): claim for claim in claims}
    return [claim for name, claim in given.items() if name in wanted]
