"""Delivery by a backend of Django's API: Anymail, files, the console, or a project's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import format_datetime
from http.client import BadStatusLine, IncompleteRead
from smtplib import (
    SMTP,
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
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as djangos
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone

from mailrail.addresses import InvalidDomain, bare
from mailrail.addresses import with_ascii_domains as in_text
from mailrail.log import logger_of
from mailrail.storable import storable

from ..compose.authors import mailboxes, missing_sender
from ..compose.dialect import in_its_zone
from ..compose.domains import with_ascii_domains
from ..mailers.config import composes
from ..mailers.logins import Login
from ..mailers.refused_senders import RefusedSenders
from ..models import Email
from ..queueing.serialize import FinishedMessage
from ..smtp import DeliveryOutcome, Fate, SmtpError
from ..smtp.backend import IS_QUEUED, REFUSED
from ..smtp.errors import ConnectionLost, Unsendable
from ..smtp.replies import Reply, Stage, reply_of
from ..smtp.transactions import overflow, without
from .load import Loaded
from .outcomes import Result, apply_outcome, hold_for_its_sender, waiting
from .recipient_states import may_go_on
from .store import store_outcomes

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


def send_by_django(
    backend: BaseEmailBackend,
    loaded: Sequence[Loaded],
    mailer: str,
    using: str,
    senders: RefusedSenders,
    login: Login,
    settle: Callable[[Sequence[Result]], None],
) -> tuple[list[Email], str | None]:
    """Send one after the other, and commit the intent of each first. Return what is left, and why, after an outage."""
    if not loaded:
        return [], None
    if why_closed := _open(backend, login):
        return [unsent.email for unsent in loaded], why_closed
    left = deque(loaded)
    try:
        while left:
            current = left[0]
            if current.email.mailer == mailer and (reason := senders.reason_to_hold(current.email)):
                left.popleft()
                settle([hold_for_its_sender(current.email, timezone.now(), mailer, why=reason)])
                continue
            if current.email.pk not in store_outcomes((), [current.email], using).claimed:
                left.rotate(-1)  # changed meanwhile: it is looked at again later
                return [unsent.email for unsent in left], None
            left.popleft()
            outcome, why_out = _attempt(backend, current, mailer)
            result = _apply(current.email, outcome, mailer, senders)
            settle([result])
            if result.is_part:
                left.appendleft(current)
            why_out = why_out or result.mailer_out
            if not why_out and _has_lost_its_connection(outcome):
                why_out = _reopen(backend) or ""
            if why_out:
                return [unsent.email for unsent in left], why_out
    finally:
        _close(backend)
    return [], None


def _apply(email: Email, outcome: DeliveryOutcome, mailer: str, senders: RefusedSenders) -> Result:
    """Apply an outcome. Recipients for whom the server had no room follow at once, where the backend names them."""
    now, offered = timezone.now(), waiting(email)
    over, _ = overflow(offered, outcome)
    if not over or not may_go_on(outcome, mailer):
        return apply_outcome(email, outcome, now, mailer, senders)
    outcome = without(outcome, over)
    return apply_outcome(email, outcome, now, mailer, senders, {*offered} - {*over}, goes_on=True)


def _open(backend: BaseEmailBackend, login: Login) -> str | None:
    """Open the connection, or return why it cannot be. Then close it: Django's backend keeps the socket of a refused
    login."""
    try:
        backend.open()
    except Exception as error:
        _close(backend)
        if isinstance(error, SMTPAuthenticationError):
            login.refused()
        return _text_with_server(backend, error)
    login.accepted()
    return None


def _attempt(backend: BaseEmailBackend, loaded: Loaded, mailer: str) -> tuple[DeliveryOutcome, str]:
    """Send one email. Returns its outcome, and why none of the others can be sent, if none can."""
    try:
        return _outcome_of(backend, loaded, mailer), ""
    except UNREACHABLE_ERRORS as error:
        error_text = _text_with_server(backend, error)
        outcome = DeliveryOutcome(Fate.UNSENT, Stage.CONNECT, error=SmtpError(error_text, Stage.CONNECT))
        return outcome, error_text


def _has_lost_its_connection(outcome: DeliveryOutcome) -> bool:
    """Tell whether the connection is lost: smtplib says so of every later email, of which nothing was sent."""
    replies = [outcome.reply, *outcome.refused.values()]
    return outcome.fate is Fate.AMBIGUOUS or any(reply and reply.code == 421 for reply in replies)


def _reopen(backend: BaseEmailBackend) -> str | None:
    """Open the connection again, or return why it cannot be."""
    _close(backend)
    try:
        backend.open()
    except Exception as error:
        return _text_with_server(backend, error)
    return None


def _close(backend: BaseEmailBackend) -> None:
    """Close the connection. What that raises says nothing of the emails, whose outcomes are known."""
    try:
        backend.close()
    except Exception:
        logger.exception("%s.close() raised", type(backend).__qualname__)


def _outcome_of(backend: BaseEmailBackend, loaded: Loaded, mailer: str) -> DeliveryOutcome:
    """Send one email, and return what the backend says as an outcome of SMTP."""
    email, message = loaded
    _address_to(message, waiting(email))
    name = f"{type(backend).__module__}.{type(backend).__qualname__}"
    if composes(mailer):
        try:
            message = with_ascii_domains(message)
        except InvalidDomain as error:
            return DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=Unsendable(str(error)))
        _identify(message, email)  # other services write these headers themselves, and some refuse ours
        _name_one_sender(message, email)
    elif isinstance(message, FinishedMessage):
        return _unfit_as_finished(email, mailer, name)
    try:
        message.__dict__[IS_QUEUED] = True
        message.__dict__.pop(REFUSED, None)  # of an attempt before
        with _listening(backend) as refused_by_server:
            count = backend.send_messages([message])
    except UNREACHABLE_ERRORS:
        raise
    except Exception as error:
        return _outcome_of_smtplib(error, email) or _outcome_of_error(error, message, email, name)
    if count == 0:
        return DeliveryOutcome(
            Fate.REFUSED, Stage.BACKEND, Reply(451, f"{name} says that it sent nothing", UNDEFINED_STATUS)
        )
    refused_by_server.update(message.__dict__.pop(REFUSED, {}))
    refused = {
        address: refused_by_server[bare(address)]
        for address in waiting(email)
        if bare(address) in refused_by_server
    }
    refused.update(_refused_by_service(message, waiting(email)))
    return DeliveryOutcome(
        Fate.ACCEPTED, Stage.BACKEND, Reply(250, f"taken by {name}{_id_of_service(message)}"), refused
    )


def _outcome_of_smtplib(error: Exception, email: Email) -> DeliveryOutcome | None:
    """Return what an error of smtplib means, or ``None`` for any other error.

    Raise ``NeverConnected`` for what is not the fault of this email.
    """
    match error:
        case SMTPNotSupportedError():
            if "SMTPUTF8" not in str(error):  # STARTTLS or AUTH: no email's fault
                raise NeverConnected(_text_of(error)) from error
            return DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=Unsendable(_text_of(error)))
        case SMTPRecipientsRefused():
            return _by_recipients(error, waiting(email))
        case SMTPResponseException():
            stage = Stage.MAIL if isinstance(error, SMTPSenderRefused) else Stage.BACKEND
            return DeliveryOutcome(Fate.REFUSED, stage, _reply(error.smtp_code, error.smtp_error))
        case SMTPServerDisconnected() | TimeoutError():  # at which stage, smtplib does not say
            return _lost(error)
    return None


def _outcome_of_error(error: Exception, message: EmailMessage, email: Email, backend: str) -> DeliveryOutcome:
    """Return what an error of a backend means. One that nobody knows is tried again, like a 451.

    Raise ``NeverConnected`` if nothing was sent.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, UNREACHABLE_ERRORS) or CONNECT_ERROR_NAMES & _names(cause) for cause in causes):
        raise NeverConnected(_text_of(error)) from error
    if any(map(_is_ambiguous, causes)):
        return _lost(error)
    if not hasattr(error, "status_code"):  # with one, it is what a service has answered
        logger.error("%s raised over email %s, which is tried again later", backend, email.pk, exc_info=error)
    refused = _refused_by_service(message, waiting(email))
    return DeliveryOutcome(
        Fate.REFUSED, Stage.BACKEND, Reply(451, _text_of(error), _status_of(error)), refused
    )


