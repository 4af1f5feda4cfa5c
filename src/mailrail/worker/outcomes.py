"""What can become of a claim, and what follows: the verb of the layer, one line of the log, the signals.

This is the one place that publishes what became of a message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..layers import DurableLayer
from ..messages import Message
from ..monitoring.counters import BURIED, DONE, EXPIRED, RETRIED, Counters
from ..options import LaneWithPlaces
from ..signals import ChannelSignal, message_buried, message_discarded, message_finished, message_retried
from ..terminal import Escaped, escape_control_characters
from ..tracebacks import first_line
from .history import note
from .log import logger

if TYPE_CHECKING:
    from .incoming import IncomingMessage

LONGEST_REASON = 300
"""Characters of a reason in a line of the log. The record's ``error`` has the whole text, and so has the message."""


class OutcomeKind(StrEnum):
    """Name what became of a claim."""

    FINISHED = "finished"  # the consumer returned, or said so
    DISCARDED = "discarded"  # the consumer raised Discard
    RETRIED = "retried"  # the consumer failed and has attempts left, or asked for another run
    BURIED = "buried"  # the consumer failed for the last time, or said so: the message is dead
    RELEASED = "released"  # the consumer did not run, or gave the message back: no attempt was used
    PLACED = "placed"  # its sender did not know of its lane with several places: it waits there now
    EXPIRED = "expired"  # the layer dropped the message, as its time was over
    LOST = "lost"  # another worker claimed the message, so nothing was settled
    ISOLATED = "isolated"  # an isolated run settled the message, and logged the outcome
    LAPSED = "lapsed"  # the process of an isolated run died: the lease ends, and the next claim counts a loss


@dataclass(frozen=True, slots=True)
class Outcome:
    """Say what becomes of a claim."""

    kind: OutcomeKind
    error: str = ""  # a traceback, or the reason in words
    delay: float = 0.0  # seconds until it is due again
    alone: bool = False  # run it without others of its batch
    settled: bool = False  # committed already, together with the consumer's own writes
    is_logged: bool = False  # the consumer's own log says what came of it
    timed_out: bool = False  # the run was over its time limit
    place: LaneWithPlaces | None = None  # where a placed message waits


FINISHED = Outcome(OutcomeKind.FINISHED)

Settle = Callable[[DurableLayer, Sequence[Message], Outcome], list[Message]]
"""Settles claims with equal outcomes in the layer. Returns those that were lost."""


@dataclass(frozen=True)
class Effect:
    """What follows from an outcome. ``None``: nothing to log, no signal of its own."""

    settle: Settle
    level: int | None
    signal: ChannelSignal | None = None
    counted: int | None = None  # as what the history counts it


EFFECTS = {
    OutcomeKind.FINISHED: Effect(lambda layer, claims, _: layer.finish(claims), logging.INFO, counted=DONE),
    OutcomeKind.DISCARDED: Effect(
        lambda layer, claims, _: layer.finish(claims), logging.WARNING, message_discarded, DONE
    ),
    OutcomeKind.RETRIED: Effect(
        lambda layer, claims, outcome: layer.retry(claims[0], outcome.delay, outcome.error, outcome.alone),
        logging.WARNING,
        message_retried,
        RETRIED,
    ),
    OutcomeKind.BURIED: Effect(
        lambda layer, claims, outcome: layer.bury(claims[0], outcome.error),
        logging.ERROR,
        message_buried,
        BURIED,
    ),
    OutcomeKind.RELEASED: Effect(
        lambda layer, claims, outcome: layer.release(claims, outcome.delay), logging.INFO
    ),
    OutcomeKind.PLACED: Effect(
        lambda layer, claims, outcome: layer.release(claims, 0.0, *(outcome.place or ())), None
    ),
    OutcomeKind.EXPIRED: Effect(lambda *settled: [], logging.WARNING, counted=EXPIRED),
    OutcomeKind.LOST: Effect(lambda *settled: [], logging.WARNING),
    OutcomeKind.ISOLATED: Effect(lambda *settled: [], None),
    OutcomeKind.LAPSED: Effect(lambda layer, claims, _: layer.renew(claims, 0.0), None),
}
TOGETHER = {OutcomeKind.FINISHED, OutcomeKind.DISCARDED, OutcomeKind.RELEASED, OutcomeKind.PLACED}
"""Outcomes of which one call of the layer settles many claims. The verbs of the others take one."""


def log_outcome(message: IncomingMessage, outcome: Outcome, counters: Counters | None = None) -> None:
    """Log what became of a claim, once, after it was settled, count it for the history, and send the signals."""
    duration = 0.0 if message.started_at is None else time.monotonic() - message.started_at
    effect, claim = EFFECTS[outcome.kind], message.claim
    if counters is not None and effect.counted is not None:
        run = None if message.started_at is None else duration
        note(counters, claim, effect.counted, run, outcome.error)
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


def send_signal(signal: ChannelSignal, channel: str, **facts: Any) -> None:
    """Call the receivers. Whatever one of them raises is logged and changes nothing."""
    if not signal.receivers:
        return
    try:
        answers = signal.send_robust(channel, **facts)
    except BaseException:  # send_robust lets SystemExit through, and what its own event loop raises
        logger.exception("a receiver of a Mailrail signal raised, and others may not have been told")
        return
    for receiver, answer in answers:
        if isinstance(answer, Exception):
            logger.error("%r, a receiver of a Mailrail signal, raised", receiver, exc_info=answer)
