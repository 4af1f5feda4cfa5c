"""A circuit breaker for each mailer: while a mailer is out its mail waits, and one worker probes it now and then.

The log of each worker has one line when an outage begins, and one when it ends, whoever has found out.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from math import inf

from django.db import router
from django.utils import timezone

from mailrail import Channel
from mailrail.backoff import chance
from mailrail.log import logger_of
from mailrail.moments import for_people, from_now, seconds_between
from mailrail.monitoring.counters import note_trouble
from mailrail.pauses import MAX_REASON_LENGTH, new_pause
from mailrail.storable import storable
from mailrail.tracebacks import first_line
from mailrail.write_transactions import write_transaction

from ..models import MailerState
from ..smtp.log_recipients import masked, without_details
from . import throttle, waiting
from .channels import channel_of
from .config import alias_of, check_delivering, policy_of, shown_alias
from .keeping import Keeper
from .waiting import NOW, PAUSED, Permission

logger = logger_of("mailrail.mail")

FIRST_PROBE_DELAY_S, LONGEST_PROBE_DELAY_S = 5.0, 60.0
"""Seconds until a mailer that failed is tried again: at first, and at most."""
PROBE_LEASE_S, PROBE_RENEW_INTERVAL_S = 10.0, 3.0
"""Seconds that others leave to the worker that probes. It renews them for as long as it waits for the server, which may
be minutes if that takes connections and says nothing (``smtp.Timeouts``). Else one worker after the other would wait
for it, and none deliver by other mailers. If the worker dies, another one probes within these seconds."""
OUTAGE, PERSON = "outage", "person"


def permission_of(mailer: str, using: str, has_states: bool = True) -> Permission:
    """Tell whether this worker may use a mailer. In an outage, one caller becomes the probe once its time has come.

    ``has_states``: as the caller has just read, some mailer is out or paused.
    """
    if not has_states and mailer not in _logged:
        return NOW
    states, asked_at = MailerState.objects.using(using).filter(pk=mailer), time.monotonic()
    state = states.first()
    if state is None:
        log_end(mailer, asked_at=asked_at)
        return NOW
    look_again(using)
    if state.paused_by == PERSON or state.probe_at is None:
        return PAUSED
    log_seen(state)
    if (left := seconds_between(timezone.now(), state.probe_at)) > 0:
        return Permission(0, left, f"mailer {mailer!r} is out")
    if (leased_until := _lease_probe(mailer, using, state.probe_at)) is None:
        return Permission(0, 1.0, f"mailer {mailer!r} is out")
    _probes.add((mailer, using), leased_until)
    return Permission(is_probe=True)


def _lease_probe(mailer: str, using: str, probe_at: datetime) -> datetime | None:
    """Leave the next probe to this process for some seconds, unless somebody has changed when it is due."""
    until = from_now(PROBE_LEASE_S)
    state = MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE, probe_at=probe_at)
    return until if state.update(probe_at=until) else None


def _renew_probes(held: dict[tuple[str, str], datetime]) -> None:
    for (mailer, using), until in held.items():
        _probes.replace((mailer, using), until, _lease_probe(mailer, using, until))


_probes = Keeper("the probe of a mailer", PROBE_RENEW_INTERVAL_S, _renew_probes)
"""Probes of this process, by mailer and database: until when they are leased."""


def end_probe(mailer: str, using: str) -> None:
    """Renew the lease of this process's probe no more."""
    _probes.remove((mailer, using))


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
    most = min(LONGEST_PROBE_DELAY_S, FIRST_PROBE_DELAY_S * 2.0 ** min(state.probes, 10))
    delay = most * chance.uniform(0.8, 1)
    states.filter(pk=mailer, paused_by=OUTAGE).update(
        reason=reason, probes=state.probes + 1, probe_at=from_now(delay)
    )
    if is_new:
        throttle.cancel_reservations(mailer, using)
    log_begin(state, reason, stands_in)
    note_trouble("mailer", shown_alias(mailer), without_details(first_line(reason)))
    look_again(using)
    return delay


def reset(mailer: str, using: str) -> None:
    """Note that the mailer works: it took an email."""
    out = MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE)
    since = out.values_list("since", flat=True).first()
    gone, _ = out.delete()
    if gone:
        log_end(mailer, since)
        look_again(using)
        waiting.reopen(mailer)


def half_open(mailer: str, using: str) -> None:
    """Let the next worker probe: this one had no email to probe with."""
    MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE).update(probe_at=timezone.now())
    look_again(using)
    waiting.reopen(mailer)


def postpone_probe(mailer: str, seconds: float, using: str) -> None:
    """Let nobody probe for so long, as the mailer is over its rate, say. A mailer that stands in delivers meanwhile."""
    due = MailerState.objects.using(using).filter(pk=mailer, paused_by=OUTAGE, probe_at__lte=timezone.now())
    due.update(probe_at=from_now(seconds))
    look_again(using)


def pause(mailer: str, using: str | None = None, reason: str = "", by: str = "") -> None:
    """Let nothing leave by this mailer until ``resume``, nor by the mailers that stand in for it in an outage.

    The layer pauses its channel; the record says why and by whom. ``using``: alias of the database; by default the one
    that the emails are in. ``by``: at most 200 characters; ``reason``: 1,000. Raises ``InvalidSettings`` for a mailer
    that there is not: whoever pauses it believes that nothing leaves.
    """
    new_pause(by, reason)  # raises for a wrong one
    mailer, using = alias_of(check_delivering(mailer)), using or router.db_for_write(MailerState)
    note_pause(mailer, using, reason, by)
    keep_paused(mailer, using)


