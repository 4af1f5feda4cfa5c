"""What can become of a claim, and what follows from it: the verb of the layer, the level of the log, the signal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ..layers import DurableLayer
from ..messages import Message
from ..signals import ChannelSignal, message_buried, message_retried


class OutcomeKind(StrEnum):
    """Name what became of a claim."""

    FINISHED = "finished"  # the consumer returned, or said so
    DISCARDED = "discarded"  # the consumer raised Discard
    RETRIED = "retried"  # the consumer failed and has attempts left, or asked for another run
    BURIED = "buried"  # the consumer failed for the last time, or said so: the message is dead
    RELEASED = "released"  # the consumer did not run, or gave the message back: no attempt was used
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


Settle = Callable[[DurableLayer, Message, Outcome], list[Message]]
"""Settles one claim in the layer. Returns it if it was lost."""


@dataclass(frozen=True)
class Effect:
    """What follows from an outcome. ``None``: nothing to settle, nothing to log, no signal of its own."""

    settle: Settle | None
    level: int | None
    signal: ChannelSignal | None = None


EFFECTS = {
    OutcomeKind.FINISHED: Effect(lambda layer, claim, _: layer.finish([claim]), logging.INFO),
    OutcomeKind.DISCARDED: Effect(lambda layer, claim, _: layer.finish([claim]), logging.WARNING),
    OutcomeKind.RETRIED: Effect(
        lambda layer, claim, outcome: layer.retry(claim, outcome.delay, outcome.error, outcome.alone),
        logging.WARNING,
        message_retried,
    ),
    OutcomeKind.BURIED: Effect(
        lambda layer, claim, outcome: layer.bury(claim, outcome.error), logging.ERROR, message_buried
    ),
    OutcomeKind.RELEASED: Effect(
        lambda layer, claim, outcome: layer.release([claim], outcome.delay), logging.INFO
    ),
    OutcomeKind.EXPIRED: Effect(None, logging.WARNING),
    OutcomeKind.LOST: Effect(None, logging.WARNING),
    OutcomeKind.ISOLATED: Effect(None, None),
    OutcomeKind.LAPSED: Effect(lambda layer, claim, _: layer.renew([claim], 0.0), None),
}
