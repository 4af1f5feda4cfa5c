"""What users of Django's own SMTP backend expect: its addresses, smtplib's exceptions."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable
from email.policy import default as parsing
from email.utils import parseaddr
from functools import lru_cache, partial
from typing import Any

from django.conf import settings
from django.core.mail.backends import smtp

from mailrail.addresses import with_ascii_domains

from .envelope import DeliveryOutcome, Envelope
from .errors import (
    AuthenticationRefused,
    CannotBegin,
    CannotConnect,
    PoolExhausted,
    ServerRefused,
    SmtpError,
    TlsFailed,
    TooLarge,
)
from .replies import Reply, Stage

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ATOMS = r"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*"
_ADDRESS = rf"{_ATOMS}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
COMMON_ADDRESS = re.compile(rf"{_ADDRESS}|(?:[A-Za-z0-9]+ ){{1,8}}<(?P<named>{_ADDRESS})>")
"""Where Django's parser, which takes a third of a millisecond, finds what is plain to see."""


def address_of(backend: Any, address: str, encoding: Any) -> str:
    """Return the bare address, its domain in ASCII by IDNA 2008. Raise ``ValueError``, as Django does.

    ``encoding``: that of the message.
    """
    kind: type = type(backend)
    if type(address) is str and (common := COMMON_ADDRESS.fullmatch(address)) and _is_djangos(kind):
        return common["named"] or address
    address = with_ascii_domains(str(address))  # Django would take IDNA 2003 for it
    if hasattr(backend, "prep_address"):
        prepared: str = backend.prep_address(address)
        return prepared
    from django.core.mail.message import sanitize_address

    prepared = parseaddr(sanitize_address(address, encoding or settings.DEFAULT_CHARSET))[1]
    if prepared.startswith('"'):
        _check_grammar(address)
    return prepared


def _check_grammar(address: str) -> None:
    """Raise ``ValueError`` for words that are no address until Django 5.2 puts quotes around them, as Django 6 does."""
    if defects := parsing.header_factory("To", address).defects:
        raise ValueError(f"Invalid address {address!r}: {'; '.join(map(str, defects))}")


def addresses_for(backend: Any) -> Callable[[str, Any], str]:
    """Return ``utf8_address_of`` for this backend, quick for what is common."""
    kind: type = type(backend)
    if not _is_djangos(kind):
        return partial(utf8_address_of, backend)

    def address(given: str, encoding: Any) -> str:
        if type(given) is str and (common := COMMON_ADDRESS.fullmatch(given)):
            return common["named"] or given
        return utf8_address_of(backend, given, encoding)

    return address


def utf8_address_of(backend: Any, address: str, encoding: Any) -> str:
    """Return the same for servers with SMTPUTF8 (RFC 6531): the local part may be of any script.

    Django 6 refuses such an address unless it is told otherwise, Django 5.2 makes another one of it.
    """
    if address.isascii():
        return address_of(backend, address, encoding)
    address = with_ascii_domains(address)
    local, _, domain = parseaddr(address)[1].rpartition("@")
    if local.isascii() or not domain:
        return address_of(backend, address, encoding)
    if hasattr(backend, "prep_address"):
        prepared: str = backend.prep_address(address, force_ascii=False)
        return prepared
    stand_in = _NOT_ASCII.sub("x", local)
    checked = address_of(backend, address.replace(f"{local}@", f"{stand_in}@"), encoding)
    return f"{local}@{checked.rpartition('@')[2]}"


@lru_cache(maxsize=64)
def _is_djangos(kind: type) -> bool:
    """Tell whether it prepares addresses as Django's backend does. A subclass may do it in its own way."""
    return getattr(kind, "prep_address", None) is getattr(smtp.EmailBackend, "prep_address", None)


def exception_of(envelope: Envelope, outcome: DeliveryOutcome) -> Exception:
    """Return what smtplib would have raised."""
    if isinstance(outcome.error, SmtpError):
        return exception_for(outcome.error)
    if isinstance(outcome.error, TooLarge):
        return smtplib.SMTPSenderRefused(552, str(outcome.error).encode(), envelope.mail_from)
    if outcome.error is not None:
        return smtplib.SMTPNotSupportedError(str(outcome.error))
    if outcome.reply is None:
        return smtplib.SMTPRecipientsRefused(
            {recipient: (reply.code, _text_of(reply)) for recipient, reply in outcome.refused.items()}
        )
    if outcome.stage is Stage.MAIL:
        return smtplib.SMTPSenderRefused(outcome.reply.code, _text_of(outcome.reply), envelope.mail_from)
    return smtplib.SMTPDataError(outcome.reply.code, _text_of(outcome.reply))


def exception_for(error: SmtpError) -> Exception:
    """Return the same for a connection. Errors of sockets and ssl are raised unchanged, with our advice as a note."""
    cause = error.__cause__
    if isinstance(error, CannotBegin) or (
        isinstance(error, CannotConnect | TlsFailed) and isinstance(cause, OSError)
    ):
        assert isinstance(cause, Exception)
        cause.add_note(str(error))
        return cause
    reply = error.reply
    if isinstance(error, ServerRefused) and reply:
        kind = smtplib.SMTPConnectError if error.stage is Stage.GREETING else smtplib.SMTPHeloError
        return kind(reply.code, _text_of(reply))
    if isinstance(error, AuthenticationRefused) and reply:
        return smtplib.SMTPAuthenticationError(reply.code, _text_of(reply))
    if isinstance(error, TlsFailed) and reply:
        return smtplib.SMTPResponseException(reply.code, _text_of(reply))
    if isinstance(error, AuthenticationRefused | TlsFailed):
        return smtplib.SMTPNotSupportedError(str(error))
    if isinstance(error, PoolExhausted):
        return smtplib.SMTPException(str(error))
    return smtplib.SMTPServerDisconnected(str(error))


def _text_of(reply: Reply) -> bytes:
    return f"{reply.enhanced} {reply.text}".strip().encode()
