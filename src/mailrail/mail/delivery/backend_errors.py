"""What the errors of backends of Django's API mean, as outcomes of SMTP: those of smtplib, of clients of HTTP, of
Anymail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http.client import BadStatusLine, IncompleteRead
from smtplib import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
)
from socket import gaierror
from ssl import SSLEOFError, SSLError, SSLZeroReturnError
from traceback import walk_tb

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend

from mailrail.addresses import bare
from mailrail.log import logger_of
from mailrail.storable import storable

from ..models import Email
from ..smtp import DeliveryOutcome, Fate
from ..smtp.errors import ConnectionLost, Unsendable
from ..smtp.replies import Reply, Stage, reply_of
from .record import waiting

logger = logger_of("mailrail.mail")


class NeverConnected(Exception):
    """Report that nothing was sent, as the cause of what a backend raised."""


UNREACHABLE_ERRORS = (
    ConnectionRefusedError,
    gaierror,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPHeloError,
    NeverConnected,
)
"""The server's fault, whatever the email: nothing was sent."""
BROKEN_CONNECTION_ERRORS = (
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    TimeoutError,
    SSLEOFError,
    SSLZeroReturnError,
    IncompleteRead,
    BadStatusLine,
)
"""The request may have come there, and its answer did not come back, or not all of it."""
BROKEN_CONNECTION_NAMES = {"RemoteProtocolError", "ServerDisconnectedError"}
"""The same, by name: of httpx and aiohttp."""
CONNECT_ERROR_NAMES = {"NewConnectionError", "ConnectTimeoutError", "ConnectTimeout", "ConnectError"}
"""Errors of urllib3, requests and httpx, by name, that come before anything is sent."""
UNDEFINED_STATUS = "4.0.0"
"""Other undefined status (RFC 3463 3.1)."""


def outcome_of_smtplib(error: Exception, email: Email) -> DeliveryOutcome | None:
    """Return what an error of smtplib means, or ``None`` for any other error.

    Raise ``NeverConnected`` for what is not the fault of this email.
    """
    match error:
        case SMTPNotSupportedError():
            if "SMTPUTF8" not in str(error):  # STARTTLS or AUTH: no email's fault
                raise NeverConnected(text_of(error)) from error
            return DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=Unsendable(text_of(error)))
        case SMTPRecipientsRefused():
            return _by_recipients(error, waiting(email))
        case SMTPResponseException():
            stage = Stage.MAIL if isinstance(error, SMTPSenderRefused) else Stage.BACKEND
            return DeliveryOutcome(Fate.REFUSED, stage, reply_from(error.smtp_code, error.smtp_error))
        case SMTPServerDisconnected() | TimeoutError():  # at which stage, smtplib does not say
            return _lost(error)
    return None


