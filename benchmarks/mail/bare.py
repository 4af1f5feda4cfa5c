"""``python -m benchmarks.mail.bare COUNT CONNECTIONS``: no queue at all, only our pipelined client.

Each email is built by Django, as its SMTP backend does it. Says "ready", and begins at the first line it is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from email import policy

import django

from mailrail.mail.smtp import DeliveryOutcome, Envelope, SmtpServer, close_pools, pool_of, send_all


class EnvelopeSource:
    """Of emails that are built when their turn comes."""

    def __init__(self, count: int) -> None:
        from .models import Invitation

        self._waiting = [Invitation(email=f"guest{n}@example.com", key=f"{n:010d}") for n in range(count)]

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Envelope | None:
        if not self._waiting:
            return None
        invitation = self._waiting.pop()
        message = invitation.message()
        content = message.message(policy=policy.SMTP).as_bytes()
        return Envelope("plants@example.com", [invitation.email], content)

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        return [True] * len(envelopes)

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        pass  # the server counts

    def stop(self) -> None:
        self._waiting.clear()


def main() -> None:
    count, connections = map(int, sys.argv[1:])
    django.setup()
    source = EnvelopeSource(count)
    pool = pool_of(SmtpServer("127.0.0.1", int(os.environ["BENCHMARKS_SMTP_PORT"])))
    print("ready", flush=True)
    sys.stdin.readline()
    taken = [pool.take() for _ in range(connections)]
    send_all(taken, source)
    for each in taken:
        pool.give_back(each)
    close_pools()


if __name__ == "__main__":
    main()
