"""Send emails by our SMTP client, over connections of the process's pool."""

from __future__ import annotations

from collections.abc import Sequence

from django.core.mail.backends.base import BaseEmailBackend

from ..models import Email
from ..smtp import Connection, SmtpError, SmtpServer, close_all, drive, pool_of, send_all
from ..smtp.as_django import addresses_for
from ..smtp.errors import PoolExhausted
from .attempt import Attempt
from .load import Loaded
from .source import EmailSource

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
        source = EmailSource(
            emails,
            self._attempt,
            self._server,
            addresses_for(self._backend),
        )
        try:
            taken = self._take(connections)
        except PoolExhausted:
            return source.left(), ""
        errors = self._send_over(taken, source, keep_open)
        self._attempt.heard(errors)
        broken = str(errors[0]) if errors and source.left() and not source.accepted else ""
        return source.left(), source.mailer_out or broken

    def _take(self, most: int) -> list[Connection]:
        """Take at least one connection, and others that are free. Raise ``PoolExhausted``."""
        pool = pool_of(self._server)
        connections = [pool.take()]
        try:
            while len(connections) < most:
                connections.append(pool.take(timeout=0))
        except PoolExhausted:
            pass  # the other batch has them
        return connections

    def _send_over(
        self, connections: Sequence[Connection], source: EmailSource, keep_open: bool
    ) -> list[SmtpError]:
        """Send, write down the last outcomes, and give the connections back. Return why connections failed."""
        try:
            return self._open_first(connections) or send_all(connections, source)
        finally:
            if not keep_open:
                close_all(connections)
            for connection in connections:
                pool_of(self._server).give_back(connection)
            source.put_off_rest()
            self._attempt.patiently(source.commit)

    def _open_first(self, connections: Sequence[Connection]) -> list[SmtpError]:
        """Log in over one connection before the others are opened. Returns why that could not be."""
        login = self._attempt.login
        if login is None or not login.key or any(connection.is_open for connection in connections):
            return []
        try:
            drive(connections[0].open())
        except SmtpError as error:
            return [error]
        login.accepted()
        return []
