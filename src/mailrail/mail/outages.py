"""Mailers that cannot be used just now: their mail waits, one worker tries now and then, an outage is said once."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import router
from django.utils import timezone

from mailrail.moments import from_now, seconds_between

from . import outage_log, paces
from .mailers import alias_of, check_delivering
from .models import MailerState
from .values import storable

FIRST_PROBE, LONGEST_PROBE = 5.0, 300.0
"""Seconds until a mailer that failed is tried again: at first, and at most."""
PROBE_TAKES = 360.0
"""Seconds that others leave to the worker that tries: so long is waited for a server that takes connections and says
nothing (``smtp.Timeouts``). Else one worker after the other would wait for it, and none deliver by other mailers."""
OUTAGE, PERSON = "outage", "person"


@dataclass(frozen=True)
class Standing:
    """May this worker use the mailer? ``wait``: seconds until it may be otherwise. ``is_probe``: it tries for all.

    ``is_paused``: a person has decided so, and nobody may stand in for it.
    """

    usable: bool
    wait: float = 0.0
    is_probe: bool = False
    is_paused: bool = False


WORKING = Standing(True)


def standing(mailer: str, using: str) -> Standing:
    """How a mailer stands. In an outage, one caller is told to try it once its time has come."""
    states = MailerState.objects.using(using).filter(pk=mailer)
    state = states.first()
    if state is None:
        outage_log.over(mailer)
        return WORKING
    if state.paused_by == PERSON or state.probe_at is None:
        return Standing(False, is_paused=True)
    outage_log.seen(state)
    if (left := seconds_between(timezone.now(), state.probe_at)) > 0:
        return Standing(False, left + random.uniform(0, 1))
    taken = states.filter(paused_by=OUTAGE, probe_at=state.probe_at).update(probe_at=from_now(PROBE_TAKES))
    return Standing(True, is_probe=True) if taken else Standing(False, 1.0)


def known(using: str) -> set[str]:
    """Mailers that are out, or paused."""
    return set(MailerState.objects.using(using).values_list("pk", flat=True))


def begins(mailer: str, reason: str, using: str, stands_in: str = "") -> float:
    """It cannot be used. Returns the seconds until it will be tried again. ``stands_in``: who does, if somebody."""
    states, reason = MailerState.objects.using(using), storable(reason)
    state, is_new = states.get_or_create(
        pk=mailer, defaults={"paused_by": OUTAGE, "reason": reason, "probe_at": timezone.now()}
    )
    delay = min(LONGEST_PROBE, FIRST_PROBE * 2.0 ** min(state.probes, 10)) * random.uniform(0.8, 1.2)
    states.filter(pk=mailer, paused_by=OUTAGE).update(
        reason=reason, probes=state.probes + 1, probe_at=from_now(delay)
    )
    if is_new:
        paces.forget_turns(mailer, using)
    outage_log.begun(state, reason, stands_in)
    return delay


def ends(mailer: str, using: str) -> None:
    """It took an email."""
    out = MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE)
    since = out.values_list("since", flat=True).first()
    gone, _ = out.delete()
    if gone:
        outage_log.over(mailer, since)


def tell(using: str) -> None:
    """Say in this process's log which outages have begun and ended, also for a worker that was not there."""
    outage_log.look(MailerState.objects.using(using), OUTAGE)


def pass_on(mailer: str, using: str) -> None:
    """Whoever was to try it had nothing to try it with: the next one may."""
    MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE).update(probe_at=timezone.now())


def pause(mailer: str, using: str | None = None, reason: str = "") -> None:
    """Let nothing leave by this mailer until ``resume``, nor by those that stand in for it in an outage.

    ``using``: alias of the database; by default the one that the emails are in. Raises ``InvalidSettings`` for a mailer
    that there is not: whoever pauses it believes that nothing leaves.
    """
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a string, not {reason!r}.")
    mailer, using = alias_of(check_delivering(mailer)), using or router.db_for_write(MailerState)
    paces.forget_turns(mailer, using)
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
