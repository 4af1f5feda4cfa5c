"""The contract of a layer: what every one of them can do, and what the verbs mean.

A layer is a Channels 4 channel layer (``channels_bridge``) plus the durable verbs for named channels: ``Send``,
``Claim`` and ``Inspect``. ``layer.DurableLayer`` has them all, above a ``Store`` for each technology (``store``). The
verbs are synchronous, so that a send joins the transaction of its caller. All are safe to call from several threads.

A worker that dies settles nothing. So the leases of its claims lapse, and the next ``claim`` takes the messages with
the same attempt and one loss more. After so many losses as its route allows, the worker buries such a message
(``worker.consume.precheck``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

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
    WorkerInfo,
)
from .history import MINUTE, HistoryRow, Series, TroubleRow

Lease: TypeAlias = float | Mapping[str, float]
"""Seconds for all claims, or seconds per channel."""

COUNTED = 10_000
"""Messages of a kind and a channel that ``stats`` counts; where counting takes long, more are estimated."""


class Send(Protocol):
    """Store messages."""

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        """Store the messages: all or none per channel. Returns their ids, in order.

        A repeat of an id is harmless while the first is waiting or claimed, and runs again after it finished. A message
        is not stored if its ``key`` waits on its channel already and has not started. The id of the one that waits is
        returned, with the earlier ``due`` and the later ``expires`` of the two.
        """


class Claim(Protocol):
    """Lease messages, and settle them. The token of a claim alone decides whether it still may settle."""

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
        instead. Ids in ``finished`` are never leased by the same call. Expired messages are dropped and reported.
        """

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        """Push the end of the leases to ``lease`` seconds from now. Returns the claims that were lost.

        A lease of 0 gives up: the message lapses at once, and is a loss when it is claimed again.
        """

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        """Remove the messages: they are done. Returns the claims that were lost, and so were not finished.

        In a transaction of the caller, make this its last statement, and ``retry``, ``release`` and ``bury`` likewise.
        On PostgreSQL they lock a lane with several places until the transaction ends.
        """

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        """Run it again, ``delay`` seconds from now; ``alone``: not in a batch with others. Returns what was lost.

        ``error`` is kept with the message until the next one, or its end: ``get`` and ``list_messages`` tell it.
        """

    def release(
        self,
        claims: Sequence[Message],
        delay: float = 0.0,
        lane: str | None = None,
        places: int | None = None,
    ) -> list[Message]:
        """Give the messages back untouched, the attempt too. Returns the claims that were lost.

        ``lane`` with ``places``: messages of no lane are of that one from now on.
        """

    def bury(self, claim: Message, error: str) -> list[Message]:
        """Keep the message among the dead, with the reason. Returns what was lost."""

    def poll(self, channels: Sequence[str]) -> float | None:
        """Return the seconds until something is due (0: now; ``None``: nothing in sight). Cheap; writes nothing.

        Never later than the truth. Earlier, at most until the next ``claim``, where ``may_poll_early``.
        """

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        """Take up to ``n`` tokens of a bucket that all workers share (``n`` below zero gives back).

        The bucket holds ``rate.count`` tokens, is full at first, and gains ``rate.count`` every ``rate.seconds``.
        """


