"""Which emails of a batch may leave now, by the rates of their mailer and of their recipients' domains.

A rate is a bucket of tokens on the layer that all workers share (``layer.take``). A batch asks each bucket it needs
once. Emails that the bucket refuses get a reservation (``throttle.reserve``) and are released until then. So they
neither run in circles nor block others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

from mailrail import Channel
from mailrail.routing import Rate

from ..delivery.recipient_states import domain_of, waiting
from ..models import Email, MailerThrottle
from .channels import channel_of
from .policies import policy_of
from .throttle import MAX_RESERVATION_S, Overflow, are_in_use, known_slowed, note_wait, reserve, slowed

MAX_NAME_LENGTH = 255
"""Characters of a bucket's name."""
RELEASE_DELAY_S = 1.0
"""Seconds until email is due again that its mailer does not take now. Its limiter lets nobody claim it before then."""
ALL = ""
"""In place of a recipient domain: every email of the mailer."""


@dataclass(frozen=True)
class Limit:
    """Name one rate of one mailer for one domain, or ``ALL``."""

    mailer: str
    domain: str
    window: str
    rate: Rate

    @property
    def bucket(self) -> str:
        name = f"mail:{self.mailer}:{self.domain}:{self.window}"
        return name if len(name) <= MAX_NAME_LENGTH else f"mail:{sha256(name.encode()).hexdigest()}"

    def __str__(self) -> str:
        to = f" to {self.domain}" if self.domain else ""
        return f"mailer {self.mailer or 'default'!r} has used up its {self.rate.count} in {self.rate.seconds:g} s{to}"


Take: TypeAlias = Callable[[Limit, int], tuple[int, float]]
"""Take tokens of a limit, as ``take_tokens`` does."""


@dataclass
class Admission:
    """``ready``: may leave now. ``later``: seconds to wait, and why.

    An email to more recipients than its server takes at once has tokens for one transaction, and asks for more.
    """

    ready: list[Email]
    later: list[tuple[Email, float, str]] = field(default_factory=list)
    limits: Mapping[str, Sequence[Limit]] = field(default_factory=dict)
    take: Take = field(default_factory=lambda: take_tokens)

    def give_back(self, emails: Sequence[Email]) -> None:
        """Give the tokens back of emails that were not even tried."""
        if emails and self.limits:
            for limit, count in _needs(emails, self.limits).items():
                self.take(limit, -count)

    def domains(self, addresses: Iterable[str]) -> set[str]:
        """Return those with a limit, ``ALL`` among them."""
        return {ALL, *map(domain_of, addresses)} & self.limits.keys() if self.limits else set()

    def take_another(self, email: Email, domains: Iterable[str], using: str) -> tuple[float, str]:
        """Take the tokens of one more transaction to these domains. Return the seconds to wait, and why, or 0."""
        taken: list[Limit] = []
        for limit in (limit for domain in domains for limit in self.limits[domain]):
            granted, wait = self.take(limit, 1)
            if granted < 1:
                for limit_taken in taken:
                    self.take(limit_taken, -1)
                [(_, seconds, reason)] = _reservations(limit, [email], wait, using)
                return seconds, reason
            taken.append(limit)
        return 0.0, ""


def admit(mailer: str, emails: Sequence[Email], using: str, take: Take | None = None) -> Admission:
    """Take tokens for these emails, by ``take``. Raise ``LayerUnavailable``, or what the layer's database raises."""
    limits, take = _limits(mailer, using), take or take_tokens
    if not limits:
        return Admission(list(emails))
    refused: dict[Limit, list[Email]] = defaultdict(list)
    retry_after: dict[Limit, float] = {}
    taken: Counter[Limit] = Counter()
    ready = list(emails)
    for domain in sorted(limits, reverse=True):  # ALL last: it is asked for those that the others let through
        concerned = [email for email in ready if domain in _domains(email, limits)]
        allowed, binding = _ask(limits[domain], len(concerned), taken, retry_after, take)
        over = concerned[allowed:]
        if over and binding is not None:
            refused[binding] += over
            gone = {email.pk for email in over}
            ready = [email for email in ready if email.pk not in gone]
    for limit, count in _needs(ready, limits).items():
        taken[limit] -= count
    for limit, unused in taken.items():
        if unused > 0:
            take(limit, -unused)
    later = [
        reservation
        for limit, over in refused.items()
        for reservation in _waits(limit, over, retry_after[limit], using)
    ]
    return Admission(ready, later, limits, take)


def _limits(mailer: str, using: str) -> dict[str, list[Limit]]:
    """Return the limits that are configured, and those that servers have asked for."""
    policy = policy_of(mailer)
    limits = {
        domain: [Limit(mailer, domain, f"{rate.seconds:g}", rate) for rate in rates]
        for domain, rates in {ALL: policy.rate, **policy.rates}.items()
        if rates
    }
    for domain, pace in slowed(mailer, using).items():
        limits.setdefault(domain, []).append(_slow(mailer, domain, pace))
    return limits


