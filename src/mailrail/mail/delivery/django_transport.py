"""Delivery by a backend of Django's API: Anymail, files, the console, or a project's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import format_datetime
from functools import partial
from smtplib import (
    SMTP,
    SMTPAuthenticationError,
)
from typing import Any

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone

from mailrail.addresses import InvalidDomain, bare
from mailrail.addresses import with_ascii_domains as in_text
from mailrail.log import logger_of
from mailrail.storable import storable

from ..compose.addresses import mailboxes, missing_sender, with_ascii_domains
from ..compose.common import in_its_zone, style
from ..mailers.config import composes
from ..mailers.logins import Login
from ..mailers.refused_senders import RefusedSenders
from ..models import Email
from ..queueing.serialize import FinishedMessage
from ..smtp import DeliveryOutcome, Fate, SmtpError
from ..smtp.backend import IS_QUEUED, REFUSED
from ..smtp.errors import Unsendable
from ..smtp.replies import Reply, Stage
from ..smtp.transactions import overflow, without
from .answers import apply_outcome, may_go_on
from .attempt import Attempt
from .backend_errors import (
    UNDEFINED_STATUS,
    UNREACHABLE_ERRORS,
    outcome_of_error,
    outcome_of_smtplib,
    refused_by_service,
    reply_from,
    text_with_server,
)
from .load import Loaded
from .outcomes import Result, hold_for_its_sender
from .record import waiting

logger = logger_of("mailrail.mail")


class DjangoTransport:
    """Send one email after the other, and commit the intent of each first."""

    def __init__(self, attempt: Attempt, backend: BaseEmailBackend) -> None:
        self._attempt = attempt
        self._backend = backend

    def connections_for(self, emails: int) -> int:
        return 1

    def send(self, emails: Sequence[Loaded], connections: int, keep_open: bool) -> tuple[list[Email], str]:
        """Send, and close the connection. Return what is left, and why, after an outage."""
        attempt, backend = self._attempt, self._backend
        if why_closed := _open(backend, attempt.login):
            return [unsent.email for unsent in emails], why_closed
        left = deque(emails)
        try:
            while left:
                current = left[0]
                if self._is_held(current.email):
                    left.popleft()
                    continue
                if attempt.write([], [current.email]):
                    left.rotate(-1)  # changed meanwhile: it is looked at again later
                    return [unsent.email for unsent in left], ""
                left.popleft()
                outcome, why_out = _attempt(backend, current, attempt.mailer)
                result = _apply(current.email, outcome, attempt.mailer, attempt.senders)
                attempt.writer.patiently(partial(attempt.write, [result]))
                if result.is_part:
                    left.appendleft(current)
                why_out = why_out or result.mailer_out
                if not why_out and _has_lost_its_connection(outcome):
                    why_out = _reopen(backend)
                if why_out:
                    return [unsent.email for unsent in left], why_out
        finally:
            _close(backend)
        return [], ""

    def _is_held(self, email: Email) -> bool:
        """Hold an email whose sender the server refuses, and tell whether that was so."""
        mailer = self._attempt.mailer
        if email.mailer != mailer or not (reason := self._attempt.senders.reason_to_hold(email)):
            return False
        held = hold_for_its_sender(email, timezone.now(), mailer, why=reason)
        self._attempt.writer.patiently(partial(self._attempt.write, [held]))
        return True


def _apply(email: Email, outcome: DeliveryOutcome, mailer: str, senders: RefusedSenders) -> Result:
    """Apply an outcome. Recipients for whom the server had no room follow at once, where the backend names them."""
    now, offered = timezone.now(), waiting(email)
    over, _ = overflow(offered, outcome)
    if not over or not may_go_on(outcome, mailer):
        return apply_outcome(email, outcome, now, mailer, senders)
    outcome = without(outcome, over)
    return apply_outcome(email, outcome, now, mailer, senders, {*offered} - {*over}, goes_on=True)


def _open(backend: BaseEmailBackend, login: Login | None) -> str:
    """Open the connection, or return why it cannot be. Then close it: Django's backend keeps the socket of a refused
    login."""
    try:
        backend.open()
    except Exception as error:
        _close(backend)
        if isinstance(error, SMTPAuthenticationError) and login is not None:
            login.refused()
        return text_with_server(backend, error)
    if login is not None:
        login.accepted()
    return ""


def _attempt(backend: BaseEmailBackend, loaded: Loaded, mailer: str) -> tuple[DeliveryOutcome, str]:
    """Send one email. Returns its outcome, and why none of the others can be sent, if none can."""
    try:
        return _outcome_of(backend, loaded, mailer), ""
    except UNREACHABLE_ERRORS as error:
        error_text = text_with_server(backend, error)
        outcome = DeliveryOutcome(Fate.UNSENT, Stage.CONNECT, error=SmtpError(error_text, Stage.CONNECT))
        return outcome, error_text


def _has_lost_its_connection(outcome: DeliveryOutcome) -> bool:
    """Tell whether the connection is lost: smtplib says so of every later email, of which nothing was sent."""
    replies = [outcome.reply, *outcome.refused.values()]
    return outcome.fate is Fate.AMBIGUOUS or any(reply and reply.code == 421 for reply in replies)


def _reopen(backend: BaseEmailBackend) -> str:
    """Open the connection again, or return why it cannot be."""
    _close(backend)
    try:
        backend.open()
    except Exception as error:
        return text_with_server(backend, error)
    return ""


def _close(backend: BaseEmailBackend) -> None:
    """Close the connection. What that raises says nothing of the emails, whose outcomes are known."""
    try:
        backend.close()
    except Exception:
        logger.exception("%s.close() raised", type(backend).__qualname__)


def _outcome_of(backend: BaseEmailBackend, loaded: Loaded, mailer: str) -> DeliveryOutcome:
    """Send one email, and return what the backend says as an outcome of SMTP."""
    email, message = loaded.email, loaded.message
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
        return outcome_of_smtplib(error, email) or outcome_of_error(error, message, email, name)
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
    refused.update(refused_by_service(message, waiting(email)))
    return DeliveryOutcome(
        Fate.ACCEPTED, Stage.BACKEND, Reply(250, f"taken by {name}{_id_of_service(message)}"), refused
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
        refused.update(
            {bare(address): reply_from(*code_and_text) for address, code_and_text in replies.items()}
        )
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


def _identify(message: EmailMessage, email: Email) -> None:
    names = {name.lower() for name in message.extra_headers}
    if "message-id" not in names:
        message.extra_headers["Message-ID"] = email.message_id
    if "date" not in names:
        message.extra_headers["Date"] = format_datetime(in_its_zone(email.date, style().zone))


def _name_one_sender(message: EmailMessage, email: Email) -> None:
    """Put several authors into From: Django's SMTP backend takes from_email for MAIL FROM, which is one mailbox."""
    from_email, headers = str(message.from_email), message.extra_headers
    if sender := missing_sender(message):
        headers["Sender"] = sender
    if len(mailboxes(from_email)) > 1:
        headers.setdefault("From", from_email)
        message.from_email = in_text(email.sender)


def _id_of_service(message: EmailMessage) -> str:
    id = getattr(getattr(message, "anymail_status", None), "message_id", None)
    return "" if id is None else storable(f" as {id}")


def _address_to(message: EmailMessage, addresses: Sequence[str]) -> None:
    """Whoever has it, or is suppressed, gets it no more."""
    wanted = set(addresses)
    if isinstance(message, FinishedMessage):
        message.envelope = [address for address in message.envelope if address in wanted]
    for name in ("to", "cc", "bcc"):
        setattr(message, name, [address for address in getattr(message, name) if str(address) in wanted])
