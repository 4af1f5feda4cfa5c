"""Which server, and how to talk to it."""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from .errors import CannotBegin
from .replies import Stage

Tls = Literal["none", "starttls", "implicit"]

TLS_PORTS = frozenset({465, 2465})
"""Where a server waits for TLS before it says a word: RFC 8314 3.3, and Amazon SES."""
PLAIN_PORTS = frozenset({25, 587, 2587})
"""Where a server greets without TLS: RFC 5321 4.5.4.2, RFC 6409 3.1, and Amazon SES."""
GREETING_TIMEOUT_S = 8.0
"""Seconds to wait for a greeting at a port of the first kind without ``use_ssl``: it never comes."""
USE_SSL = (
    "Write use_ssl (EMAIL_USE_SSL) in place of use_tls: at this port TLS begins before the first word "
    "(RFC 8314 3.3)."
)
USE_TLS = (
    "Write use_tls (EMAIL_USE_TLS) in place of use_ssl: this server speaks first, and TLS begins by STARTTLS "
    "(RFC 3207)."
)

_HOST = re.compile(r"(?=.{1,255}$)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[A-Za-z0-9:.-]{1,253}\]")
IGNORABLE = frozenset({"PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE"})
"""Those that the client uses by itself. STARTTLS and AUTH are asked for, or not, by ``use_tls`` and ``username``."""


def check_local_hostname(where: str, name: object) -> str:
    """Return what EHLO may say. Raise ``ValueError`` that names the option."""
    if not isinstance(name, str) or not _HOST.fullmatch(name):
        raise ValueError(
            f"{where} must be a host name in ASCII, such as 'mail.example.com', or an address such as '[192.0.2.1]', "
            f"not {name!r}."
        )
    return name


def check_extensions(where: str, names: object) -> frozenset[str]:
    """Return the keywords in capitals. Raise ``ValueError`` that names the option."""
    if not isinstance(names, list | tuple | set | frozenset) or not all(
        isinstance(name, str) for name in names
    ):
        raise ValueError(f"{where} must be a list of SMTP extensions, such as ['PIPELINING'], not {names!r}.")
    extensions = frozenset(name.upper() for name in names)
    if unknown := extensions - IGNORABLE:
        raise ValueError(
            f"{where} names {min(unknown)!r}, which is none of: {', '.join(sorted(IGNORABLE))}. TLS and login are the "
            "matter of use_tls and username."
        )
    return extensions


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of silence at most, by what is waited for. The defaults are those of RFC 5321 4.5.3.2."""

    connect: float = 30.0
    greeting: float = 300.0
    command: float = 300.0
    data: float = 120.0
    block: float = 180.0
    dot: float = 600.0
    """The longest, as a server may check the email first and an ambiguous email may cost a second copy."""
    quit: float = 2.0
    """Ours: an answer to a goodbye is worth little."""

    def capped(self, seconds: float | None) -> Timeouts:
        """None of them longer than this."""
        if seconds is None:
            return self
        return Timeouts(**{f.name: min(seconds, getattr(self, f.name)) for f in dataclasses.fields(self)})


@dataclass(frozen=True)
class SmtpServer:
    """One way to one server. Equal ones share a pool of connections.

    ``token``: called at each login for an XOAUTH2 access token, in place of a password. ``context``: instead of the
    default one, which checks certificate and host name.
    """

    host: str
    port: int = 25
    tls: Tls = "none"
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    token: Callable[[], str] | None = None
    context: ssl.SSLContext | None = None
    certfile: str | None = None
    keyfile: str | None = None
    local_hostname: str = "localhost"
    """What EHLO says: a name with a domain, or an address literal (RFC 5321 4.1.1.1)."""
    ignored_extensions: frozenset[str] = frozenset()
    """Not used, though the server offers them: keywords of EHLO in capitals, such as ``"PIPELINING"``."""
    max_recipients: int | None = None
    """Recipients of an email in one transaction; ``None``: as many as it takes."""
    timeouts: Timeouts = Timeouts()
    pool_size: int = 20
    """Connections that are open at once, per process."""
    pool_timeout: float = 30.0
    """Seconds to wait for one when all are in use."""
    max_messages: int = 1000
    """Emails over one connection."""
    max_age: float = 3600.0
    """Seconds after which a connection is replaced when it comes back."""
    check_after: float = 15.0
    """Seconds of idleness after which a connection is asked, by NOOP, whether it still is one."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Compute it once, as each email asks for its server several times."""
        return hash(tuple(getattr(self, name.name) for name in dataclasses.fields(self)))

    @property
    def port_advice(self) -> str:
        """Return what to write instead, if the port and the way to TLS do not fit; else an empty text."""
        if self.port in TLS_PORTS and self.tls != "implicit":
            return USE_SSL
        return USE_TLS if self.port in PLAIN_PORTS and self.tls == "implicit" else ""

    def tls_context(self) -> ssl.SSLContext:
        if self.context is not None:
            return self.context
        return _context(self.certfile, self.keyfile)


@cache
def _context(certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """Made once: loading the authorities takes longer than a whole email."""
    context = ssl.create_default_context()
    if certfile:
        _load_certificate(context, certfile, keyfile)
    return context


def _load_certificate(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    """Raise ``CannotBegin`` that names the options and the files: OpenSSL does not say which one is missing."""
    try:
        for path in filter(None, (certfile, keyfile)):
            Path(path).open("rb").close()
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:  # such as ssl.SSLError
        names = f"ssl_certfile {certfile!r}" + (f" and ssl_keyfile {keyfile!r}" if keyfile else "")
        error_text = f"{names} cannot be used: {type(error).__name__}: {error}"
        raise CannotBegin(error_text, Stage.CONNECT) from error
