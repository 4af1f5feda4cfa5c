"""What the contract of a layer promises (``mailrail.layers.base``), played through with a plain list.

The state machine asks a layer and this model the same and compares. Time is a whole number of seconds that only
``advance_time`` moves; real time, which runs a little meanwhile, never decides anything here. So the model predicts
what the contract determines, and only checks what the contract leaves open (``Model.claimed``): which of two messages
that are due at the same moment comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from mailrail.messages import ChannelStats, Claimed, Message, Rate
from mailrail.pauses import Pause

Token: TypeAlias = tuple[UUID, int | None]
"""What a claim is settled by: the message's id and the claim's token."""

PLACES = {"p": 1, "q": 2}
"""The lanes with several places, and how many they have."""


@dataclass(frozen=True)
class Wish:
    """A message to be sent. Times are seconds from the moment of sending."""

    channel: str
    key: str | None = None
    lane: str | None = None
    priority: int = 0
    delay: int = 0
    at: int | None = None  # told to the layer as an absolute time; wins over `delay`
    lifetime: int | None = None
    until: int | None = None  # an expiry that is told to the layer as an absolute time
    headers: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int | None = None

    @property
    def places(self) -> int | None:
        """How many of its lane run at once; ``None``: one, in order."""
        return PLACES.get(self.lane or "")

    def __repr__(self) -> str:
        unlike = Wish(self.channel)
        said = {name: value for name, value in vars(self).items() if value != getattr(unlike, name)}
        return (
            f"Wish({', '.join([repr(self.channel), *(f'{name}={value!r}' for name, value in said.items())])})"
        )


class Fate(Enum):
    """Where a message that was accepted stands, or how it ended. There is no other way."""

    WAITING = "waiting"
    CLAIMED = "claimed"  # its lease may have lapsed
    DEAD = "dead"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DISCARDED = "discarded"
    REPLACED = "replaced"  # dead, and then another message of the same id died or was there already


class Due(NamedTuple):
    """When. ``told``: the call that told it as an absolute time, so that its messages are due at exactly the same."""

    at: int
    told: int | None = None


@dataclass(eq=False)
class Entry:
    """A message that the layer accepted."""

    id: UUID
    wish: Wish
    content: dict[str, Any]
    place: int  # the how-manieth that was accepted: lanes go by it
    due: Due
    expires: int | None
    sent_at: int
    fate: Fate = Fate.WAITING
    started: bool = False
    attempt: int = 0
    losses: int = 0
    alone: bool = False
    worker: str | None = None
    token: int | None = None
    error: str = ""
    buried_at: int = 0

    @property
    def channel(self) -> str:
        return self.wish.channel

    @property
    def is_live(self) -> bool:
        return self.fate in (Fate.WAITING, Fate.CLAIMED)

    def shares_lane_with(self, other: Entry) -> bool:
        return self.wish.lane is not None and (self.channel, self.wish.lane) == (
            other.channel,
            other.wish.lane,
        )


class Asked(NamedTuple):
    """The arguments of a claim."""

    worker: str
    limits: Mapping[str, int]
    lease: Mapping[str, int]
    total: int | None


def is_promised_before(one: Entry, other: Entry) -> bool:
    """Must ``one`` be claimed first? Priority, then due, then id; false both ways where only real time decides."""
    if one.wish.priority != other.wish.priority:
        return one.wish.priority > other.wish.priority
    if one.due.at != other.due.at:
        return one.due.at < other.due.at
    return one.due.told is not None and one.due.told == other.due.told and one.id < other.id


class Model:
    """All messages there ever were, and what the verbs do to them."""

    def __init__(self, orders_channels: bool = True) -> None:
        self.orders_channels = orders_channels
        self.now = 0
        self.calls = 0
        self.entries: list[Entry] = []
        self.paused: set[str] = set()
        self.used: set[Token] = set()  # no token guards two claims of a message
        self.settled: set[Token] = set()  # no claim is settled twice
        self.buckets: dict[str, tuple[Fraction, int]] = {}
        self.workers: dict[str, tuple[dict[str, Any], int]] = {}

    # -- inspection ------------------------------------------------------------------------------------------------

    def live(self, id: UUID) -> Entry | None:
        return next((e for e in self.entries if e.is_live and e.id == id), None)

    def standing(self, channel: str, *fates: Fate) -> list[Entry]:
        return [e for e in self.entries if e.channel == channel and e.fate in fates]

    def held(self, claim: Message) -> Entry | None:
        """What a claim still holds: the token alone decides."""
        entry = self.live(claim.id)
        is_held = (
            entry and entry.fate is Fate.CLAIMED and claim.token is not None and entry.token == claim.token
        )
        return entry if is_held else None

    def is_leased(self, entry: Entry) -> bool:
        return entry.fate is Fate.CLAIMED and entry.due.at > self.now

    def is_head(self, entry: Entry) -> bool:
        """Has nobody in its lane a lower place? True of what is in no lane, or in one with several places."""
        return (
            entry.wish.lane is None
            or entry.wish.places is not None
            or not any(
                e.is_live and e.shares_lane_with(entry) and e.place < entry.place for e in self.entries
            )
        )

    def taken(self, entry: Entry) -> int:
        """How many places of its lane are taken."""
        return sum(self.is_leased(e) and e.shares_lane_with(entry) for e in self.entries)

    def is_kept_out(self, entry: Entry) -> bool:
        """Are all places of its lane taken?"""
        return entry.wish.places is not None and self.taken(entry) >= entry.wish.places

    def claimable(self, channels: Collection[str]) -> list[Entry]:
        return [e for e in self._heads(channels) if e.due.at <= self.now]

    def _heads(self, channels: Collection[str]) -> list[Entry]:
        there = [e for e in self.entries if e.is_live and e.channel in channels]
        return [e for e in there if e.channel not in self.paused and self.is_head(e)]

    def next_due(self, channels: Collection[str]) -> int | None:
        """What ``poll`` tells."""
        heads = [e for e in self._heads(channels) if self.is_leased(e) or not self.is_kept_out(e)]
        return min((max(0, e.due.at - self.now) for e in heads), default=None)

    def has_places(self, channels: Collection[str]) -> bool:
        """Is there something of a lane with several places? ``poll`` may say that it has not been looked at."""
        return any(e.is_live and e.channel in channels and e.wish.places for e in self.entries)

    def stats(self, channel: str) -> ChannelStats | None:
        live, dead = self.standing(channel, Fate.WAITING, Fate.CLAIMED), self.standing(channel, Fate.DEAD)
        ready = [self.now - e.due.at for e in live if e.due.at <= self.now]
        scheduled = sum(e.fate is Fate.WAITING and e.due.at > self.now for e in live)
        pause = Pause(None) if channel in self.paused else None
        if not (live or dead or pause):
            return None
        claimed = sum(map(self.is_leased, live))
        return ChannelStats(len(ready), scheduled, claimed, len(dead), max(ready, default=None), pause)

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, sent: Iterable[tuple[UUID, Wish, dict[str, Any]]]) -> list[UUID]:
        self.calls += 1
        return [self._accept(*one) for one in sent]

    def _accept(self, id: UUID, wish: Wish, content: dict[str, Any]) -> UUID:
        if self.live(id):
            return id
        due = Due(self.now + wish.delay) if wish.at is None else Due(self.now + wish.at, self.calls)
        life = wish.until if wish.lifetime is None else wish.lifetime
        expires = None if life is None else self.now + life
        if waiting := self._waiting_under_key(wish):
            waiting.due = _earlier(waiting.due, due)
            waiting.expires = (
                None if None in (waiting.expires, expires) else max(waiting.expires or 0, expires or 0)
            )
            return waiting.id
        self.entries.append(Entry(id, wish, content, self._next_place(), due, expires, self.now))
        return id

    def _waiting_under_key(self, wish: Wish) -> Entry | None:
        """The message of that key that waits and has not started."""
        waiting = self.standing(wish.channel, Fate.WAITING) if wish.key else []
        return next((e for e in waiting if e.wish.key == wish.key and not e.started), None)

    def _next_place(self) -> int:
        return 1 + max((e.place for e in self.entries), default=0)

    # -- working ------------------------------------------------------------------------------------------------

    def claimed(self, asked: Asked, finished: Sequence[Message], answer: Claimed) -> set[Token]:
        """Check and take over what a layer answered to a claim. Returns what it must have called lost."""
        # A layer may trust a claim that says it is of no lane, and find out after it has chosen.
        disguised = [entry for claim in finished if claim.lane is None and (entry := self.held(claim))]
        lost = self.finish(finished)
        dropped = self._drop(asked, [m.id for m in answer.expired])
        entries = [self.live(claim.id) for claim in answer.claims]
        chosen = [entry for entry in entries if entry]
        assert len(set(chosen)) == len(entries), "leased what is not there, or one message twice"
        besides = {claim.id for claim in finished}
        self._check_choice(
            asked,
            chosen,
            [e for e in self.claimable(asked.limits) if e.id not in besides],
            # One that must not be leased again may have the place that others of its lane wait for.
            dropped
            + disguised
            + [e for e in self.entries if e.wish.places and e.is_live and e.id in besides],
        )
        for entry, claim in zip(chosen, answer.claims, strict=True):
            self._lease(entry, asked, claim.token)
        assert all(self.taken(e) <= e.wish.places for e in chosen if e.wish.places), "more than have places"
        return lost

    def _drop(self, asked: Asked, reported: list[UUID]) -> list[Entry]:
        """Expire what must be, and what may be: the contract is silent on channels that nothing is asked of."""
        over = [
            e
            for channel in asked.limits
            for e in self.standing(channel, Fate.WAITING, Fate.CLAIMED)
            if e.expires is not None and e.expires <= self.now
            if not self.is_leased(e) and channel not in self.paused
        ]
        # Where channels take turns, those that come too late are not looked at.
        is_sure = self.orders_channels or asked.total is None or len(asked.limits) == 1
        must = {e.id for e in over if asked.limits[e.channel] > 0 and asked.total != 0 and is_sure}
        assert len(set(reported)) == len(reported), "one message expired twice"
        assert must <= set(reported) <= {e.id for e in over}, "wrong ones expired"
        dropped = [e for e in over if e.id in reported]
        for entry in dropped:
            entry.fate = Fate.EXPIRED
        return dropped

    def _check_choice(
        self, asked: Asked, chosen: list[Entry], claimable: list[Entry], gone: list[Entry]
    ) -> None:
        """Only what may be claimed, in the promised order, within the limits, and nothing left out without a reason."""
        assert set(chosen) <= set(claimable), "leased what nobody may claim now"
        assert not any(
            is_promised_before(b, a) for a, b in combinations(chosen, 2) if self._are_ordered(a, b)
        ), "in the wrong order"
        assert asked.total is None or len(chosen) <= asked.total, "more than the total"
        for channel, limit in asked.limits.items():
            assert sum(e.channel == channel for e in chosen) <= limit, "more than the channel's limit"
        for entry in set(claimable) - set(chosen):
            # What this very call has freed by an expiry, or by such a claim, may wait for the next one.
            is_freed = any(
                e.shares_lane_with(entry) and (entry.wish.places or e.place < entry.place) for e in gone
            )
            has_to_wait = self._waits_for_place(entry, chosen, asked)
            is_out = is_freed or has_to_wait or self._is_crowded_out(entry, chosen, asked)
            assert is_out, "left out without a reason"

    def _waits_for_place(self, entry: Entry, chosen: list[Entry], asked: Asked) -> bool:
        """Which of such a lane comes next is decided before the claim, perhaps; that it is full has to be true."""
        if entry.wish.places is None:
            return False
        has_room = sum(e.channel == entry.channel for e in chosen) < asked.limits[entry.channel]
        taken = self.taken(entry) + sum(e.shares_lane_with(entry) for e in chosen)
        return taken >= entry.wish.places or not has_room or len(chosen) == asked.total

    def _are_ordered(self, one: Entry, other: Entry) -> bool:
        return self.orders_channels or one.channel == other.channel

    def _is_crowded_out(self, entry: Entry, chosen: list[Entry], asked: Asked) -> bool:
        """Are the places that it could have had taken by none that it is promised to come before?"""
        beside = [e for e in chosen if e.channel == entry.channel]
        if len(beside) < asked.limits[entry.channel]:
            if len(chosen) != asked.total:
                return False
            beside = chosen
        return not any(is_promised_before(entry, e) for e in beside if self._are_ordered(entry, e))

    def _lease(self, entry: Entry, asked: Asked, token: int | None) -> None:
        assert token is not None and (entry.id, token) not in self.used, "no token, or an old one"
        self.used.add((entry.id, token))
        if entry.fate is Fate.CLAIMED:
            entry.losses += 1
        else:
            entry.attempt += 1
        entry.fate, entry.started = Fate.CLAIMED, True
        entry.worker, entry.token = asked.worker, token
        entry.due = Due(self.now + asked.lease[entry.channel])

    def finish(self, claims: Sequence[Message]) -> set[Token]:
        def end(entry: Entry) -> None:
            entry.fate = Fate.FINISHED

        return self._settle(claims, end)

    def retry(self, claims: Sequence[Message], delay: int, alone: bool) -> set[Token]:
        def again(entry: Entry) -> None:
            self._reschedule(entry, delay)
            entry.alone = entry.alone or alone

        return self._settle(claims, again)

    def release(self, claims: Sequence[Message], delay: int) -> set[Token]:
        def untouched(entry: Entry) -> None:
            self._reschedule(entry, delay)
            entry.attempt -= 1

        return self._settle(claims, untouched)

    def bury(self, claims: Sequence[Message], error: str) -> set[Token]:
        def die(entry: Entry) -> None:
            for earlier in self.entries:
                if earlier.id == entry.id and earlier.fate is Fate.DEAD:
                    earlier.fate = Fate.REPLACED
            entry.fate, entry.error, entry.buried_at = Fate.DEAD, error, self.now

        return self._settle(claims, die)

    def renew(self, claims: Sequence[Message], lease: Mapping[str, int]) -> set[Token]:
        lost = self._lost(claims)
        for entry in {e for claim in claims if (e := self.held(claim))}:
            entry.due = Due(self.now + lease[entry.channel])
        return lost

    def _settle(self, claims: Sequence[Message], end: Callable[[Entry], None]) -> set[Token]:
        lost = self._lost(claims)
        for entry in {e for claim in claims if (e := self.held(claim))}:
            assert (entry.id, entry.token) not in self.settled, "settled twice"
            self.settled.add((entry.id, entry.token))
            end(entry)
            entry.worker = entry.token = None
        return lost

    def _lost(self, claims: Sequence[Message]) -> set[Token]:
        return {(claim.id, claim.token) for claim in claims if not self.held(claim)}

    def _reschedule(self, entry: Entry, delay: int) -> None:
        entry.fate, entry.due = Fate.WAITING, Due(self.now + delay)

    # -- operations ---------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Collection[UUID]) -> set[UUID]:
        return self._end(self.standing(channel, Fate.WAITING), ids, Fate.CANCELLED)

    def discard(self, channel: str, ids: Collection[UUID]) -> set[UUID]:
        return self._end(self.standing(channel, Fate.DEAD), ids, Fate.DISCARDED)

    def _end(self, there: list[Entry], ids: Collection[UUID], fate: Fate) -> set[UUID]:
        found = [e for e in there if e.id in ids]
        for entry in found:
            entry.fate = fate
        return {e.id for e in found}

    def requeue(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        found = set()
        for id in ids:
            for entry in self.standing(channel, Fate.DEAD):
                if entry.id == id:
                    found.add(id)
                    self._revive(entry)
        return found

    def _revive(self, entry: Entry) -> None:
        if self.live(entry.id):
            entry.fate = Fate.REPLACED
            return
        entry.fate, entry.place, entry.due = Fate.WAITING, self._next_place(), Due(self.now)
        entry.attempt, entry.losses, entry.expires = 0, min(entry.losses, 1), None

    def take(self, bucket: str, n: int, rate: Rate) -> tuple[int, Fraction]:
        """Tokens granted, and seconds until the next one where some were refused."""
        speed = Fraction(rate.count) / Fraction(rate.seconds)
        tokens, filled_at = self.buckets.get(bucket, (Fraction(rate.count), self.now))
        tokens = min(Fraction(rate.count), tokens + (self.now - filled_at) * speed)
        granted = min(n, int(tokens))
        self.buckets[bucket] = min(Fraction(rate.count), tokens - granted), self.now
        return granted, Fraction(0) if granted == n else (1 - tokens + granted) / speed

    def heartbeat(self, worker: str, info: dict[str, Any] | None) -> None:
        self.workers.pop(worker, None)
        if info is not None:
            self.workers[worker] = info, self.now


def _earlier(one: Due, other: Due) -> Due:
    if one.at != other.at:
        return min(one, other, key=lambda due: due.at)
    return one if one.told == other.told else Due(one.at)
