"""Which emails of a batch may leave now, by the rates of their mailer and of their recipients' domains.

A rate is a bucket of tokens on the layer that all workers share (``layer.take``). A batch asks each bucket it needs
once. Emails that the bucket refuses get a reservation (``throttle.reserve``) and are released until then. So they
neither run in circles nor block others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from mailrail import Channel
from mailrail.routing import Rate

from ..delivery.outcomes import domain_of, waiting
from ..models import Email
from ..queueing.accept import CHANNEL
from .policies import policy_of
from .throttle import Overflow, reserve, slowed

MAX_NAME_LENGTH = 255
"""Characters of a bucket's name."""
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


@dataclass
class Admission:
    """``ready``: may leave now. ``later``: seconds to wait, and why.

    An email to more recipients than its server takes at once has tokens for one transaction, and asks for more.
    """

    ready: list[Email]
    later: list[tuple[Email, float, str]] = field(default_factory=list)
    limits: Mapping[str, Sequence[Limit]] = field(default_factory=dict)

    def give_back(self, emails: Sequence[Email]) -> None:
        """Give the tokens back of emails that were not even tried."""
        if emails and self.limits:
            for limit, count in _needs(emails, self.limits).items():
                _take(limit, -count)

    def domains(self, addresses: Iterable[str]) -> set[str]:
        """Return those with a limit, ``ALL`` among them."""
        return {ALL, *map(domain_of, addresses)} & self.limits.keys() if self.limits else set()

    def take_another(self, email: Email, domains: Iterable[str], using: str) -> tuple[float, str]:
        """Take the tokens of one more transaction to these domains. Return the seconds to wait, and why, or 0."""
        taken: list[Limit] = []
        for limit in (limit for domain in domains for limit in self.limits[domain]):
            granted, wait = _take(limit, 1)
            if granted < 1:
                for limit_taken in taken:
                    _take(limit_taken, -1)
                [(_, seconds, reason)] = _reservations(limit, [email], wait, using)
                return seconds, reason
            taken.append(limit)
        return 0.0, ""


def admit(mailer: str, emails: Sequence[Email], using: str) -> Admission:
    """Take tokens for these emails. Raise ``LayerUnavailable``, or what the layer's database raises."""
    limits = _limits(mailer, using)
    if not limits:
        return Admission(list(emails))
    refused: dict[Limit, list[Email]] = defaultdict(list)
    retry_after: dict[Limit, float] = {}
    taken: Counter[Limit] = Counter()
    ready = list(emails)
    for domain in sorted(limits, reverse=True):  # ALL last: it is asked for those that the others let through
        concerned = [email for email in ready if domain in _domains(email, limits)]
        allowed, binding = _ask(limits[domain], len(concerned), taken, retry_after)
        over = concerned[allowed:]
        if over and binding is not None:
            refused[binding] += over
            gone = {email.pk for email in over}
            ready = [email for email in ready if email.pk not in gone]
    for limit, count in _needs(ready, limits).items():
        taken[limit] -= count
    for limit, unused in taken.items():
        if unused > 0:
            _take(limit, -unused)
    later = [
        reservation
        for limit, over in refused.items()
        for reservation in _reservations(limit, over, retry_after[limit], using)
    ]
    return Admission(ready, later, limits)


def _limits(mailer: str, using: str) -> dict[str, list[Limit]]:
    """Return the limits that are configured, and those that servers have asked for."""
    policy = policy_of(mailer)
    limits = {
        domain: [Limit(mailer, domain, f"{rate.seconds:g}", rate) for rate in rates]
        for domain, rates in {ALL: policy.rate, **policy.rates}.items()
        if rates
    }
    for domain, pace in slowed(mailer, using).items():
        count = max(1, int(pace))
        limits.setdefault(domain, []).append(Limit(mailer, domain, "slow", Rate(count, count / pace)))
    return limits


def _domains(email: Email, limits: Mapping[str, object]) -> set[str]:
    """Return the domains with a limit, of the recipients that still wait."""
    return {ALL, *(domain_of(address) for address in waiting(email))} & limits.keys()


def _needs(emails: Iterable[Email], limits: Mapping[str, Sequence[Limit]]) -> Counter[Limit]:
    """Count tokens: a transaction takes one for each of its domains, however many recipients are there."""
    return Counter(
        limit for email in emails for domain in _domains(email, limits) for limit in limits[domain]
    )


def _ask(
    limits: Sequence[Limit], count: int, taken: Counter[Limit], retry_after: dict[Limit, float]
) -> tuple[int, Limit | None]:
    """Return how many of ``count`` all of these limits allow, and which one allows the fewest."""
    binding = None
    for limit in limits:
        if count <= 0:
            break
        granted, wait = _take(limit, count)
        taken[limit] += granted
        if granted < count:
            binding, count = limit, max(0, granted)
            retry_after[limit] = wait
    return count, binding


def _take(limit: Limit, count: int) -> tuple[int, float]:
    return Channel(CHANNEL).layer.take(limit.bucket, count, limit.rate)


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
