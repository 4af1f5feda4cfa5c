"""Say before each claim how much email of a mailer may leave now: pauses, outages, rates and connections.

So email that waits for its mailer is not claimed, and costs nothing, however much it is. Only the rates of recipient
domains are asked by the batch, as no claim knows the recipients.

The claim loop reserves tokens and connections before it claims, and delivery uses them, on another thread. In between,
each owner has its part here: the limiter whose claim is under way, and then each message, by its id.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from django.db import router

from mailrail.log import logger_of
from mailrail.routing import Allowance, Limiter
from mailrail.transient import is_transient

from ..models import Email
from . import circuit, connection_limits, failover, throttle, waiting
from .channels import mailer_of
from .config import policy_of
from .connection_limits import Reservation
from .throttle import Limit, take_tokens
from .waiting import NOW, Permission

logger = logger_of("mailrail.mail")

BATCH_SIZE = 200
"""Emails that one batch delivers."""
EMAILS_PER_CONNECTION = 5
"""Emails that are worth another connection."""
MIN_CLAIM = 100
"""Emails of a claim at least, so that 20 connections have five each. Another batch is claimed while they send these."""
CLAIM_S = 0.1
"""Seconds for which a claim has emails, if that is more: each process of a short backlog then gets its part, and all
end together."""
LONGEST_WATCH_S = 60.0
"""Seconds until a limiter is asked again in any case, which ``waiting`` reopens when an outage is over or a connection
free."""
PROBE_BEGINS_WITHIN_S = 1.0
"""Seconds in which the batch of a probe writes down that it probes. Until then, no other email is claimed for that."""
GATHER_S = 0.2
"""Seconds for which tokens gather, so that emails at a fast rate form batches."""
MAX_WAIT_S = 5.0
"""Seconds until it looks again at a rate that is used up: somebody may have given tokens back."""
MAX_UNUSED_S = 15.0
"""Seconds for which a claim, and then a claimed message, keeps what was reserved for it. Its batch begins at once."""


class ClaimSize:
    """Decide how many emails to claim, by how fast those of the last claim left."""

    def __init__(self) -> None:
        self._asked_with = self._free = self._claimed = 0  # free: batches that could begin at the last claim
        self._at = 0.0

    def limit(self, wanted: int, now: float) -> int:
        """Return how many of ``wanted`` to claim. ``now``: by ``time.monotonic()``."""
        self._asked_with = -(-wanted // BATCH_SIZE)
        size = MIN_CLAIM
        if wanted > BATCH_SIZE:  # nothing is being sent: one whole batch, which leaves in its order
            size = BATCH_SIZE
        elif self._claimed and self._asked_with >= self._free:  # a batch has ended since
            size = int(self._claimed * CLAIM_S / max(now - self._at, 0.001))
        return min(wanted, max(MIN_CLAIM, min(size, BATCH_SIZE)))

    def claimed(self, count: int, now: float) -> None:
        if count:
            self._free, self._claimed, self._at = self._asked_with, count, now


class MailerLimiter(Limiter):
    """Allow what the mailer of a channel, or one that stands in for it, can take now.

    While there is a backlog it reserves tokens and connections before the claim. An idle worker that did so would write
    all the time. So it looks for one email first, and reserves when it has found one.
    """

    def __init__(self, channel: str, layer: Any) -> None:
        super().__init__(channel, layer)
        self.mailer = mailer_of(channel)
        self._using = router.db_for_write(Email)
        self._by: str | None = None  # the mailer whose limits the claim has to keep
        self._is_probe = False
        self._has_backlog = False
        self._size = ClaimSize()
        waiting.add(self)

    def allow(self, wanted: int) -> Allowance:
        """Return how many emails may leave now, by the first mailer that works."""
        if _grants and (grant := take_back(self)) is not None:  # of a claim that failed
            grant.give_back(grant.tokens)
        self._by, self._is_probe = None, False
        wanted = self._size.limit(wanted, time.monotonic())
        if self.mailer is None:
            return Allowance(wanted)
        out, wait = circuit.known_out(self._using), LONGEST_WATCH_S
        for candidate in failover.candidates(self.mailer):
            permission = out.get(candidate, NOW)
            if permission.is_probe:
                permission = self._allow_probe(candidate)
                if permission.limit:
                    return Allowance(permission.limit)
            # While a person has paused the mailer itself, the layer keeps its email.
            if permission.limit or (permission.is_paused and candidate == self.mailer):
                return self._allow_by(candidate, wanted)
            wait = min(wait, permission.wait)
        return Allowance(0, wait)

    def waits_for(self, mailer: str) -> bool:
        """Tell whether its email may leave by this mailer."""
        return self.mailer is not None and mailer in failover.candidates(self.mailer)

    def _allow_probe(self, mailer: str) -> Permission:
        """Reserve for the email that probes a mailer. Over its limits, one email after the other would be released."""
        grant, wait = self._reserve(mailer, 1)
        if not grant.tokens:
            circuit.postpone_probe(mailer, min(wait, MAX_WAIT_S), self._using)
            return Permission(0, min(wait, MAX_WAIT_S))
        circuit.look_again(self._using)
        self._by, self._is_probe = mailer, True
        keep([self], grant, 1)
        return Permission(1, is_probe=True)

    def _allow_by(self, mailer: str, wanted: int) -> Allowance:
        if not throttle.limits_of_all(mailer, self._using) and policy_of(mailer).connections is None:
            return Allowance(wanted)
        self._by = mailer
        if not self._has_backlog:
            return Allowance(1)
        grant, wait = self._reserve(mailer, wanted)
        if grant.tokens:
            keep([self], grant, grant.tokens)
        return Allowance(grant.tokens, wait)

    def _reserve(self, mailer: str, wanted: int) -> tuple[Grant, float]:
        """Reserve connections, then tokens, for at most one batch. Return the seconds to wait, if there are none."""
        wanted, grant = min(wanted, BATCH_SIZE), Grant(throttle.limits_of_all(mailer, self._using))
        if policy_of(mailer).connections is not None:
            most = -(-wanted // EMAILS_PER_CONNECTION)
            grant.connections = connection_limits.reserve(mailer, most, self._using)
            if grant.connections is None:
                is_over = partial(connection_limits.has_free, mailer, self._using)
                waiting.watch(("connections", mailer, self._using), is_over)
                return grant, LONGEST_WATCH_S
        try:
            permission = throttle.permit(grant.limits, wanted, self._using)
            grant.tokens = permission.limit
        finally:
            if not grant.tokens:
                grant.give_back(0)
        return grant, min(max(permission.wait, GATHER_S), MAX_WAIT_S)

    def claimed(self, messages: Sequence[Any]) -> Sequence[Any]:
        """Hand what was reserved to the batches of these messages. Return those for which nothing is left.

        A message with a loss gets nothing, as it runs in a process of its own, which reserves for itself.
        """
        self._size.claimed(len(messages), time.monotonic())
        if self._is_probe and messages:  # its batch says how it went, or takes the next probe for all
            self.open_at = time.monotonic() + PROBE_BEGINS_WITHIN_S
        if self._by is None:
            return ()
        over: Sequence[Any] = ()
        grant = take_back(self)
        if grant is not None:
            self._has_backlog = len(messages) >= grant.tokens
        elif messages:  # the first one after a while
            self._has_backlog, before = True, self.times_reopened
            grant, wait = self._reserve(self._by, len(messages))
            if not grant.tokens:
                self.open_at = time.monotonic() + wait
                if self.times_reopened != before:  # compared after the write, so that no ``reopen`` is lost
                    self.open_at = 0.0
            messages, over = messages[: grant.tokens], messages[grant.tokens :]
        if grant is not None and grant.tokens:
            ids = [message.id for message in messages if not message.losses]
            keep(ids, grant)
            grant.give_back(grant.tokens - len(ids))
        return over


# -- what is reserved, between claim and batch -----------------------------------------------------------------------


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
        if not (self.tokens or self.connections):
            return
        with _giving_back() as calls:
            for limit, count in self.tokens.items():
                if count > 0:
                    calls.callback(take_tokens, limit, -count)
            for reservation in self.connections:
                calls.callback(reservation.give_back)
            self.tokens, self.connections = Counter(), []


_grants: dict[Hashable, tuple[float, Grant, int]] = {}
"""By owner, oldest first: until when, and its share of tokens."""
_changing = threading.Lock()  # grants, too: the batches of one claim have threads of their own


def take_back(limiter: Hashable) -> Grant | None:
    """Return the grant that is kept for a limiter, unless there is none, or its claim took too long."""
    with _changing:
        _, grant, _ = _grants.pop(limiter, (0.0, None, 0))
    return grant


def keep(owners: Iterable[Hashable], grant: Grant, tokens: int = 1) -> None:
    """Keep so many tokens of a grant for each owner: for a limiter until its claim is over, then for messages."""
    until = time.monotonic() + MAX_UNUSED_S
    with _changing:
        _grants.update((owner, (until, grant, tokens)) for owner in owners)
    waiting.watch("reserved", give_back_unused)


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
