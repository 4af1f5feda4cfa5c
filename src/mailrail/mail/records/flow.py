"""How mail flows through each mailer, for people on call: what waits and why, how fast, and what is out.

Somebody may ask every second. So it reads at most ``MAX_READ`` emails that wait. Where there are more, it takes their
number from the counts of the channels, and says that it is an estimate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any, Literal, TypeAlias, cast

from django.db import DEFAULT_DB_ALIAS, router
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import pgettext_lazy

from mailrail import Channel
from mailrail.moments import aware, from_now, seconds_between
from mailrail.monitoring import Count, FlowFacts, Pause, register_flows
from mailrail.monitoring.answers import recent_of, stats_of
from mailrail.monitoring.facts import NONE
from mailrail.monitoring.rates import begin_of_average
from mailrail.terminal import single_line, without_addresses

from ..mailers import failover, throttle
from ..mailers.channels import CHANNEL, channel_of, is_mail, mailer_of
from ..mailers.circuit import PERSON
from ..mailers.config import delivering, policy_of, shown_alias
from ..models import NOT_FOR_ALL, Email, MailerConnection, MailerState, MailerThrottle, Status
from .overview import Waiting, states, waiting

MAX_READ = 200
"""Emails that are read of those that wait, and of those that have failed."""
MAX_COUNTED = 100
"""Messages of a channel that are counted exactly, where more emails wait than are read."""
FAILED_WITHIN_S = 3600.0
"""Seconds for which an email that failed is counted."""
MINUTE_S = 60.0

Reason: TypeAlias = Literal["time", "retry", "rate", "pause", "outage", "connection", "worker"]


@register_flows
def mail_flow() -> list[FlowFacts]:
    """Return the facts of each mailer of the settings, and of each that has email that waits, or a state."""
    flow = _Flow(router.db_for_read(Email) or DEFAULT_DB_ALIAS)
    return [_facts_of(mailer, flow) for mailer in flow.mailers]


class _Flow:
    """What the database and the layer say of all mailers, each asked once, and only if it matters."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.waiting = {group.mailer: group for group in waiting(using, Status.QUEUED, most=MAX_READ)}
        self.has_more = any(group.more for group in self.waiting.values())
        self.states = {state.mailer: state for state in states(using)}

    @property
    def mailers(self) -> list[str]:
        """Return the aliases, as records have them: those of the settings first."""
        on_channels = filter(None, map(mailer_of, filter(is_mail, self.stats))) if self.has_more else ()
        return list(dict.fromkeys([*delivering(), *sorted({*self.waiting, *self.states, *on_channels})]))

    @cached_property
    def stats(self) -> Mapping[str, Any]:
        """Return the counts of the channels, as ``layer.stats``."""
        return stats_of(Channel(f"{CHANNEL}.default").layer, MAX_COUNTED)

    @cached_property
    def sent(self) -> dict[str, float]:
        """Return the emails that each mailer has sent, a minute, by the last one or two minutes of the history."""
        now = time.time()
        since = begin_of_average(now)
        rows = recent_of(Channel(f"{CHANNEL}.default").layer, since)
        return {
            name: row.done * MINUTE_S / (now - since)
            for (kind, name), row in rows.items()
            if kind == "mailer"
        }

    @cached_property
    def throttles(self) -> list[MailerThrottle]:
        """Return the few rows of mailers and domains that are slower than they could be."""
        return list(MailerThrottle.objects.using(self.using).order_by("mailer", "domain"))

    @cached_property
    def limits(self) -> set[tuple[str, str]]:
        """Return the mailers and domains whose rates email waits for."""
        return throttle.limits_in_use({*self.waiting, *self.states}, self.using, self.throttles)

    @cached_property
    def connections(self) -> Counter[str]:
        """Return how many connections of each mailer with a limit are in use."""
        rows = MailerConnection.objects.using(self.using).filter(until__gt=Now())
        return Counter(rows.values_list("mailer", flat=True))

    @cached_property
    def failed(self) -> Counter[str]:
        """Return how many emails of each mailer have failed lately, among the last ``MAX_READ`` of each status."""
        return Counter(mailer for mailers in self._last_failed for mailer in mailers)

    @property
    def has_more_failed(self) -> bool:
        """Tell whether others may have failed lately than those that were read."""
        return any(len(mailers) >= MAX_READ for mailers in self._last_failed)

    @cached_property
    def _last_failed(self) -> list[list[str]]:
        return [list(self._failed_of(status)) for status in NOT_FOR_ALL]

    def _failed_of(self, status: str) -> Iterable[str]:
        rows = Email.objects.using(self.using).filter(
            status=status, changed_at__gt=from_now(-FAILED_WITHIN_S)
        )
        return rows.order_by("-changed_at").values_list("mailer", flat=True)[:MAX_READ]


@dataclass(frozen=True)
class _Backlog:
    """What waits of one mailer: for its time, its next attempt, its domain's rate; and what is due otherwise."""

    time: Count = NONE
    retry: Count = NONE
    rate: Count = NONE
    due: Count = NONE
    oldest_due: float | None = None


