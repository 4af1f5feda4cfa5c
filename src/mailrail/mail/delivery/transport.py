"""What sends emails by a mailer: our SMTP client, or any backend of Django's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..models import Email
from .load import Loaded


class Transport(Protocol):
    """Send loaded emails, and write each result as it comes, by ``Attempt.write``.

    No email leaves whose intent is not written.
    """

    def connections_for(self, emails: int) -> int:
        """Return how many connections so many emails are worth."""

    def send(self, emails: Sequence[Loaded], connections: int, keep_open: bool) -> tuple[list[Email], str]:
        """Send over at most so many connections. Return what is left, and why the mailer is out, if it is.

        ``keep_open``: connections may stay open for the next emails.
        """
