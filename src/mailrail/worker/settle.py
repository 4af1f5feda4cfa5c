"""Telling the layer what became of each claim, and then the world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..layers import DurableLayer
from ..messages import Message
from ..monitoring.counters import Counters
from ..transient import is_outage
from .incoming import IncomingMessage
from .leases import LeaseKeeper, clock
from .log import logger
from .outcomes import EFFECTS, TOGETHER, Outcome, OutcomeKind, log_lost, log_outcome

SETTLE_TIMEOUT_S = 5.0
"""Seconds that one look spends on outcomes of channels that cannot be reached."""


class Settler:
    """Holds outcomes until the layer has taken them: an outage loses none.

    Finished messages wait for the next ``claim``, which settles them in the same round trip. The others are settled
    apart, channel by channel: one that cannot be reached keeps no other waiting.
    """

    def __init__(self, layer: DurableLayer, keeper: LeaseKeeper, counters: Counters | None = None) -> None:
        self.finished: list[IncomingMessage] = []
        """What the next ``claim`` is to settle. Who takes it says after that: ``close``, or ``settle_apart``."""
        self._layer = layer
        self._keeper = keeper
        self._counters = counters
        self.others: list[IncomingMessage] = []
        """What ``settle`` is to settle."""
        self._until = 0.0  # by clock(): when the present look gives up
        self.error: Exception | None = None
        """What has kept the last ``settle`` from settling all."""

    def add(self, messages: Iterable[IncomingMessage]) -> None:
        """Take in messages with their outcomes; a second time (a batch's early ones) changes nothing."""
        for message in messages:
            outcome = message.outcome
            if outcome is None or message.taken:
                continue
            message.taken = True
            if outcome.settled or outcome.kind == OutcomeKind.ISOLATED:
                self.close([message])
            elif outcome.kind in (OutcomeKind.FINISHED, OutcomeKind.DISCARDED):
                self.finished.append(message)
            else:
                self.others.append(message)

    def decide(self, claim: Message, outcome: Outcome) -> None:
        """Take in a claim that no consumer is to see."""
        message = IncomingMessage(claim)
        message.decide(outcome)
        self.add([message])

    def settle(self) -> None:
        """Settle all but the finished. What cannot be settled now stays for the next time; ``error`` says why.

        Raises it if that took long: then the server does not answer, and no channel can be reached.
        """
        groups, self.others = _alike(self.others), []
        self._until = clock() + SETTLE_TIMEOUT_S
        away, failed = set[str](), list[IncomingMessage]()
        for group in groups:
            if any(message.claim.channel in away for message in group):
                self.others += group
                continue
            left = self._settle(group)
            away.update(message.claim.channel for message in left)
            failed += left
        self.others += failed  # behind those that were not tried
        if self.error is not None and clock() >= self._until:
            raise self.error

    def _settle(self, group: Sequence[IncomingMessage]) -> list[IncomingMessage]:
        """Settle outcomes that are alike. Return those whose channels cannot be reached just now."""
        outcome = group[0].outcome
        assert outcome is not None
        if clock() >= self._until:
            return [*group]
        try:
            lost = EFFECTS[outcome.kind].settle(self._layer, [message.claim for message in group], outcome)
        except Exception as error:
            is_away = is_outage(error)
            if is_away:
                self._note_unanswered(group)
            parts = _parted(group, by_channel=is_away)
            if len(parts) > 1:  # one of them is the cause
                return [message for part in parts for message in self._settle(part)]
            if not is_away:
                self._set_aside(group[0], error)
                return []
            self.error = self.error or error
            return [*group]
        self.close(group, lost)
        return []

    def _note_unanswered(self, messages: Iterable[IncomingMessage]) -> None:
        for message in messages:
            message.unanswered_until = self._keeper.safe_until(message.claim) or message.unanswered_until

    def _set_aside(self, message: IncomingMessage, error: Exception) -> None:
        """The layer refuses this one, and will again: its lease lapses, so that it holds nobody else up."""
        self._keeper.forget([message.claim])
        kind = message.outcome and message.outcome.kind
        logger.error("%r cannot be %s; it will count as lost", message, kind, exc_info=error)

    def settle_apart(self, finished: Sequence[IncomingMessage]) -> None:
        """Take in that the ``claim`` that was to settle these has failed.

        The cause may be one channel, or one message that is refused. The next ``claim`` must not fail for it again, so
        these messages are settled apart.
        """
        self._note_unanswered(finished)
        self.others += finished

    def close(self, messages: Sequence[IncomingMessage], lost: Sequence[Message] = ()) -> None:
        """Take in that the layer has settled these, but for the lost ones, and publish it."""
        names = {(claim.id, claim.token) for claim in lost}
        self._keeper.forget([message.claim for message in messages])
        for message in messages:
            claim, outcome = message.claim, message.outcome
            if outcome is None or EFFECTS[outcome.kind].level is None:
                continue  # its own process has logged the outcome, or died
            if names and (claim.id, claim.token) in names and clock() >= message.unanswered_until:
                log_lost(message)
            else:
                log_outcome(message, outcome, self._counters)


def _alike(messages: Iterable[IncomingMessage]) -> Iterable[list[IncomingMessage]]:
    """Return the messages by what one call of the layer can settle."""
    groups: dict[object, list[IncomingMessage]] = {}
    for message in messages:
        outcome = message.outcome
        assert outcome is not None
        is_many = outcome.kind in TOGETHER
        group = (outcome.kind, outcome.delay, outcome.place) if is_many else message.claim.id
        groups.setdefault(group, []).append(message)
    return groups.values()


def _parted(group: Sequence[IncomingMessage], by_channel: bool) -> list[list[IncomingMessage]]:
    parts: dict[object, list[IncomingMessage]] = {}
    for message in group:
        parts.setdefault(message.claim.channel if by_channel else message.claim.id, []).append(message)
    return list(parts.values())