def note_pause(mailer: str, using: str | None = None, reason: str = "", by: str = "") -> None:
    """Record that a person has paused a mailer."""
    using = using or router.db_for_write(MailerState)
    throttle.cancel_reservations(mailer, using)
    texts = {"person": storable(by), "reason": storable(reason)}
    values = {"paused_by": PERSON, **texts, "since": timezone.now(), "probe_at": None}
    with write_transaction(using):
        MailerState.objects.using(using).update_or_create(pk=mailer, defaults=values)
    look_again(using)


def resume(mailer: str, using: str | None = None) -> None:
    """Undo ``pause``, and try at once what an outage has stopped.

    The channel goes on first. If that fails, or the process dies then, the record stays, and the pause with it.
    """
    mailer = alias_of(mailer)
    _resume_channel(mailer)
    note_resume(mailer, using)


def note_resume(mailer: str, using: str | None = None) -> None:
    """Remove the record of a pause, or of an outage, once the channel goes on.

    A batch may have seen the record before, and have paused the channel anew: so it goes on once more.
    """
    using = using or router.db_for_write(MailerState)
    MailerState.objects.using(using).filter(pk=mailer).delete()
    _resume_channel(mailer)
    look_again(using)
    waiting.reopen(mailer)


def keep_paused(mailer: str, using: str) -> None:
    """Pause the channel of a mailer whose record says so. A ``resume`` meanwhile wins."""
    channel = channel_of(mailer)
    states = MailerState.objects.using(using).filter(pk=mailer, paused_by=PERSON)
    if (state := states.first()) is not None:
        Channel(channel).layer.pause(channel, state.person, state.reason[:MAX_REASON_LENGTH])
    if not states.exists():
        _resume_channel(mailer)


def _resume_channel(mailer: str) -> None:
    channel = channel_of(mailer)
    Channel(channel).layer.resume(channel)


def paused(using: str | None = None) -> Iterable[MailerState]:
    return MailerState.objects.using(using or router.db_for_write(MailerState)).order_by("pk")


# -- the log ---------------------------------------------------------------------------------------------------------


@dataclass
class _Logged:
    since: datetime
    reasons: set[str] = field(default_factory=set)
    logged_at: float = field(default_factory=time.monotonic)


_logged: dict[str, _Logged] = {}
_lock = threading.Lock()


def log_begin(state: MailerState, reason: str, stands_in: str = "") -> None:
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


def log_seen(state: MailerState) -> None:
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


def log_end(mailer: str, since: datetime | None = None, asked_at: float = inf) -> None:
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


def log_changes(using: str) -> None:
    """Log which outages have begun and ended, also those that began before this process."""
    asked_at = time.monotonic()
    by_mailer = {state.mailer: state for state in MailerState.objects.using(using)}
    for state in by_mailer.values():
        if state.paused_by == OUTAGE:
            log_seen(state)
        else:  # a person has taken it over: that is no end of the outage
            with _lock:
                _logged.pop(state.mailer, None)
    for mailer in _logged.keys() - by_mailer.keys():
        log_end(mailer, asked_at=asked_at)


def forget_logged() -> None:
    """Forget what this process has said; for tests."""
    _logged.clear()


def _meanwhile(stands_in: str) -> str:
    return f"goes by {stands_in!r}" if stands_in else "waits"


# -- what a process knows before it claims --------------------------------------------------------------------------

_known: dict[str, dict[str, datetime | None]] = {}
"""By database: the mailers that are out or paused, with their next probes, as they were read last."""
_changes = 0
"""How often ``look_again`` was called: what was read before is not kept after."""


def known_out(using: str) -> dict[str, Permission]:
    """Return the mailers that are out or paused. Whose probe is due may take one email.

    Reads them only after ``look_again``. While one is out, ``waiting`` reads them every second or so.
    """
    if (out := _known.get(using)) is None:
        out = _read_and_keep(using)
        if _has_outage(out):
            waiting.watch(("outages", using), partial(_is_over, using))
    if not out:
        return {}
    now = timezone.now()
    waits = {name: inf if at is None else seconds_between(now, at) for name, at in out.items()}
    return {
        name: Permission(0, wait) if wait > 0 else Permission(1, is_probe=True)
        for name, wait in waits.items()
    }


def _read(using: str) -> dict[str, datetime | None]:
    return dict(MailerState.objects.using(using).values_list("pk", "probe_at"))


def _read_and_keep(using: str) -> dict[str, datetime | None]:
    """Read the mailers that are out, and keep them unless something has changed meanwhile."""
    changes = _changes
    out = _read(using)
    if changes == _changes:
        _known[using] = out
    return out


def _has_outage(out: Mapping[str, datetime | None]) -> bool:
    return any(probe_at is not None for probe_at in out.values())


def _is_over(using: str) -> bool:
    """Read which mailers are out, let claims go on where that has changed, and tell whether none is out any more."""
    before = _known.get(using, {})
    out = _read_and_keep(using)
    for mailer in {**before, **out}:
        if mailer not in out or before.get(mailer) != out[mailer]:
            waiting.reopen(mailer)
    return not _has_outage(out)


def look_again(using: str) -> None:
    """Read anew before the next claim: something has changed."""
    global _changes
    _changes += 1
    _known.pop(using, None)


def forget() -> None:
    """Forget what this process has read. For tests, and for a forked child."""
    global _changes
    _changes += 1
    _known.clear()


os.register_at_fork(after_in_child=forget)
