"""Telling the layer what became of each claim, and then the history, the log and the signals.

This is the one place that publishes what became of a message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ..layers import DurableLayer
from ..messages import Message
from ..monitoring.counters import BURIED, EXPIRED, RETRIED, Counters, EndOfClaim, trouble_of
from ..signals import message_finished
from ..terminal import Escaped, escape_control_characters
from ..tracebacks import first_line
from ..transient import is_outage
from .incoming import IncomingMessage, decide_all
from .leases import LeaseKeeper, clock
from .log import logger
from .outcomes import EFFECTS, TOGETHER, Outcome, OutcomeKind, send_signal

DROPPED = Outcome(OutcomeKind.EXPIRED, "its time was over while it waited for a run")

LONGEST_REASON = 300
"""Characters of a reason in a line of the log. The record's ``error`` has the whole text, and so has the message."""
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

    @property
    def has_some(self) -> bool:
        """Tell whether something is to be settled."""
        return bool(self.finished or self.others)

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

    def expire(self, dropped: Iterable[Message]) -> None:
        """Publish what the layer has dropped, as its time was over."""
        messages = [IncomingMessage(message) for message in dropped]
        decide_all(messages, DROPPED)
        publish(messages, self._counters)

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
        self._keeper.forget([message.claim for message in messages])
        publish(self._without(lost, messages) if lost else messages, self._counters)

    def _without(
        self, lost: Sequence[Message], messages: Sequence[IncomingMessage]
    ) -> Sequence[IncomingMessage]:
        """Return those that are not among the lost, which are logged as such."""
        names, settled = {(claim.id, claim.token) for claim in lost}, list[IncomingMessage]()
        for message in messages:
            name, outcome = (message.claim.id, message.claim.token), message.outcome
            if name not in names or clock() < message.unanswered_until:
                settled.append(message)
            elif outcome is not None and EFFECTS[outcome.kind].level is not None:
                log_lost(message)
        return settled


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


# -- the history, the log and the signals -----------------------------------------------------------------------------


def publish(messages: Sequence[IncomingMessage], counters: Counters | None = None) -> None:
    """Count what became of claims for the history, log it, and send the signals: once, after they were settled."""
    ends, now = list[EndOfClaim](), time.monotonic()
    tells_all = bool(message_finished.receivers) or logger.isEnabledFor(logging.DEBUG)
    for message in messages:
        claim, outcome = message.claim, message.outcome
        if outcome is None or (effect := EFFECTS[outcome.kind]).level is None:
            continue  # its own process has logged the outcome, or died
        if effect.counted is not None:
            # The first run of a message also tells when that was sent.
            is_first = claim.attempt == (0 if effect.counted == EXPIRED else 1)
            run = None if message.started_at is None else now - message.started_at
            sent_at = claim.sent_at if is_first else None
            ends.append((claim.channel, effect.counted, claim.waited, run, sent_at))
            if counters is not None and outcome.error and effect.counted in (RETRIED, BURIED):
                is_buried = int(effect.counted == BURIED)
                counters.note_trouble("channel", claim.channel, trouble_of(outcome.error), 1, is_buried)
        if tells_all or effect.signal is not None or not outcome.is_logged:
            log_outcome(message, outcome)
    if counters is not None and ends:
        counters.note(ends)


def log_outcome(message: IncomingMessage, outcome: Outcome) -> None:
    """Log what became of a claim, once, after it was settled, and send the signals."""
    duration = 0.0 if message.started_at is None else time.monotonic() - message.started_at
    effect, claim = EFFECTS[outcome.kind], message.claim
    level = logging.DEBUG if outcome.is_logged else effect.level
    if level is not None and logger.isEnabledFor(level):
        fields = {  # for log formatters that write JSON
            "outcome": outcome.kind.value,
            "channel": claim.channel,
            "message_id": str(claim.id),
            "attempt": claim.attempt,
            "losses": claim.losses,
            "duration": duration,
            "error": outcome.error,
        }
        logger.log(level, "%s", Escaped(_line_of(claim, outcome, duration)), extra=fields)
    if effect.signal is not None and effect.signal.receivers:
        details: dict[str, Any] = {"error": outcome.error}
        if outcome.kind == OutcomeKind.RETRIED:
            details |= {"delay": outcome.delay, "timed_out": outcome.timed_out}
        send_signal(effect.signal, claim.channel, message=message, **details)
    if message_finished.receivers:
        facts = {"message": message, "outcome": outcome.kind.value, "duration": duration}
        send_signal(message_finished, claim.channel, **facts)


def log_lost(message: IncomingMessage) -> None:
    """Log that the claim was another worker's by the time this one settled it."""
    error_text = "another worker claimed it meanwhile, so nothing was settled here"
    log_outcome(message, Outcome(OutcomeKind.LOST, error_text))


def _line_of(claim: Message, outcome: Outcome, duration: float) -> str:
    line = f"{outcome.kind} {claim.channel} {claim.id} attempt={claim.attempt} seconds={duration:.3f}"
    if claim.losses:
        line += f" losses={claim.losses}"
    if outcome.kind == OutcomeKind.RETRIED or outcome.delay:
        line += f" again_in={outcome.delay:.1f}"
    if not outcome.error:
        return line
    if outcome.kind == OutcomeKind.BURIED or logger.isEnabledFor(logging.DEBUG):
        return f"{line}\n{escape_control_characters(outcome.error.rstrip())}"
    return f"{line} because={first_line(outcome.error)[:LONGEST_REASON]!r}"