def _lost(error: Exception) -> DeliveryOutcome:
    """Return the outcome of a connection that broke: nobody knows whether the email was sent."""
    return DeliveryOutcome(
        Fate.AMBIGUOUS, Stage.BACKEND, error=ConnectionLost(_text_of(error), Stage.BACKEND)
    )


@contextmanager
def _listening(backend: BaseEmailBackend) -> Iterator[dict[str, Reply]]:
    """Yield whom the server refuses while it accepts others, by bare address.

    ``smtplib.SMTP.sendmail`` returns them, and Django's backend drops what it returns.
    """
    refused: dict[str, Reply] = {}
    connection = getattr(backend, "connection", None)
    if not isinstance(connection, SMTP):
        yield refused
        return
    send = connection.sendmail

    def sendmail(*args: Any, **kwargs: Any) -> Any:
        replies = send(*args, **kwargs)
        refused.update({bare(address): _reply(*code_and_text) for address, code_and_text in replies.items()})
        return replies

    before = connection.__dict__.get("sendmail")
    connection.__dict__["sendmail"] = sendmail
    try:
        yield refused
    finally:
        del connection.__dict__["sendmail"]
        if before is not None:
            connection.__dict__["sendmail"] = before


def _unfit_as_finished(email: Email, mailer: str, backend: str) -> DeliveryOutcome:
    """Return the outcome for finished bytes, of which a service with fields takes neither body nor attachments. If this
    mailer only stands in, another one can still send it."""
    error_text = (
        f"It is finished bytes, as its class writes its own message, and {backend} does not take bytes."
    )
    if mailer == email.mailer:
        return DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=Unsendable(error_text))
    return DeliveryOutcome(Fate.UNSENT, Stage.MAIL, error=SmtpError(error_text.rstrip("."), Stage.MAIL))


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


