"""What the options of an SMTP mailer tell before anything is sent: a login that lacks, a port that does not fit.

mailrail.mail.W006  the mailer that delivers has a user name, and no password or token: it will not log in
mailrail.mail.W008  the port of the mailer that delivers does not fit use_tls or use_ssl
"""

from __future__ import annotations

from collections.abc import Iterable

from django.core.checks import CheckMessage, Warning
from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend

from . import smtp as ours
from .smtp.server import SmtpServer, Tls


def check_server(where: str, backend: BaseEmailBackend) -> Iterable[CheckMessage]:
    """Warn of what a server will refuse. Nothing is opened."""
    if not isinstance(backend, djangos.EmailBackend):
        return
    yield from _check_login(where, backend)
    yield from _check_port(where, backend)


def _check_login(where: str, backend: djangos.EmailBackend) -> Iterable[CheckMessage]:
    has_token = isinstance(backend, ours.EmailBackend) and backend.server.token is not None
    if backend.username and not (backend.password or has_token):
        yield Warning(
            f"{where} has the user name {backend.username!r}, and neither a password nor a token: nobody logs in.",
            hint="Is the variable empty that should hold the password? Leave the user name out, too, if the server "
            "asks for no login.",
            id="mailrail.mail.W006",
        )


def _check_port(where: str, backend: djangos.EmailBackend) -> Iterable[CheckMessage]:
    """Check the port, also of a subclass that we know nothing else of: the options mean the same to it."""
    tls: Tls = "implicit" if backend.use_ssl else "starttls" if backend.use_tls else "none"
    if not str(backend.port).isdigit():
        return  # the name of a service, which smtplib takes
    if advice := SmtpServer(str(backend.host), int(backend.port), tls).port_advice:
        has = {"implicit": "use_ssl", "starttls": "use_tls", "none": "neither use_ssl nor use_tls"}[tls]
        yield Warning(f"{where} has port {backend.port} and {has}.", hint=advice, id="mailrail.mail.W008")
