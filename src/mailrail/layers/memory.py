"""The in-memory layer: the reference implementation of the contract, for tests and development.

Nothing of it outlives the process, and no other process sees it: ``runworker`` refuses it, ``runserver`` runs its
worker in a thread. Written to be read next to the contract, not to be fast.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from ..messages import (
    ChannelStats,
    Claimed,
    Content,
    DeadMessage,
    Granted,
    Message,
    Rate,
    WorkerInfo,
    check_channel_name,
    decode,
    encode,
    new_token,
)
from .base import COUNTED, WORKER_FORGOTTEN_AFTER, DurableLayer, Lease, lease_for
from .buckets import refill
from .channels_bridge import LocalChannels
from .memory_inspection import InMemoryInspection


class _Bucket(NamedTuple):
    tokens: float
    filled_at: float


class InMemoryChannelLayer(InMemoryInspection, LocalChannels, DurableLayer):
    """``CONFIG``: ``routing``, ``using`` (whose transactions sends wait for), and Channels' own options."""

    is_durable = False
    is_shared = False

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._lock = threading.RLock()
        self._messages: dict[UUID, Message] = {}
        self._unstarted: dict[tuple[str, str], UUID] = {}  # (channel, key) -> id
        self._dead: dict[UUID, DeadMessage] = {}
        self._paused: set[str] = set()
        self._buckets: dict[str, _Bucket] = {}
        self._workers: dict[str, tuple[Content, float]] = {}

    # -- sending ------------------------------------------------------------------------------------------------

    def enqueue(self, messages: Sequence[Message]) -> list[UUID]:
        accepted = [self._readable(message) for message in messages]
        with self._lock:
            ids = [self._accept(message) for message in accepted]
        self.wake()
        return ids

    def check_immediately(self) -> None:
        """Memory has no transactions to wait for."""

    @staticmethod
    def _readable(message: Message) -> Message:
        """A copy that shares nothing with the sender, as if it had travelled."""
        check_channel_name(message.channel)
        content, headers, defect = decode(
            encode(message.content), encode(message.headers, "headers"), message.v
        )
        return replace(message, content=content, headers=headers, defect=defect)

    def _accept(self, message: Message) -> UUID:
        if message.id in self._messages:
            return message.id
        now = time.time()
        message = replace(
            message,
            due=now + message.delay if message.due is None else message.due,
            expires=now + message.lifetime if message.lifetime is not None else message.expires,
            sent_at=now,
            lane_seq=self._tail(message.channel, message.lane) if message.lane else None,
        )
        if message.key:
            name = message.channel, message.key
            if name in self._unstarted:
                return self._merge(self._messages[self._unstarted[name]], message)
            self._unstarted[name] = message.id
        self._messages[message.id] = message
        return message.id

    def _merge(self, twin: Message, message: Message) -> UUID:
        """Fold a message into the one with its key that waits: the earlier due, the later expiry."""
        assert twin.due is not None and message.due is not None
        forever = twin.expires is None or message.expires is None
        self._messages[twin.id] = replace(
            twin,
            due=min(twin.due, message.due),
            expires=None if forever else max(twin.expires or 0, message.expires or 0),
        )
        return twin.id

    def _tail(self, channel: str, lane: str) -> int:
        return max((m.lane_seq or 0 for m in self._lane(channel, lane)), default=0) + 1

    def _lane(self, channel: str, lane: str) -> Iterator[Message]:
        return (m for m in self._messages.values() if m.channel == channel and m.lane == lane)

    # -- working ------------------------------------------------------------------------------------------------

    def claim(
        self,
        worker: str,
        limits: Mapping[str, int],
        lease: Lease,
        finished: Sequence[Message] = (),
        total: int | None = None,
    ) -> Claimed:
        with self._lock:
            lost = self.finish(finished)
            expired = self._drop_expired(limits)
            token = new_token()
            claims: list[Message] = []
            taken = dict.fromkeys(limits, 0)
            for message in self._claimable(limits, {m.id for m in finished}):
                if total is not None and len(claims) >= total:
                    break
                if taken[message.channel] < limits[message.channel]:
                    taken[message.channel] += 1
                    claims.append(self._lease(message, worker, token, lease_for(message.channel, lease)))
            return Claimed(claims, lost, expired)

    def _claimable(self, channels: Iterable[str], besides: set[UUID]) -> list[Message]:
        now = time.time()
        open_channels = set(channels) - self._paused
        heads = self._heads()
        return sorted(
            (
                m
                for m in self._messages.values()
                if m.channel in open_channels
                and m.id not in besides
                and (m.due or 0) <= now
                and (not m.lane or heads[m.channel, m.lane] == m.lane_seq)
            ),
            key=lambda m: (-m.priority, m.due or 0, m.id),
        )

    def _heads(self) -> dict[tuple[str, str], int]:
        """The lowest unfinished place of every lane: the only one that may be claimed."""
        heads: dict[tuple[str, str], int] = {}
        for m in self._messages.values():
            if m.lane and m.lane_seq:
                heads[m.channel, m.lane] = min(heads.get((m.channel, m.lane), m.lane_seq), m.lane_seq)
        return heads

    def _drop_expired(self, channels: Iterable[str]) -> list[Message]:
        now, channels = time.time(), set(channels) - self._paused
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

    def _lease(self, message: Message, worker: str, token: int, seconds: float) -> Message:
        lapsed = message.token is not None
        if message.key:
            self._start(message)
        claim = replace(
            message,
            due=time.time() + seconds,
            worker=worker,
            token=token,
            attempt=message.attempt + (not lapsed),
            losses=message.losses + lapsed,
        )
        self._messages[claim.id] = claim
        return replace(claim, error="")

    def _start(self, message: Message) -> None:
        """From the first claim on, the key is free for another message."""
        if self._unstarted.get((message.channel, message.key or "")) == message.id:
            del self._unstarted[message.channel, message.key or ""]

    def _remove(self, message: Message) -> None:
        self._start(message)
        del self._messages[message.id]

    def _held(self, claims: Sequence[Message]) -> tuple[list[Message], list[Message]]:
        """Split claims by their token: those still ours (as stored), and those lost."""
        ours, lost = [], []
        for claim in {(c.id, c.token): c for c in claims}.values():
            stored = self._messages.get(claim.id)
            if stored and stored.token is not None and stored.token == claim.token:
                ours.append(stored)
            else:
                lost.append(claim)
        return ours, lost

    def renew(self, claims: Sequence[Message], lease: Lease) -> list[Message]:
        with self._lock:
            ours, lost = self._held(claims)
            for stored in ours:
                due = time.time() + lease_for(stored.channel, lease)
                self._messages[stored.id] = replace(stored, due=due)
            return lost

    def finish(self, claims: Sequence[Message]) -> list[Message]:
        with self._lock:
            ours, lost = self._held(claims)
            for stored in ours:
                self._remove(stored)
            return lost

    def retry(self, claim: Message, delay: float, error: str, alone: bool = False) -> list[Message]:
        return self._give_back([claim], delay, attempts=0, alone=alone, error=_shown(error))

    def release(self, claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
        return self._give_back(claims, delay, attempts=-1)

    def _give_back(
        self,
        claims: Sequence[Message],
        delay: float,
        attempts: int,
        alone: bool = False,
        error: str | None = None,
    ) -> list[Message]:
        with self._lock:
            ours, lost = self._held(claims)
            for m in ours:
                self._messages[m.id] = replace(
                    m,
                    due=time.time() + delay,
                    worker=None,
                    token=None,
                    attempt=m.attempt + attempts,
                    alone=m.alone or alone,
                    error=m.error if error is None else error,
                )
        self.wake()
        return lost

    def bury(self, claim: Message, error: str) -> list[Message]:
        error = _shown(error)
        with self._lock:
            ours, lost = self._held([claim])
            for m in ours:
                self._remove(m)
                self._dead[m.id] = DeadMessage(
                    replace(m, worker=None, token=None, error=""), error, time.time()
                )
            return lost

    def poll(self, channels: Sequence[str]) -> float | None:
        with self._lock:
            heads = self._heads()
            dues = [
                m.due or 0
                for m in self._messages.values()
                if m.channel in channels
                and m.channel not in self._paused
                and (not m.lane or heads[m.channel, m.lane] == m.lane_seq)
            ]
            return max(0.0, min(dues) - time.time()) if dues else None

    def _change(self) -> object:
        return None  # whoever changes something calls wake()

    # -- operations ---------------------------------------------------------------------------------------------

    def cancel(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._lock:
            found = [
                m
                for id in dict.fromkeys(ids)
                if (m := self._messages.get(id)) and m.channel == channel and m.token is None
            ]
            for message in found:
                self._remove(message)
        self.wake()
        return [m.id for m in found]

    def waiting(self, channel: str, limit: int = 100) -> list[Message]:
        with self._lock:
            found = [m for m in self._messages.values() if m.channel == channel and m.token is None]
            return sorted(found, key=lambda m: (m.due or 0, m.id))[:limit]

    def known(self, channel: str, ids: Iterable[UUID]) -> set[UUID]:
        with self._lock:
            found = [m for id in ids for m in (self._messages.get(id), self._dead_message(id)) if m]
        return {m.id for m in found if m.channel == channel}

    def _dead_message(self, id: UUID) -> Message | None:
        return self._dead[id].message if id in self._dead else None

    def dead(self, channel: str, limit: int = 100, before: DeadMessage | None = None) -> list[DeadMessage]:
        def place(d: DeadMessage) -> tuple[float, UUID]:
            return d.buried_at, d.message.id

        with self._lock:
            found = [d for d in self._dead.values() if d.message.channel == channel]
        found = [d for d in found if before is None or place(d) < place(before)]
        return sorted(found, key=place, reverse=True)[:limit]

    def requeue(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._lock:
            found = self._take_dead(channel, ids)
            for message in (d.message for d in found):
                self._messages.setdefault(message.id, self._reborn(message))
        self.wake()
        return [d.message.id for d in found]

    def _reborn(self, dead: Message) -> Message:
        return replace(
            dead,
            attempt=0,
            losses=min(dead.losses, 1),
            due=time.time(),
            expires=None,
            lane_seq=self._tail(dead.channel, dead.lane) if dead.lane else None,
        )

    def discard(self, channel: str, ids: Iterable[UUID]) -> list[UUID]:
        with self._lock:
            return [d.message.id for d in self._take_dead(channel, ids)]

    def _take_dead(self, channel: str, ids: Iterable[UUID]) -> list[DeadMessage]:
        found = [d for id in dict.fromkeys(ids) if (d := self._dead.get(id)) and d.message.channel == channel]
        for d in found:
            del self._dead[d.message.id]
        return found

    def pause(self, channel: str) -> None:
        self._paused.add(check_channel_name(channel))

    def resume(self, channel: str) -> None:
        self._paused.discard(channel)
        self.wake()

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        with self._lock:
            held = self._buckets.get(bucket, _Bucket(rate.count, time.time()))
            tokens, granted, retry_after = refill(held.tokens, time.time() - held.filled_at, n, rate)
            self._buckets[bucket] = _Bucket(tokens, time.time())
            return Granted(granted, retry_after)

    def heartbeat(self, worker: str, info: Content | None) -> None:
        with self._lock:
            if info is None:
                self._workers.pop(worker, None)
            else:
                self._workers[worker] = info, time.time()

    def workers(self) -> list[WorkerInfo]:
        with self._lock:
            seen = [WorkerInfo(id, info, time.time() - at) for id, (info, at) in self._workers.items()]
        return sorted((w for w in seen if w.age < WORKER_FORGOTTEN_AFTER), key=lambda w: w.id)

    def stats(self, most: int = COUNTED) -> dict[str, ChannelStats]:
        with self._lock:
            names = {m.channel for m in self._messages.values()} | self._paused
            names |= {d.message.channel for d in self._dead.values()}
            return {name: self._stats_of(name) for name in sorted(names)}

    def _stats_of(self, channel: str) -> ChannelStats:
        now = time.time()
        here = [m for m in self._messages.values() if m.channel == channel]
        due = [m.due or 0 for m in here if (m.due or 0) <= now]
        return ChannelStats(
            ready=len(due),
            scheduled=sum(m.token is None and (m.due or 0) > now for m in here),
            claimed=sum(m.token is not None and (m.due or 0) > now for m in here),
            dead=sum(d.message.channel == channel for d in self._dead.values()),
            oldest_due=now - min(due) if due else None,
            paused=channel in self._paused,
        )

    def shift(self, seconds: float) -> None:
        with self._lock:
            self._messages = {id: _older(m, seconds) for id, m in self._messages.items()}
            self._dead = {
                id: replace(d, message=_older(d.message, seconds), buried_at=d.buried_at - seconds)
                for id, d in self._dead.items()
            }
            self._buckets = {
                name: bucket._replace(filled_at=bucket.filled_at - seconds)
                for name, bucket in self._buckets.items()
            }
            self._workers = {id: (info, at - seconds) for id, (info, at) in self._workers.items()}
        self.wake()


def _shown(error: str) -> str:
    """As other layers keep it: it can be shown."""
    return error.encode("utf-8", "backslashreplace").decode()


def _older(message: Message, seconds: float) -> Message:
    return replace(
        message,
        due=(message.due or 0) - seconds,
        expires=None if message.expires is None else message.expires - seconds,
        sent_at=(message.sent_at or 0) - seconds,
    )