def _identify(message: EmailMessage, email: Email) -> None:
    names = {name.lower() for name in message.extra_headers}
    if "message-id" not in names:
        message.extra_headers["Message-ID"] = email.message_id
    if "date" not in names:
        message.extra_headers["Date"] = format_datetime(in_its_zone(email.date))


def _name_one_sender(message: EmailMessage, email: Email) -> None:
    """Put several authors into From: Django's SMTP backend takes from_email for MAIL FROM, which is one mailbox."""
    from_email, headers = str(message.from_email), message.extra_headers
    if sender := missing_sender(message):
        headers["Sender"] = sender
    if len(mailboxes(from_email)) > 1:
        headers.setdefault("From", from_email)
        message.from_email = in_text(email.sender)


def _refused_by_service(message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
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


def _id_of_service(message: EmailMessage) -> str:
    id = getattr(getattr(message, "anymail_status", None), "message_id", None)
    return "" if id is None else storable(f" as {id}")


def _status_of(error: Exception) -> str:
    """Too many requests (RFC 6585 4), as Anymail tells it, or nothing that we know."""
    return "4.7.0" if getattr(error, "status_code", None) == 429 else UNDEFINED_STATUS


def _address_to(message: EmailMessage, addresses: Sequence[str]) -> None:
    """Whoever has it, or is suppressed, gets it no more."""
    wanted = set(addresses)
    if isinstance(message, FinishedMessage):
        message.envelope = [address for address in message.envelope if address in wanted]
    for name in ("to", "cc", "bcc"):
        setattr(message, name, [address for address in getattr(message, name) if str(address) in wanted])


def _by_recipients(error: SMTPRecipientsRefused, addresses: Sequence[str]) -> DeliveryOutcome:
    """Return the outcome of refused recipients: all of them, or those up to a 421, behind which none was asked for."""
    replies = {bare(address): _reply(*code_and_text) for address, code_and_text in error.recipients.items()}
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


def _reply(code: int, text: bytes | str) -> Reply:
    return reply_of(code, text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _text_with_server(backend: BaseEmailBackend, error: Exception) -> str:
    """Return the text of an error with the server and the file that sockets and OpenSSL leave out."""
    error_text = _text_of(error)
    if not isinstance(backend, djangos.EmailBackend):
        return error_text
    files = {name: getattr(backend, name) for name in ("ssl_certfile", "ssl_keyfile")}
    named = ", ".join(f"{name} {path!r}" for name, path in files.items() if path)
    of_a_file = isinstance(error, FileNotFoundError | PermissionError | SSLError)
    about = f"{backend.host}:{backend.port}" + (f"; {named}" if named and of_a_file else "")
    return storable(f"{error_text} ({about})")


def _text_of(error: Exception) -> str:
    try:
        return storable(f"{type(error).__name__}: {error}")
    except Exception:  # some cannot even say what they are
        return type(error).__name__
