"""What the limiter of a mailer has reserved for claimed email: tokens of its rates, and connections.

The claim loop reserves before it claims, and delivery uses it, on another thread. What belongs to a message is kept by
the message's id in between.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from .connection_limits import Reservation
from .rates import Limit, take_tokens

MAX_UNUSED_S = 15.0
"""Seconds for which a claimed message keeps what was reserved for it. Its batch begins at once, unless a process of its
own runs it, which reserves for itself."""


@dataclass
class Grant:
    """Hold what one claim may use: a token of each limit for each message, and connections for all of them."""

    limits: Sequence[Limit]
    tokens: int
    connections: Reservation | None = None

    def give_back(self, tokens: int) -> None:
        """Give back so many tokens of each limit, and the connections if those are all."""
        for limit in self.limits if tokens else ():
            take_tokens(limit, -tokens)
        self.tokens -= tokens
        if not self.tokens and self.connections is not None:
            self.connections.give_back(is_used=False)
            self.connections = None


@dataclass
class Reserved:
    """Hold what a batch may use. Attempts take from it first, and ``give_back`` returns the rest."""

    tokens: Counter[Limit] = field(default_factory=Counter)
    connections: list[Reservation] = field(default_factory=list)

    def take(self, limit: Limit, count: int) -> tuple[int, float]:
        """Take tokens, or give them back (``count`` below zero). Return how many, and the seconds until the next."""
        own = min(self.tokens[limit], max(0, count))
        self.tokens[limit] -= own
        if own == count:
            return count, 0.0
        granted, wait = take_tokens(limit, count - own)
        return own + max(0, granted) if count > 0 else granted, wait

    def connection(self, mailer: str) -> Reservation | None:
        """Return connections of a mailer that are reserved, if any are. The caller gives them back."""
        for reservation in self.connections:
            if reservation.mailer == mailer:
                self.connections.remove(reservation)
                return reservation
        return None

    def give_back(self) -> None:
        """Return what was not used."""
        for limit, count in self.tokens.items():
            if count > 0:
                take_tokens(limit, -count)
        self.tokens.clear()
        while self.connections:
            self.connections.pop().give_back()


_grants: dict[UUID, tuple[float, Grant]] = {}  # by the message's id, oldest first
_changing = threading.Lock()


def hand_over(ids: Iterable[UUID], grant: Grant) -> None:
    """Keep a grant for these messages until their batch collects it."""
    until = time.monotonic() + MAX_UNUSED_S
    with _changing:
        _grants.update((id, (until, grant)) for id in ids)


def collect(ids: Iterable[UUID]) -> Reserved:
    """Return what was reserved for these messages."""
    reserved = Reserved()
    if not _grants:
        return reserved
    with _changing:
        grants = [_grants.pop(id)[1] for id in ids if id in _grants]
    for grant in grants:
        _move(grant, reserved)
    return reserved


def _move(grant: Grant, reserved: Reserved) -> None:
    reserved.tokens.update(grant.limits)
    grant.tokens -= 1
    if grant.connections is not None:
        reserved.connections.append(grant.connections)
        grant.connections = None


def give_back_unused() -> None:
    """Give back what no batch has collected in time."""
    if not _grants:
        return
    now, late = time.monotonic(), deque[Grant]()
    with _changing:
        for id, (until, grant) in list(_grants.items()):
            if until > now:
                break
            del _grants[id]
            late.append(grant)
    for grant in late:
        grant.give_back(1)


def forget() -> None:
    """Forget, in a forked child and for tests, what its parent has reserved."""
    global _changing
    _changing = threading.Lock()
    _grants.clear()


os.register_at_fork(after_in_child=forget)