def limits_of_all(mailer: str, using: str) -> Sequence[Limit]:
    """Return the limits of all email of a mailer: those of its policy, and what its server has asked for."""
    policy = policy_of(mailer)
    limits = [Limit(mailer, ALL, f"{rate.seconds:g}", rate) for rate in policy.rate or ()]
    if (pace := known_slowed(mailer, using).get(ALL)) is not None:
        limits.append(_slow(mailer, ALL, pace))
    return limits


def limits_in_use(
    mailers: Iterable[str], using: str, throttles: Iterable[MailerThrottle] | None = None
) -> set[tuple[str, str]]:
    """Return the mailers and recipient domains (``ALL``: all) whose rates email waits for.

    ``mailers``: those that have email. ``throttles``: the rows with reservations, if they have been read.
    """
    if throttles is None:
        throttles = MailerThrottle.objects.using(using).exclude(reservations={})
    limits = {(row.mailer, row.domain) for row in throttles if are_in_use(row)}
    for mailer in mailers:
        policy = policy_of(mailer)
        for domain, rates in {ALL: policy.rate, **policy.rates}.items():
            # Reservations that are farther away are not stored.
            if any(rate.seconds / rate.count > MAX_RESERVATION_S for rate in rates):
                limits.add((mailer, domain))
    return limits


def take_of_all(limits: Sequence[Limit], count: int) -> tuple[int, float, Limit | None]:
    """Take as many tokens of each limit as all of them allow. Return how many, the wait for the next, and whose."""
    taken, retry_after = Counter[Limit](), dict[Limit, float]()
    allowed, binding = _ask(limits, count, taken, retry_after, take_tokens)
    for limit, granted in taken.items():
        if granted > allowed:
            take_tokens(limit, allowed - granted)
    return allowed, retry_after[binding] if binding else 0.0, binding


def _slow(mailer: str, domain: str, pace: float) -> Limit:
    count = max(1, int(pace))
    return Limit(mailer, domain, "slow", Rate(count, count / pace))


def _domains(email: Email, limits: Mapping[str, object]) -> set[str]:
    """Return the domains with a limit, of the recipients that still wait."""
    return {ALL, *(domain_of(address) for address in waiting(email))} & limits.keys()


def _needs(emails: Iterable[Email], limits: Mapping[str, Sequence[Limit]]) -> Counter[Limit]:
    """Count tokens: a transaction takes one for each of its domains, however many recipients are there."""
    return Counter(
        limit for email in emails for domain in _domains(email, limits) for limit in limits[domain]
    )


def _ask(
    limits: Sequence[Limit],
    count: int,
    taken: Counter[Limit],
    retry_after: dict[Limit, float],
    take: Take,
) -> tuple[int, Limit | None]:
    """Return how many of ``count`` all of these limits allow, and which one allows the fewest."""
    binding = None
    for limit in limits:
        if count <= 0:
            break
        granted, wait = take(limit, count)
        taken[limit] += granted
        if granted < count:
            binding, count = limit, max(0, granted)
            retry_after[limit] = wait
    return count, binding


def take_tokens(limit: Limit, count: int) -> tuple[int, float]:
    """Take tokens, or give them back (``count`` below zero). Return how many, and the seconds until the next."""
    return Channel(channel_of(limit.mailer)).layer.take(limit.bucket, count, limit.rate)


def _waits(
    limit: Limit, emails: Sequence[Email], first: float, using: str
) -> Iterable[tuple[Email, float, str]]:
    """Return when each of these may be asked for again, and why.

    Email over a rate of all email is due soon, as the limiter of its channel lets nobody claim it before it may leave.
    """
    if limit.domain != ALL:
        return _reservations(limit, emails, first, using)
    note_wait(limit.mailer, limit.window, first, using)
    return [(email, RELEASE_DELAY_S, str(limit)) for email in emails]


def _reservations(
    limit: Limit, emails: Sequence[Email], first: float, using: str
) -> Iterable[tuple[Email, float, str]]:
    spacing = limit.rate.seconds / limit.rate.count
    overflow = Overflow(limit.window, [email.priority for email in emails], first, spacing)
    waits = reserve(limit.mailer, limit.domain, overflow, using)
    reason = str(limit)
    return [(email, wait, reason) for email, wait in zip(emails, waits, strict=True)]


def slowest_configured(mailer: str, domain: str) -> float:
    """Return the emails per second that its shortest rate allows; infinite without one."""
    policy = policy_of(mailer)
    rates = policy.rates.get(domain, ()) if domain else policy.rate
    return rates[0].count / rates[0].seconds if rates else float("inf")


def slowest_configured_of_all(mailer: str) -> float:
    """Return the emails per second of the rate of all email that is lowest in the long run; infinite without one."""
    return min((rate.count / rate.seconds for rate in policy_of(mailer).rate), default=float("inf"))
