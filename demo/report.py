"""What came of it: how many, how often, how long, and what is wrong with that."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import django

from demo.smtp import Received

NAMED = 3  # so many addresses are named in a reason, the others counted


@dataclass(frozen=True)
class Report:
    """``submitted``: when (``time.monotonic()``) each address was; ``received``: what the mail server took."""

    submitted: Mapping[str, float]
    received: Sequence[Received]
    exit_codes: Mapping[str, int] = field(default_factory=dict)
    accepted: Sequence[str] = ()  # addresses whose rows say that they accepted
    should_accept: Sequence[str] = ()
    marked_sent: int = 0  # invitations that say their mail was sent
    emails: Sequence[str] = ()  # the status of each email in the queue
    versions: Mapping[str, str] = field(default_factory=dict)  # of the servers, and what takes their place

    @cached_property
    def copies(self) -> Counter[str]:
        """How many mails each recipient got."""
        return Counter(mail.recipient for mail in self.received)

    @cached_property
    def waits(self) -> list[float]:
        """Milliseconds from the submission of an address to the acceptance of its first mail, in order."""
        first: dict[str, float] = {}
        for mail in self.received:
            first.setdefault(mail.recipient, mail.at)
        return sorted(
            (first[address] - at) * 1000 for address, at in self.submitted.items() if address in first
        )

    @property
    def seconds(self) -> float:
        """From the first submission to the last acceptance."""
        if not self.received:
            return 0.0
        return max(mail.at for mail in self.received) - min(self.submitted.values())

    def problems(self) -> list[str]:
        """Return what did not go as promised, a sentence each; an empty list: all is well."""
        copies, ids = self.copies, Counter(mail.message_id for mail in self.received)
        return [
            *_named("never arrived", [address for address in self.submitted if address not in copies]),
            *_named("arrived more than once", [address for address, count in copies.items() if count > 1]),
            *_named("arrived unasked", [address for address in copies if address not in self.submitted]),
            *_named("share a Message-ID with another", [id for id, count in ids.items() if count > 1]),
            *self._problems_of_the_rows(),
            *(f"{name} exited with {code}, not 0." for name, code in self.exit_codes.items() if code),
        ]

    def _problems_of_the_rows(self) -> list[str]:
        problems = []
        if sorted(self.accepted) != sorted(self.should_accept):
            problems.append(
                f"Accepted by link: {', '.join(self.should_accept) or 'nobody'}; "
                f"accepted in the database: {', '.join(self.accepted) or 'nobody'}."
            )
        if self.marked_sent != len(self.submitted):
            problems.append(f"Of {len(self.submitted)} invitations, {self.marked_sent} are marked as sent.")
        if sorted(self.emails) != ["sent"] * len(self.submitted):
            statuses = ", ".join(f"{count} {status}" for status, count in Counter(self.emails).most_common())
            problems.append(f"Of {len(self.submitted)} emails, the queue records: {statuses or 'none'}.")
        return problems

    def table(self) -> str:
        """Return the table that the demo ends with."""
        rows = {
            "submitted": f"{len(self.submitted)}",
            "queued": f"{len(self.emails)}",
            "received": f"{len(self.copies)}",
            "received twice": f"{sum(count > 1 for count in self.copies.values())}",
            "accepted by link": f"{len(self.accepted)}",
            "seconds": f"{self.seconds:.2f}",
            "submit to acceptance, p50": f"{percentile(self.waits, 50):,.0f} ms",
            "submit to acceptance, p99": f"{percentile(self.waits, 99):,.0f} ms",
            "Django": django.get_version(),
            "Python": platform.python_version(),
            **self.versions,
        }
        wide, high = max(map(len, rows)), max(map(len, rows.values()))
        rule = f"  {'─' * (wide + high + 2)}"
        lines = [f"  {name:<{wide}}  {value:>{high}}" for name, value in rows.items()]
        return "\n".join([rule, *lines, rule])


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that ``percent`` % of the ordered values do not exceed; ``nan`` of none."""
    if not ordered:
        return float("nan")
    return ordered[-(-len(ordered) * percent // 100) - 1]


def _named(problem: str, addresses: Sequence[str]) -> list[str]:
    if not addresses:
        return []
    more = f" and {len(addresses) - NAMED} more" if len(addresses) > NAMED else ""
    return [f"{len(addresses)} {problem}: {', '.join(addresses[:NAMED])}{more}."]
