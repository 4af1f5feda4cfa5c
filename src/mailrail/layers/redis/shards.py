"""Several hosts as one store: each channel lies on one of them, by its name.

Workers claim from each host apart (``DurableLayer.shards``). Whoever uses the layer as a whole needs all hosts of the
channels that he names.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

from ...messages import Content, Granted, Message, MessageSummary, Rate, Statement
from ...pauses import Pause
from ..store import ClaimCall, ClaimName, Counts, Leased, Listing, Move, Settlement, Store
from ..waiting import NotifiedWaiting
from .keys import channel_of
from .listener import RedisListener
from .round_robin import channels_of
from .servers import Server
from .store import RedisStore


class RedisShards(Store):
    """Route to the stores of the hosts."""

    def __init__(self, stores: Sequence[RedisStore]) -> None:
        self.stores = stores
        self._turns = count()
        self.history = self.of("history").history
        self.waiting = NotifiedWaiting(
            lambda waiting: RedisListener(
                self.parts, stores[0].keys.hash_tag, waiting.wake, waiting.look_again
            )
        )

    def of(self, name: str) -> RedisStore:
        """Return the store that keeps this channel (or bucket)."""
        return self.stores[binascii.crc32(name.encode()) % len(self.stores)]

    def by_store(self, channels: Iterable[str]) -> dict[RedisStore, list[str]]:
        """Return the channels by their stores, those of a server that may hang last."""
        groups: dict[RedisStore, list[str]] = {}
        for channel in channels:
            groups.setdefault(self.of(channel), []).append(channel)
        return dict(sorted(groups.items(), key=lambda pair: pair[0].server.may_hang))

    def parts(self, channels: Iterable[str]) -> list[tuple[Server, list[str]]]:
        """Return the channels by their servers."""
        return [(store.server, names) for store, names in self.by_store(channels).items()]

    def _messages_by_store(self, messages: Iterable[Message]) -> Iterator[tuple[RedisStore, list[Message]]]:
        messages = list(messages)
        for store, names in self.by_store({message.channel: 0 for message in messages}).items():
            of_store = {*names}
            yield store, [message for message in messages if message.channel in of_store]

    def insert(self, messages: Sequence[Message], record: Statement | None = None) -> list[UUID]:
        ids: dict[UUID, UUID] = {}
        for store, part in self._messages_by_store(messages):
            ids.update(zip((message.id for message in part), store.insert(part), strict=True))
        return [ids[message.id] for message in messages]

    def claim(self, call: ClaimCall) -> Leased:
        """Each call begins with another host, so that a busy one starves no other."""
        parts = [*self.by_store(channels_of(call)).items()]
        turn = next(self._turns) % max(1, len(parts))
        claims, lost = list[Message](), list[ClaimName]()
        for store, names in parts[turn:] + parts[:turn]:
            part = replace(
                call,
                limits={name: call.limits[name] for name in names if name in call.limits},
                finished=[claim for claim in call.finished if claim.channel in {*names}],
                total=call.total - len(claims),
            )
            leased = store.claim(part)
            claims += leased.claims
            lost += leased.lost
        return Leased(claims, lost)

    def recover_claims(self, call: ClaimCall, tokens: Sequence[int]) -> list[Message]:
        return [
            claim
            for store, names in self.by_store(call.limits).items()
            for claim in store.recover_claims(
                replace(call, limits={name: call.limits[name] for name in names}), tokens
            )
        ]

    def settle(
        self, settlement: Settlement, claims: Sequence[Message], values: Mapping[str, Any]
    ) -> Sequence[ClaimName]:
        parts = self._messages_by_store(claims)
        return [name for store, part in parts for name in store.settle(settlement, part, values)]

    def next_due(self, channels: Sequence[str]) -> float | None:
        dues = [store.next_due(names) for store, names in self.by_store(channels).items()]
        return min((due for due in dues if due is not None), default=None)

    def take(self, bucket: str, n: int, rate: Rate) -> Granted:
        return self.of(channel_of(bucket) or bucket).take(bucket, n, rate)

    def move(self, move: Move, channel: str, ids: Sequence[UUID]) -> list[UUID]:
        return self.of(channel).move(move, channel, ids)

    def pause(self, channel: str, pause: Pause | None) -> None:
        self.of(channel).pause(channel, pause)

    def page(self, listing: Listing) -> list[MessageSummary]:
        pages = [
            store.page(replace(listing, channels=c)) for store, c in self.by_store(listing.channels).items()
        ]
        summaries = [summary for page in pages for summary in page]
        return sorted(summaries, key=lambda s: s.cursor, reverse=listing.state == "dead")[: listing.limit]

    def read(self, channel: str, ids: Sequence[UUID], is_dead: bool) -> Iterable[Message]:
        return self.of(channel).read(channel, ids, is_dead)

    def existing_ids(self, channel: str, ids: Sequence[UUID]) -> set[UUID]:
        return self.of(channel).existing_ids(channel, ids)

    def channels(self) -> Iterable[str]:
        return [name for store in self.stores for name in store.channels()]

    def error_classes(self, channels: Sequence[str]) -> Iterable[str]:
        parts = self.by_store(channels).items()
        return [error_class for store, names in parts for error_class in store.error_classes(names)]

    def count(self, most: int) -> Counts:
        counts = [store.count(most) for store in self.stores]
        live = {name: row for part in counts for name, row in part.live.items()}
        dead = {name: number for part in counts for name, number in part.dead.items()}
        return Counts(live, dead, {name: pause for part in counts for name, pause in part.paused.items()})

    def beat(self, worker: str, info: Content | None) -> None:
        self.of("workers").beat(worker, info)

    def workers(self) -> Iterable[tuple[str, str | bytes, float]]:
        return self.of("workers").workers()

    def advance_time(self, seconds: float) -> None:
        for store in self.stores:
            store.advance_time(seconds)
