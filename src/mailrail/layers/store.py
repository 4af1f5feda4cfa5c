"""What a technology has to do to carry messages: a ``Store``, with the 16 primitives that a layer stands on.

One for another server implements these, and says how its workers wait (``waiting``). Where replies may be lost,
``RecoversClaims`` adds one. One for another database is a ``DatabaseStore``, which has two more, and gets a branch in
``database.store_of``. ``layer.DurableLayer`` has the rest, once for all. Names that arrive here are qualified by the
project's namespace. Ids are given once each, and never none. Errors of the database or server are raised as they are,
or as ``LayerUnavailable``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

from ..messages import Content, Cursor, Granted, Message, MessageSummary, Rate, State, Statement, new_token
from ..pauses import Pause
from .history import HistoryStore
from .waiting import WaitStrategy

ClaimName: TypeAlias = tuple[UUID, int | None]
"""Id and token of a claim."""
Settlement: TypeAlias = Literal["renew", "finish", "reschedule", "bury"]
Move: TypeAlias = Literal["cancel", "requeue", "discard"]

WORKER_FORGOTTEN_AFTER = 600.0
"""Seconds of silence after which nobody knows of a worker any more."""
WORKER_LOST_AFTER = 60.0
"""Seconds of silence after which a worker does not count as living."""
PREVIEW_LENGTH = 500
"""Characters of a content that lists read; bytes, on Redis."""
ERROR_LENGTH = 2000
"""Likewise of an error, at its end, where the exception is."""
LONGEST_WAIT_S = 1e9
"""Seconds; a message that is said to have been due for longer was edited by hand."""
WINDOW = 5_000
"""Messages among which claims are looked for, where no index has them: those that are due next."""


class Unconfirmed(NamedTuple):
    """A part of a claim whose reply was lost: the server may have done it."""

    token: int
    lease: float  # seconds: the longest of what it may have leased
    finished: Sequence[Message]
    channels: Sequence[str]  # that it may claim from, now or when their server goes on


@dataclass(slots=True)
class ClaimCall:
    """One call of ``claim``.

    The token is made before it is sent, so that its claims can be found should the reply be lost.
    """

    worker: str
    limits: Mapping[str, int]  # above zero, all of them
    leases: Mapping[str, float]  # seconds, by channel
    finished: Sequence[Message]
    total: int
    token: int = field(default_factory=new_token)
    expired: list[Message] = field(default_factory=list)  # dropped so far, and not told yet
    unconfirmed: list[Unconfirmed] = field(default_factory=list)  # parts that failed while others did not
    # Channels whose server did not answer ``recover_claims``.
    unreached: list[str] = field(default_factory=list)

    @property
    def longest_lease(self) -> float:
        return max([*self.leases.values(), 0.0])


class Leased(NamedTuple):
    """The result of a store's ``claim``; what it dropped as expired is in the call."""

    claims: list[Message]  # in the order in which they are to run
    lost: Sequence[ClaimName]  # of those that were to be finished


class Counts(NamedTuple):
    """What there is, by channel."""

    # Ready, scheduled, claimed, and seconds since the oldest ready one was due.
    live: Mapping[str, Sequence[Any]]
    dead: Mapping[str, int]
    paused: Mapping[str, Pause]


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list. ``state``: ``None`` is all but the dead. ``cursor``: an end of the list, if it begins there."""

    channels: Sequence[str]
    limit: int
    state: State | None
    cursor: Cursor
    error_class: str | None


def set_waits(claims: Iterable[Message], waits: Iterable[float]) -> None:
    """Say of new claims, which nobody else has seen yet, how long they had been due."""
    for claim, waited in zip(claims, waits, strict=True):
        if 0.0 < waited < LONGEST_WAIT_S:
            claim.waited = waited  # type: ignore[misc]  # frozen for type checkers alone


class Store(Protocol):
    """Keep messages in one technology. The contract (``base``) says what the verbs mean."""

    #: How ``wait`` hears of what others have stored: ``PolledWaiting`` or ``NotifiedWaiting``.
    waiting: WaitStrategy
    #: What keeps the history beside the messages.
    history: HistoryStore
    #: As in ``Capabilities``.
    may_poll_early: bool = False
    has_one_writer: bool = False

    # -- sending and claiming -------------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        """Store messages, as ``enqueue``. ``record``: a statement of SQL to run before, both or none; on databases."""

    def claim(self, call: ClaimCall) -> Leased:
        """Settle what is finished, drop what has expired into ``call.expired``, and lease what is due."""

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        """Settle claims. Returns those that were lost.

        ``values``: for ``renew`` the ``leases`` by channel. For ``reschedule`` ``delay``, ``attempts`` (to add),
        ``alone``, and ``error``, ``lane`` and ``places`` (``None``: as they were). For ``bury`` ``error`` and
        ``error_class``.
        """

    def next_due(self, channels: Sequence[str]) -> float | None:
        """Return the seconds until something is due, as ``poll``; below zero: it has been."""

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        """Take tokens of a bucket; ``buckets.refill`` has the arithmetic."""

    # -- what people ask for --------------------------------------------------------------------------------------

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        """Cancel messages that nobody has claimed; requeue or discard dead ones. Returns the ids found."""

    def pause(self, channel: str, pause: Pause | None) -> None:
        """Pause a channel from now on, or (``None``) resume it. If it is paused, a new reason replaces who and why."""

    def page(self, listing: Listing) -> list[MessageSummary]:
        """List a page, in order."""

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        """Return whole messages, in any order."""

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        """Return which of these are stored, dead or not."""

    def channels(self) -> Iterable[str]:
        """Return the channels in use, as ``list_channels``, in any order; each may come twice."""

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        """Return the classes of the errors of which messages of these channels died; each may come twice."""

    def count(self, most: int) -> Counts:
        """Count what there is on all channels; numbers above ``most`` may be estimates. 0: only the paused count."""

    def beat(self, worker: str, info: Content | None) -> None:
        """Keep a worker's sign of life, or (``None``) forget it."""

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        """Return the workers that gave a sign of life lately: id, info as JSON, and how many seconds ago."""

    def advance_time(self, seconds: float) -> None:
        """Move every stored time back, for tests."""


@runtime_checkable
class RecoversClaims(Protocol):
    """Find what was claimed by calls whose reply was lost: of a store whose server may carry out such a call."""

    def recover_claims(self, call: ClaimCall, tokens: Sequence[int]) -> list[Message]:
        """Lease anew, under new tokens, what these tokens of ours have leased."""


@runtime_checkable
class Maintained(Protocol):
    """Set right what other transactions may have left behind. Only some stores have to."""

    def maintain(self) -> None:
        """Look for it, and set it right; workers call this once a minute."""


class DatabaseStore(Store, Protocol):
    """A store in a Django database, where consumers and senders have transactions of their own."""

    def atomic(self) -> AbstractContextManager[None]:
        """Open a transaction in which a consumer runs."""

    def transaction_aborter(self) -> Callable[[], None]:
        """Inside ``atomic()``: return what aborts that transaction at once, from another thread, where others wait."""
        return lambda: None