def outcome_of_error(error: Exception, message: EmailMessage, email: Email, backend: str) -> DeliveryOutcome:
    """Return what an error of a backend means. One that nobody knows is tried again, like a 451.

    Raise ``NeverConnected`` if nothing was sent.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, UNREACHABLE_ERRORS) or CONNECT_ERROR_NAMES & _names(cause) for cause in causes):
        raise NeverConnected(text_of(error)) from error
    if any(map(_is_ambiguous, causes)):
        return _lost(error)
    if not hasattr(error, "status_code"):  # with one, it is what a service has answered
        logger.error("%s raised over email %s, which is tried again later", backend, email.pk, exc_info=error)
    refused = refused_by_service(message, waiting(email))
    return DeliveryOutcome(
        Fate.REFUSED, Stage.BACKEND, Reply(451, text_of(error), _status_of(error)), refused
    )


def _lost(error: Exception) -> DeliveryOutcome:
    """Return the outcome of a connection that broke: nobody knows whether the email was sent."""
    return DeliveryOutcome(Fate.AMBIGUOUS, Stage.BACKEND, error=ConnectionLost(text_of(error), Stage.BACKEND))


def _by_recipients(error: SMTPRecipientsRefused, addresses: Sequence[str]) -> DeliveryOutcome:
    """Return the outcome of refused recipients: all of them, or those up to a 421, behind which none was asked for."""
    replies = {
        bare(address): reply_from(*code_and_text) for address, code_and_text in error.recipients.items()
    }
    bare_of = {address: bare(address) for address in addresses}
    refused = {address: replies[bare_of[address]] for address in addresses if bare_of[address] in replies}
    last = next((reply for reply in replies.values() if reply.code == 421), None)
    if last is not None:
        refused = {address: reply for address, reply in refused.items() if reply is not last}
        lost = ConnectionLost("The server closes the connection", Stage.RCPT, last)
        return DeliveryOutcome(Fate.UNSENT, Stage.RCPT, last, refused, lost)
    others = [address for address in addresses if address not in refused]
    unheard = [reply for address, reply in replies.items() if address not in bare_of.values()]
    if len(unheard) != len(others):
        unheard = [Reply(451, "refused, and nobody knows by which reply", UNDEFINED_STATUS)] * len(others)
    return DeliveryOutcome(
        Fate.REFUSED, Stage.RCPT, None, {**refused, **dict(zip(others, unheard, strict=True))}
    )


def refused_by_service(message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
    """Return whom Anymail's service refuses, by ``message.anymail_status``."""
    recipients = getattr(getattr(message, "anymail_status", None), "recipients", {})
    codes = {"invalid": 550, "rejected": 550, "failed": 451}
    statuses = {bare(address): recipient.status for address, recipient in recipients.items()}
    status_by_address = {address: statuses.get(bare(address)) for address in addresses}
    return {
        address: Reply(codes[status], f"the service says: {status}")
        for address, status in status_by_address.items()
        if status in codes
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield what was raised and its causes: clients of HTTP wrap errors of sockets, and backends wrap theirs."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_ambiguous(error: BaseException) -> bool:
    """Tell whether the email may have been sent. So it may with Anymail's error that the service answered no JSON."""
    if _is_of_a_handshake(error):
        return False
    status = getattr(error, "status_code", None)
    # Without that cause, it may be a refusal: Postal's all have the status 200.
    taken = isinstance(status, int) and 200 <= status < 300 and isinstance(error.__cause__, ValueError)
    return (
        taken or isinstance(error, BROKEN_CONNECTION_ERRORS) or bool(BROKEN_CONNECTION_NAMES & _names(error))
    )


def _is_of_a_handshake(error: BaseException) -> bool:
    """Tell whether an error comes from the handshake of TLS, before anything was sent."""
    return any(frame.f_code.co_name == "do_handshake" for frame, _ in walk_tb(error.__traceback__))


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _status_of(error: Exception) -> str:
    """Too many requests (RFC 6585 4), as Anymail tells it, or nothing that we know."""
    return "4.7.0" if getattr(error, "status_code", None) == 429 else UNDEFINED_STATUS


def reply_from(code: int, text: bytes | str) -> Reply:
    return reply_of(code, text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def text_with_server(backend: BaseEmailBackend, error: Exception) -> str:
    """Return the text of an error with the server and the file that sockets and OpenSSL leave out."""
    error_text = text_of(error)
    if not isinstance(backend, djangos.EmailBackend):
        return error_text
    files = {name: getattr(backend, name) for name in ("ssl_certfile", "ssl_keyfile")}
    named = ", ".join(f"{name} {path!r}" for name, path in files.items() if path)
    of_a_file = isinstance(error, FileNotFoundError | PermissionError | SSLError)
    about = f"{backend.host}:{backend.port}" + (f"; {named}" if named and of_a_file else "")
    return storable(f"{error_text} ({about})")


def text_of(error: Exception) -> str:
    try:
        return storable(f"{type(error).__name__}: {error}")
    except Exception:  # some cannot even say what they are
        return type(error).__name__
