"""Messages in the memory of this process. Written to be read next to the contract, not to be fast."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest, nsmallest
from typing import Any
from uuid import UUID

from ..messages import (
    Content,
    Granted,
    Message,
    MessageSummary,
    Rate,
    State,
    Statement,
    check_channel_name,
    decode,
    encode,
)
from ..pauses import Pause, changed_pause
from ..tracebacks import error_class
from .buckets import Bucket, refill
from .memory_history import MemoryHistory
from .store import (
    ERROR_LENGTH,
    PREVIEW_LENGTH,
    WORKER_FORGOTTEN_AFTER,
    ClaimCall,
    ClaimName,
    Counts,
    Leased,
    Listing,
    Move,
    Settlement,
    Store,
)
from .waiting import PolledWaiting


class MemoryStore(Store):
    """Hold messages in dictionaries, behind one lock."""

    def __init__(self) -> None:
        self.waiting = PolledWaiting(lambda: None)  # whoever changes something wakes
        self.history = MemoryHistory()
        self._lock = threading.RLock()
        self._messages: dict[UUID, Message] = {}
        self._unstarted: dict[tuple[str, str], UUID] = {}  # (channel, key) -> id
        self._dead: dict[UUID, Message] = {}
        self._paused: dict[str, Pause] = {}
        self._buckets: dict[str, Bucket] = {}
        self._workers: dict[str, tuple[str, float]] = {}

    # -- sending ------------------------------------------------------------------------------------------------

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        accepted = [_readable(message) for message in messages]
        with self._lock:
            ids = [self._accept(message) for message in accepted]
        self.waiting.wake()
        return ids

    def _accept(self, message: Message) -> UUID:
        if message.id in self._messages:
            return message.id
        now = time.time()
        message = replace(
            message,
            due=now + message.delay if message.due is None else message.due,
            expires=now + message.lifetime if message.lifetime is not None else message.expires,
            sent_at=now,
            lane_seq=self._place(message),
        )
        if message.key:
            name = message.channel, message.key
            if name in self._unstarted:
                return self._merge(self._messages[self._unstarted[name]], message)
            self._unstarted[name] = message.id
        self._messages[message.id] = message
        return message.id

    def _merge(self, waiting: Message, message: Message) -> UUID:
        """Merge a duplicate into the message with its key that waits: the earlier due, the later expiry."""
        assert waiting.due is not None and message.due is not None
        forever = waiting.expires is None or message.expires is None
        self._messages[waiting.id] = replace(
            waiting,
            due=min(waiting.due, message.due),
            expires=None if forever else max(waiting.expires or 0, message.expires or 0),
        )
        return waiting.id

    def _place(self, message: Message) -> int | None:
        if message.lane is None:
            return None
        return 0 if message.places else self._tail(message.channel, message.lane)

    def _tail(self, channel: str, lane: str) -> int:
        return max((m.lane_seq or 0 for m in self._lane(channel, lane)), default=0) + 1

    def _lane(self, channel: str, lane: str) -> Iterator[Message]:
        return (m for m in self._messages.values() if m.channel == channel and m.lane == lane)

    # -- claiming -----------------------------------------------------------------------------------------------

    def claim(self, call: ClaimCall) -> Leased:
        with self._lock:
            lost = self.settle("finish", call.finished, {})
            call.expired += self._drop_expired(call.limits)
            claims: list[Message] = []
            room, running = dict(call.limits), self._running()
            for message in self._claimable(call.limits, {m.id for m in call.finished}):
                if len(claims) >= call.total:
                    break
                lane = message.channel, message.lane
                if room[message.channel] > 0 and running[lane] < (message.places or math.inf):
                    room[message.channel] -= 1
                    running[lane] += bool(message.places)
                    claims.append(self._lease(message, call))
            return Leased(claims, lost)

    def _claimable(self, channels: Iterable[str], besides: set[UUID]) -> list[Message]:
        now = time.time()
        open_channels = set(channels) - self._paused.keys()
        heads = self._heads()
        return sorted(
            (
                m
                for m in self._messages.values()
                if m.channel in open_channels
                and m.id not in besides
                and (m.due or 0) <= now
                and (not m.lane_seq or heads[m.channel, m.lane or ""] == m.lane_seq)
            ),
            key=lambda m: (-m.priority, m.due or 0, m.id),
        )

    def _running(self) -> Counter[tuple[str, str | None]]:
        """Count what is leased of each lane with several places."""
        now = time.time()
        leased = (
            m for m in self._messages.values() if m.places and m.token is not None and m.claimed_until > now
        )
        return Counter((m.channel, m.lane) for m in leased)

    def _heads(self) -> dict[tuple[str, str], int]:
        """The lowest unfinished place of every lane: the only one that may be claimed."""
        heads: dict[tuple[str, str], int] = {}
        for m in self._messages.values():
            if m.lane and m.lane_seq:
                heads[m.channel, m.lane] = min(heads.get((m.channel, m.lane), m.lane_seq), m.lane_seq)
        return heads

    def _drop_expired(self, channels: Iterable[str]) -> list[Message]:
        now, channels = time.time(), set(channels) - self._paused.keys()
        expired = [
            m
            for m in self._messages.values()
            if m.channel in channels
            and m.expires is not None
            and m.expires <= now
            and (m.token is None or m.claimed_until <= now)
        ]
        for message in expired:
            self._remove(message)
        return expired

    def _lease(self, message: Message, call: ClaimCall) -> Message:
        lapsed = message.token is not None
        self._start(message)
        claim = replace(
            message,
            due=time.time() + call.leases[message.channel],
            worker=call.worker,
            token=call.token,
            attempt=message.attempt + (not lapsed),
            losses=message.losses + lapsed,
        )
        self._messages[claim.id] = claim
        return replace(claim, error="", waited=time.time() - (message.due or 0.0))

    def _start(self, message: Message) -> None:
        """From the first claim on, the key is free for another message."""
        if self._unstarted.get((message.channel, message.key or "")) == message.id:
            del self._unstarted[message.channel, message.key or ""]

    def _remove(self, message: Message) -> None:
        self._start(message)
        del self._messages[message.id]

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        lost: list[ClaimName] = []
        with self._lock:
            for claim in {(c.id, c.token): c for c in claims}.values():
                stored = self._messages.get(claim.id)
                if stored and stored.token is not None and stored.token == claim.token:
                    self._settle(settlement, stored, values)
                else:
                    lost.append((claim.id, claim.token))
        if settlement == "reschedule":
            self.waiting.wake()
        return lost

    def _settle(self, settlement: Settlement, stored: Message, values: Mapping[str, Any]) -> None:
        now = time.time()
        if settlement == "renew":
            self._messages[stored.id] = replace(stored, due=now + values["leases"][stored.channel])
        elif settlement == "reschedule":
            self._messages[stored.id] = replace(
                stored,
                due=now + values["delay"],
                worker=None,
                token=None,
                attempt=stored.attempt + values["attempts"],
                alone=stored.alone or values["alone"],
                error=stored.error if values["error"] is None else values["error"],
                lane=values["lane"] or stored.lane,
                places=values["places"] or stored.places,
                lane_seq=0 if values["lane"] else stored.lane_seq,
            )
        else:
            self._remove(stored)
        if settlement == "bury":
            self._dead[stored.id] = replace(
                stored, worker=None, token=None, error=values["error"], buried_at=now
            )

    def next_due(self, channels: Sequence[str]) -> float | None:
        with self._lock:
            heads, running, now = self._heads(), self._running(), time.time()
            dues = [
                m.due or 0
                for m in self._messages.values()
                if m.channel in channels
                and m.channel not in self._paused
                and (not m.lane_seq or heads[m.channel, m.lane or ""] == m.lane_seq)
                and (not m.places or (m.due or 0) > now or running[m.channel, m.lane] < m.places)
            ]
            return min(dues) - now if dues else None

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._lock:
            held = self._buckets.get(bucket, Bucket(rate.count, time.time()))
            tokens, granted, retry_after = refill(held.tokens, time.time() - held.filled_at, n, rate)
            self._buckets[bucket] = Bucket(tokens, time.time())
            return Granted(granted, retry_after)

    # -- what people ask for ------------------------------------------------------------------------------------

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        with self._lock:
            place = self._messages if move == "cancel" else self._dead
            messages = [m for id in ids if (m := place.get(id)) and m.channel == channel and m.token is None]
            for message in messages:
                if move == "cancel":
                    self._remove(message)
                else:
                    del self._dead[message.id]
                if move == "requeue":
                    self._messages.setdefault(message.id, self._requeued(message))
        self.waiting.wake()
        return [message.id for message in messages]

    def _requeued(self, dead: Message) -> Message:
        return replace(
            dead,
            attempt=0,
            losses=min(dead.losses, 1),
            due=time.time(),
            expires=None,
            lane_seq=self._place(dead),
            error="",
            buried_at=None,
        )

    def pause(self, channel: str, pause: Pause | None) -> None:
        if pause is None:
            self._paused.pop(channel, None)
            self.waiting.wake()
            return
        with self._lock:
            self._paused[channel] = changed_pause(self._paused.get(channel), pause, time.time())

    def page(self, listing: Listing) -> list[MessageSummary]:
        is_dead, now = listing.state == "dead", time.time()
        with self._lock:
            place = self._dead if is_dead else self._messages
            summaries = [_summary(m, now) for m in place.values() if m.channel in listing.channels]
        if is_dead:
            kind = listing.error_class
            summaries = [s for s in summaries if s.cursor < listing.cursor and kind in (None, s.error_class)]
            return nlargest(listing.limit, summaries, key=lambda s: s.cursor)
        summaries = [s for s in summaries if s.cursor > listing.cursor and listing.state in (None, s.state)]
        return nsmallest(listing.limit, summaries, key=lambda s: s.cursor)

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        with self._lock:
            messages = [(self._dead if is_dead else self._messages).get(id) for id in ids]
        return [message for message in messages if message and message.channel == channel]

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        return {m.id for is_dead in (False, True) for m in self.read(channel, ids, is_dead)}

    def channels(self) -> Iterable[str]:
        with self._lock:
            return {m.channel for m in (*self._messages.values(), *self._dead.values())} | {*self._paused}

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        with self._lock:
            return {error_class(dead.error) for dead in self._dead.values() if dead.channel in channels}

    def count(self, most: int) -> Counts:
        now = time.time()
        live: dict[str, list[Any]] = {}
        dead: dict[str, int] = {}
        with self._lock:
            for message in self._messages.values():
                row = live.setdefault(message.channel, [0, 0, 0, 0.0])
                row[("ready", "scheduled", "claimed").index(_state(message, now))] += 1
                row[3] = max(row[3], now - (message.due or 0))
            for message in self._dead.values():
                dead[message.channel] = dead.get(message.channel, 0) + 1
            return Counts(live, dead, dict(self._paused))

    def beat(self, worker: str, info: Content | None) -> None:
        with self._lock:
            if info is None:
                self._workers.pop(worker, None)
            else:
                self._workers[worker] = encode(info, "info"), time.time()

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        with self._lock:
            seen = [(id, info, time.time() - at) for id, (info, at) in self._workers.items()]
        return [row for row in seen if row[2] < WORKER_FORGOTTEN_AFTER]

    def advance_time(self, seconds: float) -> None:
        with self._lock:
            self._messages = {id: _older(m, seconds) for id, m in self._messages.items()}
            self._dead = {id: _older(m, seconds) for id, m in self._dead.items()}
            self._buckets = {n: Bucket(b.tokens, b.filled_at - seconds) for n, b in self._buckets.items()}
            self._workers = {id: (info, at - seconds) for id, (info, at) in self._workers.items()}
            pauses = (
                (name, replace(p, since=(p.since or 0.0) - seconds)) for name, p in self._paused.items()
            )
            self._paused = dict(pauses)
        self.history.advance_time(seconds)


def _readable(message: Message) -> Message:
    """Return a copy that shares nothing with the sender, as if it had travelled."""
    check_channel_name(message.channel)
    content, headers, defect = decode(encode(message.content), encode(message.headers, "headers"), message.v)
    return replace(message, content=content, headers=headers, defect=defect)


def _older(message: Message, seconds: float) -> Message:
    return replace(
        message,
        due=(message.due or 0) - seconds,
        expires=None if message.expires is None else message.expires - seconds,
        sent_at=(message.sent_at or 0) - seconds,
        buried_at=None if message.buried_at is None else message.buried_at - seconds,
    )


def _state(message: Message, now: float) -> State:
    if message.buried_at is not None:
        return "dead"
    if (message.due or 0.0) <= now:
        return "ready"
    return "scheduled" if message.token is None else "claimed"


def _summary(message: Message, now: float) -> MessageSummary:
    at = message.due if message.buried_at is None else message.buried_at
    return MessageSummary(
        message.channel,
        message.id,
        at or 0.0,
        _state(message, now),
        encode(message.content)[:PREVIEW_LENGTH],
        message.attempt,
        message.losses,
        message.priority,
        message.lane,
        message.key,
        message.worker,
        error_class(message.error),
        message.error[-ERROR_LENGTH:],
    )
