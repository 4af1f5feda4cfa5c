"""The one place that tells the world what became of a message: one log line and the signals."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..messages import Message
from ..signals import message_buried, message_finished, message_retried, message_started, worker_maintenance
from ..terminal import Escaped, harmless
from ..tracebacks import first_line
from .incoming import IncomingMessage, Outcome
from .log import logger

LONGEST_REASON = 300
"""Characters of a reason in a line of the log. The record's ``error`` has the whole text, and so has the message."""

_levels = {
    "finished": logging.INFO,
    "released": logging.INFO,
    "discarded": logging.WARNING,
    "expired": logging.WARNING,
    "retried": logging.WARNING,
    "lost": logging.WARNING,
    "buried": logging.ERROR,
}


def report_started(message: IncomingMessage) -> None:
    _tell(message_started, message)


def report(message: IncomingMessage, outcome: Outcome) -> None:
    """Say, once, what became of a claim; after it was settled."""
    duration = 0.0 if message.started_at is None else time.monotonic() - message.started_at
    _log(message.claim, outcome, duration)
    if outcome.kind == "retried":
        _tell(message_retried, message, error=outcome.error, delay=outcome.delay)
    elif outcome.kind == "buried":
        _tell(message_buried, message, error=outcome.error)
    _tell(message_finished, message, outcome=outcome.kind, duration=duration)


def report_lost(message: IncomingMessage) -> None:
    """The claim was another worker's by the time we settled it."""
    report(message, Outcome("lost", "another worker claimed it meanwhile, so nothing was settled here"))


def _log(claim: Message, outcome: Outcome, duration: float) -> None:
    level = logging.DEBUG if outcome.is_told else _levels[outcome.kind]
    if not logger.isEnabledFor(level):
        return
    line = f"{outcome.kind} {claim.channel} {claim.id} attempt={claim.attempt} seconds={duration:.3f}"
    if claim.losses:
        line += f" losses={claim.losses}"
    if outcome.kind == "retried":
        line += f" again_in={outcome.delay:.1f}"
    if outcome.error:
        whole = outcome.kind == "buried" or logger.isEnabledFor(logging.DEBUG)
        line += (
            f"\n{harmless(outcome.error.rstrip())}"
            if whole
            else f" because={first_line(outcome.error)[:LONGEST_REASON]!r}"
        )
    logger.log(level, "%s", Escaped(line), extra=_fields(claim, outcome, duration))


def _fields(claim: Message, outcome: Outcome, duration: float) -> dict[str, Any]:
    """For log formatters that write JSON."""
    return {
        "outcome": outcome.kind,
        "channel": claim.channel,
        "message_id": str(claim.id),
        "attempt": claim.attempt,
        "losses": claim.losses,
        "duration": duration,
        "error": outcome.error,
    }


def report_maintenance(channel: str) -> None:
    """Tell who wants to do something beside the work, in each process that serves this channel."""
    _send(worker_maintenance, channel)


def _tell(signal: Any, message: IncomingMessage, **facts: Any) -> None:
    _send(signal, message.channel, message=message, **facts)


def _send(signal: Any, channel: str, **facts: Any) -> None:
    """Tell the receivers. Whatever one of them raises changes nothing."""
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
