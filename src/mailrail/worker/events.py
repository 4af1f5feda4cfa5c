"""The one place that publishes what became of a message: one line in the log, and the signals."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..messages import Message
from ..signals import message_finished, message_started, worker_maintenance
from ..terminal import Escaped, escape_control_characters
from ..tracebacks import first_line
from .incoming import IncomingMessage
from .log import logger
from .outcomes import EFFECTS, Outcome, OutcomeKind

LONGEST_REASON = 300
"""Characters of a reason in a line of the log. The record's ``error`` has the whole text, and so has the message."""


def send_started(message: IncomingMessage) -> None:
    """Send ``message_started``."""
    _send(message_started, message.channel, message=message)


def log_outcome(message: IncomingMessage, outcome: Outcome) -> None:
    """Log what became of a claim, once, after it was settled, and send the signals."""
    duration = 0.0 if message.started_at is None else time.monotonic() - message.started_at
    effect = EFFECTS[outcome.kind]
    _log(message.claim, outcome, duration, logging.DEBUG if outcome.is_logged else effect.level)
    if effect.signal is not None:
        details: dict[str, Any] = {"error": outcome.error}
        if outcome.kind == OutcomeKind.RETRIED:
            details["delay"] = outcome.delay
        _send(effect.signal, message.channel, message=message, **details)
    _send(message_finished, message.channel, message=message, outcome=outcome.kind.value, duration=duration)


def log_lost(message: IncomingMessage) -> None:
    """Log that the claim was another worker's by the time this one settled it."""
    error_text = "another worker claimed it meanwhile, so nothing was settled here"
    log_outcome(message, Outcome(OutcomeKind.LOST, error_text))


def _log(claim: Message, outcome: Outcome, duration: float, level: int | None) -> None:
    if level is None or not logger.isEnabledFor(level):
        return
    line = f"{outcome.kind} {claim.channel} {claim.id} attempt={claim.attempt} seconds={duration:.3f}"
    if claim.losses:
        line += f" losses={claim.losses}"
    if outcome.kind == OutcomeKind.RETRIED:
        line += f" again_in={outcome.delay:.1f}"
    if outcome.error:
        whole = outcome.kind == OutcomeKind.BURIED or logger.isEnabledFor(logging.DEBUG)
        line += (
            f"\n{escape_control_characters(outcome.error.rstrip())}"
            if whole
            else f" because={first_line(outcome.error)[:LONGEST_REASON]!r}"
        )
    logger.log(level, "%s", Escaped(line), extra=_fields(claim, outcome, duration))


def _fields(claim: Message, outcome: Outcome, duration: float) -> dict[str, Any]:
    """For log formatters that write JSON."""
    return {
        "outcome": outcome.kind.value,
        "channel": claim.channel,
        "message_id": str(claim.id),
        "attempt": claim.attempt,
        "losses": claim.losses,
        "duration": duration,
        "error": outcome.error,
    }


def send_maintenance(channel: str) -> None:
    """Send ``worker_maintenance``, in each process that serves this channel."""
    _send(worker_maintenance, channel)


def _send(signal: Any, channel: str, **facts: Any) -> None:
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