def _facts_of(mailer: str, flow: _Flow) -> FlowFacts:
    state, backlog = flow.states.get(mailer), _backlog_of(mailer, flow)
    carrier, keeps = _carrier(mailer, flow)
    counts: dict[str, Count] = {"time": backlog.time, "retry": backlog.retry, "rate": backlog.rate}
    counts[keeps] = _sum(counts.get(keeps, NONE), backlog.due)
    pace, pace_reason = _pace(carrier or mailer, flow)
    limit = policy_of(carrier or mailer).connections
    return FlowFacts(
        mailer=shown_alias(mailer),
        sent_per_minute=flow.sent.get(shown_alias(mailer), 0.0),
        waiting={reason: count for reason, count in counts.items() if count.n},
        failed=Count(flow.failed[mailer], flow.has_more_failed),
        oldest_due=backlog.oldest_due,
        pace=pace,
        pace_reason=pace_reason,
        connections=None if limit is None else flow.connections[carrier or mailer],
        max_connections=limit,
        pause=_pause(state) if keeps == "pause" else None,
        outage=_pause(state) if state is not None and state.paused_by != PERSON else None,
        stands_in="" if carrier is None or carrier == mailer else shown_alias(carrier),
        next_probe_at=aware(state.probe_at).timestamp() if state and state.probe_at else None,
        seconds_left=_seconds_left(backlog.due.n, pace, flow.sent.get(shown_alias(carrier or mailer)))
        if carrier is not None
        else None,
    )


def _pause(state: MailerState | None) -> Pause | None:
    if state is None:
        return None
    return Pause(
        aware(state.since).timestamp(),
        state.person,
        reason=without_addresses(single_line(state.reason or "")),
    )


# -- what waits, and what keeps it ------------------------------------------------------------------------------------


def _backlog_of(mailer: str, flow: _Flow) -> _Backlog:
    """Split what waits. The record says for what, but not for a domain's rate: then its message is not due."""
    nothing = Waiting(Status.QUEUED, mailer, 0, 0, 0, 0, None, flow.has_more)
    group = flow.waiting.get(mailer, nothing)
    has_domain = group.due > 0 and any(name == mailer and domain for name, domain in flow.limits)
    channel = flow.stats.get(channel_of(mailer)) if group.more or has_domain else None
    oldest = None if group.oldest is None else seconds_between(group.oldest, timezone.now())
    if channel is None:
        return _Backlog(Count(group.later), Count(group.deferred), NONE, Count(group.due), oldest)
    apart = max(0, group.due - channel.ready - channel.claimed) if has_domain else 0
    if not group.more:
        return _Backlog(
            Count(group.later), Count(group.deferred), Count(apart), Count(group.due - apart), oldest
        )
    later, retry, rate = _in_proportion(channel.scheduled, (group.later, group.deferred, apart))
    due = Count(max(group.due - apart, channel.ready), is_estimate=True)
    return _Backlog(later, retry, rate, due, max(filter(None, (oldest, channel.oldest_due)), default=None))


def _in_proportion(total: int, parts: tuple[int, int, int]) -> list[Count]:
    """Share ``total``, or their sum if that is greater, out as ``parts`` are; all to the first if there are none."""
    whole = sum(parts)
    shares = [part / whole for part in parts] if whole else [1, 0, 0]
    return [Count(round(max(total, whole) * share), is_estimate=True) for share in shares]


def _sum(one: Count, other: Count) -> Count:
    return Count(one.n + other.n, one.is_estimate or other.is_estimate)


def _carrier(mailer: str, flow: _Flow) -> tuple[str | None, Reason]:
    """Return the mailer by which email leaves now, if any, and what keeps email that is due: as ``MailerLimiter``."""
    state = flow.states.get(mailer)
    if state is not None and state.paused_by == PERSON:
        return None, "pause"
    carrier = next((name for name in failover.candidates(mailer) if name not in flow.states), None)
    if carrier is None:
        return None, "outage"
    limit = policy_of(carrier).connections
    if limit is not None and flow.connections[carrier] >= limit:
        return carrier, "connection"
    return carrier, "rate" if (carrier, throttle.ALL) in flow.limits else "worker"


# -- how fast ---------------------------------------------------------------------------------------------------------


def _pace(mailer: str, flow: _Flow) -> tuple[float | None, str]:
    """Return the emails a second at most, and what slows them: the server, a rate of all, rates of domains."""
    slowed = {row.domain: row for row in flow.throttles if row.mailer == mailer and row.share < 1}
    paces = {domain: pace for domain, row in slowed.items() if (pace := throttle.pace_now(row)) is not None}
    rates = policy_of(mailer).rate
    of_settings = min((rate.count / rate.seconds for rate in rates), default=inf)  # in the long run
    pace = paces.pop(throttle.ALL, None)
    texts: list[Any] = []
    if pace is not None and pace <= of_settings:
        texts.append(_asked_for_less(slowed[throttle.ALL]))
    elif of_settings < inf:
        pace = of_settings
        texts.append(_ITS_RATE)
    for domain, pace_of_domain in paces.items():
        texts.append(format_lazy("{}: {:.3g}/s: {}", domain, pace_of_domain, _asked_for_less(slowed[domain])))
    of_domains = [domain for name, domain in sorted(flow.limits) if name == mailer and domain]
    texts += [format_lazy("{}: {}", domain, _ITS_RATE) for domain in of_domains if domain not in paces]
    # Translated when it is shown, as people who read the same sample may have several languages.
    return pace, cast(str, format_lazy("; ".join(["{}"] * len(texts)), *texts)) if texts else ""


_ITS_RATE = pgettext_lazy("email", "the rate of its settings")


def _asked_for_less(row: MailerThrottle) -> Any:
    reply = without_addresses(single_line(row.reason))
    return format_lazy(pgettext_lazy("email", "the server asks for less: {reply}"), reply=reply)


def _seconds_left(due: int, pace: float | None, sent_per_minute: float | None) -> float | None:
    """Return how long email that is due takes, as fast as mail leaves now, or else as fast as it may."""
    speed = sent_per_minute / MINUTE_S if sent_per_minute else pace
    return due / min(speed, pace or speed) if due and speed else None
