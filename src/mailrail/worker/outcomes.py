"""What can become of a claim, and what follows from it: the verb of the layer, the level of the log, the signal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..layers import DurableLayer
from ..messages import Message
from ..monitoring.counters import BURIED, DONE, EXPIRED, RETRIED
from ..options import LaneWithPlaces
from ..signals import ChannelSignal, message_buried, message_discarded, message_retried
from .log import logger


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
