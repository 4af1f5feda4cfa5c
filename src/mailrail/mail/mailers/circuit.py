"""A circuit breaker for each mailer: while a mailer is out its mail waits, and one worker probes it now and then."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import router
from django.utils import timezone

from mailrail.moments import from_now, seconds_between
from mailrail.storable import storable

from ..models import MailerState
from . import circuit_log, throttle
from .config import alias_of, check_delivering

FIRST_PROBE_DELAY_S, LONGEST_PROBE_DELAY_S = 5.0, 300.0
"""Seconds until a mailer that failed is tried again: at first, and at most."""
PROBE_TIMEOUT_S = 360.0
"""Seconds that others leave to the worker that tries: so long is waited for a server that takes connections and says
nothing (``smtp.Timeouts``). Else one worker after the other would wait for it, and none deliver by other mailers."""
OUTAGE, PERSON = "outage", "person"


@dataclass(frozen=True)
class CircuitState:
    """Say whether this worker may use the mailer, and if not, for how many seconds (``wait``).

    ``is_probe``: this worker probes the mailer for all. ``is_paused``: a person has paused it, so no other mailer may
    stand in for it.
    """

    usable: bool
    wait: float = 0.0
    is_probe: bool = False
    is_paused: bool = False


WORKING = CircuitState(True)


def state_of(mailer: str, using: str) -> CircuitState:
    """Return the state of a mailer's circuit. In an outage, one caller becomes the probe once its time has come."""
    states = MailerState.objects.using(using).filter(pk=mailer)
    state = states.first()
    if state is None:
        circuit_log.over(mailer)
        return WORKING
    if state.paused_by == PERSON or state.probe_at is None:
        return CircuitState(False, is_paused=True)
    circuit_log.seen(state)
    if (left := seconds_between(timezone.now(), state.probe_at)) > 0:
        return CircuitState(False, left + random.uniform(0, 1))
    taken = states.filter(paused_by=OUTAGE, probe_at=state.probe_at).update(
        probe_at=from_now(PROBE_TIMEOUT_S)
    )
    return CircuitState(True, is_probe=True) if taken else CircuitState(False, 1.0)


def tripped(using: str) -> set[str]:
    """Return the mailers that are out or paused."""
    return set(MailerState.objects.using(using).values_list("pk", flat=True))


def trip(mailer: str, reason: str, using: str, stands_in: str = "") -> float:
    """Note that the mailer cannot be used. Return the seconds until it will be probed.

    ``stands_in``: the mailer by which its mail leaves meanwhile, if any.
    """
    states, reason = MailerState.objects.using(using), storable(reason)
    state, is_new = states.get_or_create(
        pk=mailer, defaults={"paused_by": OUTAGE, "reason": reason, "probe_at": timezone.now()}
    )
    delay = min(LONGEST_PROBE_DELAY_S, FIRST_PROBE_DELAY_S * 2.0 ** min(state.probes, 10)) * random.uniform(
        0.8, 1.2
    )
    states.filter(pk=mailer, paused_by=OUTAGE).update(
        reason=reason, probes=state.probes + 1, probe_at=from_now(delay)
    )
    if is_new:
        throttle.cancel_reservations(mailer, using)
    circuit_log.begun(state, reason, stands_in)
    return delay


def reset(mailer: str, using: str) -> None:
    """Note that the mailer works: it took an email."""
    out = MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE)
    since = out.values_list("since", flat=True).first()
    gone, _ = out.delete()
    if gone:
        circuit_log.over(mailer, since)


def log_changes(using: str) -> None:
    """Log which outages have begun and ended, also those that began before this process."""
    circuit_log.look(MailerState.objects.using(using), OUTAGE)


def half_open(mailer: str, using: str) -> None:
    """Let the next worker probe: this one had no email to probe with."""
    MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE).update(probe_at=timezone.now())


def pause(mailer: str, using: str | None = None, reason: str = "") -> None:
    """Let nothing leave by this mailer until ``resume``, nor by the mailers that stand in for it in an outage.

    ``using``: alias of the database; by default the one that the emails are in. Raises ``InvalidSettings`` for a mailer
    that there is not: whoever pauses it believes that nothing leaves.
    """
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a string, not {reason!r}.")
    mailer, using = alias_of(check_delivering(mailer)), using or router.db_for_write(MailerState)
    throttle.cancel_reservations(mailer, using)
    MailerState.objects.using(using).update_or_create(
        pk=mailer,
        defaults={"paused_by": PERSON, "reason": storable(reason), "since": timezone.now(), "probe_at": None},
    )


def resume(mailer: str, using: str | None = None) -> None:
    """Undo ``pause``, and try at once what an outage has stopped."""
    mailer, using = alias_of(mailer), using or router.db_for_write(MailerState)
    MailerState.objects.using(using).filter(pk=mailer).delete()


def paused(using: str | None = None) -> Iterable[MailerState]:
    return MailerState.objects.using(using or router.db_for_write(MailerState)).order_by("pk")
