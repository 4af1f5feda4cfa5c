"""One line in each worker's log when an outage begins, and one when it ends, whoever has found out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.utils import timezone

from mailrail.log import logger_of
from mailrail.moments import for_people, seconds_between

from ..models import MailerState
from ..smtp.log_recipients import masked
from .policies import policy_of

logger = logger_of("mailrail.mail")


@dataclass
class _Logged:
    since: datetime
    reasons: set[str] = field(default_factory=set)
    logged_at: float = field(default_factory=time.monotonic)


_logged: dict[str, _Logged] = {}
_lock = threading.Lock()


def begun(state: MailerState, reason: str, stands_in: str = "") -> None:
    """Say that this process has found a mailer to be out, once for each reason: a mended mistake may show the next."""
    mailer = state.mailer
    with _lock:
        logged = _logged.get(mailer)
        if logged is None or logged.since < state.since:
            logged = _logged[mailer] = _Logged(state.since)
        if reason in logged.reasons:
            return
        logged.reasons.add(reason)
    meanwhile = _meanwhile(stands_in)
    logger.error(
        "Mailer %r cannot be used; its mail %s until it can: %s",
        mailer or "default",
        meanwhile,
        masked(reason),
    )


def seen(state: MailerState) -> None:
    """Say that a mailer is out, in the log of a process that has not found it out itself."""
    with _lock:
        logged = _logged.get(state.mailer)
        if logged is not None and logged.since >= state.since:
            return
        _logged[state.mailer] = _Logged(state.since, {state.reason})
    logger.warning(
        "Mailer %r cannot be used since %s; its mail %s until it can: %s",
        state.mailer or "default",
        for_people(state.since),
        _meanwhile(next(iter(policy_of(state.mailer).failover), "")),
        masked(state.reason),
    )


def over(mailer: str, since: datetime | None = None, asked_at: float = float("inf")) -> None:
    """Say that an outage has ended, if this process has said that it began, or knows since when it was.

    ``asked_at``: by ``time.monotonic()``, when the caller began to read that the mailer is not out. Another thread may
    have said since then that it is.
    """
    if mailer not in _logged and since is None:
        return
    with _lock:
        if mailer in _logged and _logged[mailer].logged_at >= asked_at:
            return
        logged = _logged.pop(mailer, None)
    began = since or (logged.since if logged else None)
    if began is not None:
        seconds = seconds_between(began, timezone.now())
        logger.warning(
            "Mailer %r works again; it was out from %s for %.0f s.",
            mailer or "default",
            for_people(began),
            seconds,
        )


def look(states: Iterable[MailerState], outage: str) -> None:
    """Compare what this process has said with the state of all mailers. ``outage``: who pauses a mailer that is out."""
    asked_at = time.monotonic()
    by_mailer = {state.mailer: state for state in states}
    for state in by_mailer.values():
        if state.paused_by == outage:
            seen(state)
        else:  # a person has taken it over: that is no end of the outage
            with _lock:
                _logged.pop(state.mailer, None)
    for mailer in _logged.keys() - by_mailer.keys():
        over(mailer, asked_at=asked_at)


def forget() -> None:
    """Forget what this process has said; for tests."""
    _logged.clear()


def _meanwhile(stands_in: str) -> str:
    return f"goes by {stands_in!r}" if stands_in else "waits"