class Inspect(Protocol):
    """Look at what is stored and who works; change it as people ask.

    Lists count nothing, and read only a part of long contents and errors. So a page costs the same whatever there is.
    ``channels``: those to look at, at most a few hundred at once.
    """

    def list_messages(
        self,
        channels: Sequence[str],
        limit: int,
        state: State | None = None,
        cursor: Cursor | None = None,
        error_class: str | None = None,
    ) -> list[MessageSummary]:
        """List messages behind ``cursor``: those that wait or are claimed, soonest due first.

        ``state``: only those that are ready (due, a lapsed lease among them), scheduled (not due yet), or claimed.
        Claims are looked for among the next ``WINDOW`` due of all channels, where no index has them. Or the dead, last
        buried first; ``error_class``: only those that died of it (``tracebacks.error_class``).
        """

    def get(self, channel: str, ids: Iterable[UUID], dead: bool = False) -> list[Message]:
        """Return the messages with these ids, whole: those that wait or are claimed, or the dead. In this order."""

    def existing_ids(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        """Return which of these messages of a channel wait, are claimed, or are dead. By id, so cheap."""

    def list_channels(self) -> list[str]:
        """Return the channels that hold a message, dead ones too, or are paused; perhaps some that did lately."""

    def error_classes(self, channels: Sequence[str]) -> list[str]:
        """Return what the dead messages of these channels died of, each once, sorted; ``""``: it was no exception."""

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        """Count each channel that holds a message or is paused. Numbers above ``most`` may be estimates."""

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Remove messages that nobody has claimed. Returns the ids that were removed."""

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Send dead messages again, with all their attempts, no expiry, and at the tail of their lane.

        One that died of losses keeps one, so that it still runs in a process of its own. Returns the ids found.
        """

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        """Forget dead messages. Returns the ids found."""

    def pause(self, channel: str, by: str = "", reason: str = "") -> None:
        """Let nobody claim from this channel; what is claimed goes on, sends are kept.

        ``by`` (at most 200 characters) and ``reason`` (1,000) are for people. A channel that is paused stays paused
        since then, by whom and why; another call that gives a reason replaces ``by`` and ``reason``.
        """

    def resume(self, channel: str) -> None:
        """Undo ``pause``."""

    def heartbeat(self, worker: str, info: Content | None) -> None:
        """Give a worker's sign of life, with what others may want to know; ``None`` deregisters it."""

    def workers(self, lost: bool = False) -> list[WorkerInfo]:
        """Return the workers that gave a sign of life in the last minute, by id.

        ``lost``: with those that have not, and those that were killed, for ten minutes. Who stops leaves the list.
        """


class Record(Protocol):
    """Keep what workers did, by series, and what went wrong (``history``). Moments are Unix seconds."""

    def record(self, rows: Sequence[HistoryRow], troubles: Sequence[TroubleRow] = ()) -> None:
        """Add counts to the minutes of series, and to groups of troubles. Do not repeat what may have been stored."""

    def history(self, series: Series, since: float, until: float, step: int = MINUTE) -> list[HistoryRow]:
        """Sum up a series in steps of so many seconds, oldest first, without steps in which nothing happened.

        The first step contains ``since``. Of what is older than two days only hours are known, so a smaller ``step``
        finds all of an hour in its first step. Raises ``ValueError`` for a step that is no number of whole minutes.
        """

    def recent(self, since: float) -> dict[Series, HistoryRow]:
        """Sum up the minutes from that of ``since`` on, of each series in which something happened.

        Histograms are left out, as rates need none, and somebody may ask every second. So are minutes that have not
        begun: they were counted before the storage's clock was set back.
        """

    def troubles(self, since: float = 0.0, limit: int = 100) -> list[TroubleRow]:
        """Return the groups of what went wrong that have grown since then, last one first."""

    def prune_history(self) -> None:
        """Merge old minutes into hours, and forget what is older than ``MAILRAIL["HISTORY"]``.

        Workers call it once a minute, several at once.
        """


class Capabilities:
    """Say what a layer can do; each assigns what differs."""

    # Do messages survive the end of this process?
    is_durable: bool = False
    # Do other processes see the same messages?
    is_shared: bool = False
    # Can a consumer's own writes and its finish commit together (route(…, atomic=True))?
    supports_atomic: bool = False
    # Is `using` also where sends are written (messages, or the outbox), so that they are inside its transactions?
    joins_transactions: bool = False
    # Does ``poll`` take messages behind others of their lane for due until a claim has looked?
    may_poll_early: bool = False
    # Does one open transaction keep everybody else from writing?
    has_one_writer: bool = False
    # Does one claim put the messages of several channels in order among each other? Else channels take turns.
    orders_channels: bool = True
    # Can some channels be out of reach while others are not? Then `shards` takes the layer apart.
    is_sharded: bool = False
