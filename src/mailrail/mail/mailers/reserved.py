"""What the limiter of a mailer has reserved for claimed email: tokens of its rates, and connections.

The claim loop reserves before it claims, and delivery uses it, on another thread. In between, each owner has its part
here: the limiter whose claim is under way, and then each message, by its id. What no owner collects is given back.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from mailrail.log import logger_of
from mailrail.transient import is_transient

from . import watching
from .connection_limits import Reservation
from .rates import Limit, take_tokens

logger = logger_of("mailrail.mail")

MAX_UNUSED_S = 15.0
"""Seconds for which a claim, and then a claimed message, keeps what was reserved for it. Its batch begins at once."""


@contextmanager
def _giving_back() -> Iterator[ExitStack]:
    """Make all calls that are pushed, also behind one that fails. What an outage keeps lapses: rates and leases end."""
    try:
        with ExitStack() as calls:
            yield calls
    except Exception as error:
        if not is_transient(error):
            raise
        logger.debug("what was reserved lapses, as it cannot be given back: %s", error)


@dataclass
class Grant:
    """Hold what one claim may use: a token of each limit for each message, and connections for all of them."""

    limits: Sequence[Limit]
    tokens: int = 0
    connections: Reservation | None = None

    def give_back(self, tokens: int) -> None:
        """Give back so many tokens of each limit, and the connections if no token is left."""
        with _giving_back() as calls:
            for limit in self.limits if tokens else ():
                calls.callback(take_tokens, limit, -tokens)
            with _changing:
                self.tokens -= tokens
                connections = None if self.tokens else self.take_connections()
            if connections is not None:
                calls.callback(connections.give_back, is_used=False)

    def take_connections(self) -> Reservation | None:
        """Return the connections, which are the caller's then."""
        connections, self.connections = self.connections, None
        return connections


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
        with _giving_back() as calls:
            for limit, count in self.tokens.items():
                if count > 0:
                    calls.callback(take_tokens, limit, -count)
            for reservation in self.connections:
                calls.callback(reservation.give_back)
            self.tokens, self.connections = Counter(), []


_grants: dict[
    Hashable, tuple[float, Grant, int]
] = {}  # by owner, oldest first: until when, and its share of tokens
_changing = threading.Lock()  # grants, too: the batches of one claim have threads of their own


def hold(grant: Grant, limiter: Hashable) -> None:
    """Keep a whole grant for a limiter until its claim is over."""
    _keep([limiter], grant, grant.tokens)


def take_back(limiter: Hashable) -> Grant | None:
    """Return the grant that is kept for a limiter, unless there is none, or its claim took too long."""
    with _changing:
        _, grant, _ = _grants.pop(limiter, (0.0, None, 0))
    return grant


def hand_over(ids: Iterable[UUID], grant: Grant) -> None:
    """Keep a token of each limit for each of these messages, until its batch collects it."""
    _keep(ids, grant, 1)


def _keep(owners: Iterable[Hashable], grant: Grant, tokens: int) -> None:
    until = time.monotonic() + MAX_UNUSED_S
    with _changing:
        _grants.update((owner, (until, grant, tokens)) for owner in owners)
    watching.watch("reserved", give_back_unused)


def collect(ids: Iterable[UUID]) -> Reserved:
    """Return what was reserved for these messages."""
    reserved = Reserved()
    if not _grants:
        return reserved
    with _changing:
        for _, grant, _ in [_grants.pop(id) for id in ids if id in _grants]:
            reserved.tokens.update(grant.limits)
            grant.tokens -= 1
            if (connections := grant.take_connections()) is not None:
                reserved.connections.append(connections)
    return reserved


def give_back_unused() -> bool:
    """Give back what no owner has collected in time. Return whether nothing is left to be collected."""
    now, late = time.monotonic(), list[tuple[Grant, int]]()
    with _changing:
        for owner, (until, grant, tokens) in list(_grants.items()):
            if until > now:
                break
            del _grants[owner]
            late.append((grant, tokens))
        is_empty = not _grants
    with ExitStack() as calls:
        for grant, tokens in late:
            calls.callback(grant.give_back, tokens)
    return is_empty


def forget() -> None:
    """Forget, in a forked child and for tests, what its parent has reserved."""
    global _changing
    _changing = threading.Lock()
    _grants.clear()


os.register_at_fork(after_in_child=forget)
