"""When an email is tried again (RFC 5321 4.5.4.1)."""

from __future__ import annotations

from datetime import datetime

from mailrail.backoff import chance
from mailrail.moments import seconds_between

from ..mailers.config import lifetime_of
from ..models import Email
from .record import times_unsent

MIN_RETRY_S = 60.0
"""Seconds to the second attempt, doubled for each later one. RFC 5321 4.5.4.1 has 30 minutes in mind; greylisting needs
less."""
MAX_RETRY_S = 4 * 3600.0
RETRY_SOON_S, MAX_RETRY_SOON_S = 5.0, 600.0
"""Seconds to the next try when it was not the email's fault: at first, and at most. They grow, as a connection that
breaks at the same email again and again may be that email's fault after all."""
MAX_UNFORESEEN_ATTEMPTS = 8
"""Attempts that may end with an error that nobody foresaw, over two hours; the record keeps more events than that."""


def delay_after(attempts: int) -> float:
    """Return the seconds until the next attempt, after so many that were about the email."""
    return min(MAX_RETRY_S, MIN_RETRY_S * 2.0 ** min(attempts - 1, 20)) * chance.uniform(0.75, 1.25)


def delay_unsent(email: Email) -> float:
    """Return the seconds until the next try of an email that was not sent: doubled for each time in a row."""
    delay = RETRY_SOON_S * 2.0 ** max(0, times_unsent(email) - 1)
    return min(MAX_RETRY_SOON_S, delay) * chance.uniform(1, 1.5)


def is_too_old(email: Email, now: datetime) -> bool:
    """Tell whether its lifetime is over (``LIFETIME`` of its mailer)."""
    return seconds_between(email.send_at or email.created_at, now) >= lifetime_of(email.mailer)
