"""Send emails by our SMTP client, over connections of the process's pool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from django.core.mail.backends.base import BaseEmailBackend

from ..models import Email
from ..smtp import SmtpServer
from ..smtp.as_django import addresses_for
from ..smtp.errors import PoolExhausted
from .attempt import Attempt
from .load import Loaded
from .source import EmailSource, commit_together
from .together import send_alone, send_together

EMAILS_PER_CONNECTION = 5
"""Emails that are worth another connection."""


class SmtpTransport:
    """Send many emails at once, over several connections."""

    def __init__(self, attempt: Attempt, backend: BaseEmailBackend, server: SmtpServer) -> None:
        self._attempt = attempt
        self._backend = backend
        self._server = server

    def connections_for(self, emails: int) -> int:
        """Return how many connections so many emails are worth: one, for a probe."""
        if self._attempt.is_probe:
            return 1
        return max(1, min(self._server.pool_size, -(-emails // EMAILS_PER_CONNECTION)))

    def send(self, emails: Sequence[Loaded], connections: int, keep_open: bool) -> tuple[list[Email], str]:
        """Send until no email is left or no connection works. Return what is left, and why the mailer is out."""
        attempt, server = self._attempt, self._server
        source = EmailSource(emails, attempt, server, addresses_for(self._backend))
        try:
            # With other batches, unless connections are counted, or whatever fails has to be due to this batch.
            if attempt.is_alone or not keep_open:
                errors = send_alone(source, server, connections, attempt.login, keep_open)
            else:
                key = (attempt.mailer, server, attempt.using)
                errors = send_together(source, key, connections, attempt.login)
        except PoolExhausted:
            return source.left(), ""
        finally:
            source.put_off_rest()
            attempt.writer.patiently(partial(commit_together, [source]))
        attempt.heard(errors)
        broken = str(errors[0]) if errors and source.left() and not source.accepted else ""
        return source.left(), source.mailer_out or broken
