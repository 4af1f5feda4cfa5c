"""Say before each claim how much email of a mailer may leave now: pauses, outages, rates and connections.

So email that waits for its mailer is not claimed, and costs nothing, however much it is. Only the rates of recipient
domains are asked by the batch, as no claim knows the recipients.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.db import router

from mailrail.routing import Allowance, Limiter

from ..models import Email
from . import circuit, connection_limits, failover, rates, reopening, reserved, throttle, watching
from .channels import mailer_of
from .policies import policy_of
from .reserved import Grant

BATCH_SIZE = 200
"""Emails that one batch delivers."""
EMAILS_PER_CONNECTION = 5
"""Emails that are worth another connection."""
LONGEST_WATCH_S = 60.0
"""Seconds until a limiter is asked again in any case, which ``watching`` reopens when an outage is over or a connection
free."""
PROBE_BEGINS_WITHIN_S = 1.0
"""Seconds in which the batch of a probe writes down that it probes. Until then, no other email is claimed for that."""
GATHER_S = 0.2
"""Seconds for which tokens gather, so that emails at a fast rate form batches."""
MAX_WAIT_S = 5.0
"""Seconds until it looks again at a rate that is used up: somebody may have given tokens back."""


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
        reopening.add(self)

    def allow(self, wanted: int) -> Allowance:
        """Return how many emails may leave now, by the first mailer that works."""
        if (grant := reserved.take_back(self)) is not None:  # of a claim that failed
            grant.give_back(grant.tokens)
        self._by, self._is_probe = None, False
        if self.mailer is None:
            return Allowance(wanted)
        out, wait = circuit.known_out(self._using), LONGEST_WATCH_S
        for candidate in failover.candidates(self.mailer):
            if candidate not in out:
                return self._allow_by(candidate, wanted)
            seconds = out[candidate]
            if seconds is None:  # a person has paused it. The layer keeps its own email
                if candidate == self.mailer:
                    return self._allow_by(candidate, wanted)
            elif seconds <= 0:  # one email probes it
                circuit.look_again(self._using)
                self._is_probe = True
                return Allowance(1)
            else:
                wait = min(wait, seconds)
        return Allowance(0, wait)

    def waits_for(self, mailer: str) -> bool:
        """Tell whether its email may leave by this mailer."""
        return self.mailer is not None and mailer in failover.candidates(self.mailer)

    def _allow_by(self, mailer: str, wanted: int) -> Allowance:
        if not rates.limits_of_all(mailer, self._using) and policy_of(mailer).connections is None:
            return Allowance(wanted)
        self._by = mailer
        if not self._has_backlog:
            return Allowance(1)
        grant, wait = self._reserve(mailer, wanted)
        if grant.tokens:
            reserved.hold(grant, self)
        return Allowance(grant.tokens, wait)

    def _reserve(self, mailer: str, wanted: int) -> tuple[Grant, float]:
        """Reserve connections, then tokens, for at most one batch. Return the seconds to wait, if there are none."""
        wanted, grant = min(wanted, BATCH_SIZE), Grant(rates.limits_of_all(mailer, self._using))
        if policy_of(mailer).connections is not None:
            most = -(-wanted // EMAILS_PER_CONNECTION)
            grant.connections = connection_limits.reserve(mailer, most, self._using)
            if grant.connections is None:
                is_over = partial(connection_limits.has_free, mailer, self._using)
                watching.watch(("connections", mailer, self._using), is_over)
                return grant, LONGEST_WATCH_S
        try:
            grant.tokens, wait, binding = rates.take_of_all(grant.limits, wanted)
        finally:
            if not grant.tokens:
                grant.give_back(0)
        if not grant.tokens and binding is not None:
            throttle.note_wait(mailer, binding.window, wait, self._using)
        return grant, min(max(wait, GATHER_S), MAX_WAIT_S)

    def claimed(self, messages: Sequence[Any]) -> Sequence[Any]:
        """Hand what was reserved to the batches of these messages. Return those for which nothing is left.

        A message with a loss gets nothing, as it runs in a process of its own, which reserves for itself.
        """
        if self._is_probe and messages:  # its batch says how it went, or takes the next probe for all
            self.open_at = time.monotonic() + PROBE_BEGINS_WITHIN_S
        if self._by is None:
            return ()
        over: Sequence[Any] = ()
        grant = reserved.take_back(self)
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
            reserved.hand_over(ids, grant)
            grant.give_back(grant.tokens - len(ids))
        return over
