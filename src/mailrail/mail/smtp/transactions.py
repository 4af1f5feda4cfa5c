"""An email to more recipients than its server takes at once leaves in several transactions (RFC 5321 4.5.3.1.10).

A server says "too many" by 452 to RCPT, an old one by 552, once it has taken as many as it has room for. Those behind
belong into another transaction at once. How many it has taken is what later emails are divided by from the start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from mailrail.log import logger_of

from .envelope import DeliveryOutcome, Envelope, Fate
from .replies import TOO_MANY, Reply, Stage, is_too_many, names_too_many
from .server import SmtpServer

logger = logger_of("mailrail.mail")

LIMIT_CACHE_S = 3600.0
"""Seconds for which a number that a server has shown is believed: it may have counted recipients an hour."""

_RCPTMAX = re.compile(r"(?<!\S)RCPTMAX=0*([1-9][0-9]{0,8})(?!\S)", re.IGNORECASE)

_learnt: dict[
    SmtpServer, tuple[int, float]
] = {}  # server -> most recipients, and until when that is believed


def most_recipients(server: SmtpServer) -> int | None:
    """Return how many recipients the server takes in one transaction, by settings and experience; ``None``: unknown."""
    if server not in _learnt:
        return server.max_recipients
    most, until = _learnt[server]
    if time.monotonic() >= until:
        _learnt.pop(server, None)
        return server.max_recipients
    return most if server.max_recipients is None else min(most, server.max_recipients)


def learn(server: SmtpServer, most: int) -> None:
    """Note that the server takes no more recipients in one transaction, and tell so once."""
    known = most_recipients(server)
    if known is not None and known <= most:
        return
    _learnt[server] = most, time.monotonic() + LIMIT_CACHE_S
    text = "%s:%s takes %s recipients of an email in one transaction; emails to more leave in several"
    logger.info(text, server.host, server.port, most)


def learn_limits(server: SmtpServer, parameters: str) -> None:
    """Learn the number that a server says by itself, in its reply to EHLO (RFC 9422 6: ``LIMITS RCPTMAX=100``)."""
    if match := _RCPTMAX.search(parameters):
        learn(server, int(match[1]))


def forget() -> None:
    """Forget what servers have shown; for tests."""
    _learnt.clear()


def overflow(recipients: Sequence[str], outcome: DeliveryOutcome) -> tuple[list[str], int]:
    """Return the recipients that the server had no room for in this transaction, and how many it has.

    The number is 0 where the reply does not say clearly that there were too many. A plain 452 may be about one mailbox
    that is full: it counts where nobody is accepted behind it.
    """
    if not outcome.refused:
        return [], 0
    replies = [(address, outcome.refused.get(address)) for address in recipients]
    first = next((n for n, (_, reply) in enumerate(replies) if reply is None), len(replies))
    full = next((n for n in range(first, len(replies)) if _is_too_many(replies[n][1])), None)
    if full is None:
        return [], 0
    is_clear = names_too_many(outcome.refused[replies[full][0]])
    if not is_clear and any(reply is None for _, reply in replies[full:]):
        return [], 0
    over = [address for address, reply in replies[full:] if _is_too_many(reply)]
    return over, sum(reply is None for _, reply in replies[:full]) if is_clear else 0


def _is_too_many(reply: Reply | None) -> bool:
    return reply is not None and is_too_many(reply)


def smaller(envelope: Envelope, outcome: DeliveryOutcome) -> int:
    """Return by how many recipients to try again at once, where the server took none as they were too many; else 0.

    Some servers end the connection after so many refused recipients (Postfix: smtpd_hard_error_limit). Some answer DATA
    with 503 (RFC 5321 4.5.3.1.10), and some say 5.5.3 at the end, without the number.
    """
    if outcome.fate is Fate.UNSENT or _is_at_data(outcome, 503):
        _, taken = overflow(envelope.recipients, outcome)
        return taken
    if _is_at_data(outcome) and outcome.reply is not None and outcome.reply.enhanced.endswith(TOO_MANY):
        return (len(envelope.recipients) - len(outcome.refused)) // 2
    return 0


def _is_at_data(outcome: DeliveryOutcome, code: int | None = None) -> bool:
    if outcome.fate is not Fate.REFUSED or outcome.reply is None:
        return False
    return outcome.stage in (Stage.DATA, Stage.DOT) and code in (None, outcome.reply.code)


def without(outcome: DeliveryOutcome, over: Collection[str]) -> DeliveryOutcome:
    """Return the outcome of the others: nothing is decided over those for whom there was no room."""
    if not over:
        return outcome
    unwanted = set(over)
    return replace(
        outcome,
        refused={address: reply for address, reply in outcome.refused.items() if address not in unwanted},
    )


def divide(recipients: Sequence[str], *limits: int | None) -> tuple[Sequence[str], Sequence[str]]:
    """Return those of one transaction, and the others. ``limits``: how many it may have, by each that is known."""
    most = min((limit for limit in limits if limit), default=len(recipients))
    return recipients[:most], recipients[most:]
