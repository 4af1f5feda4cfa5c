"""Delivery by a backend of Django's API: Anymail, files, the console, or a project's own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from email.utils import format_datetime
from smtplib import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from socket import gaierror

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.utils import timezone

from .compose.dialect import in_its_zone
from .content import FinishedMessage
from .ledger import write
from .load import Loaded
from .models import Email
from .outcomes import Result, bare, judge, waiting
from .replies import Reply, Stage
from .smtp import Fate, Outcome
from .smtp.errors import ConnectionLost, Unsendable
from .values import storable

logger = logging.getLogger("mailrail.mail")


class NeverConnected(Exception):
    """What a backend raised came of this."""


AWAY = (
    ConnectionRefusedError,
    gaierror,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPHeloError,
    NeverConnected,
)
"""The server's fault, whatever the email: nothing was sent."""
BROKEN = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, TimeoutError)
"""The request may have come there, and its answer did not come back."""
CONNECTING = {"NewConnectionError", "ConnectTimeoutError", "ConnectTimeout", "ConnectError"}
"""Errors of urllib3, requests and httpx, by name, that come before anything is sent."""
UNKNOWN = "4.0.0"
"""Other undefined status (RFC 3463 3.1)."""


def send_by_backend(
    backend: BaseEmailBackend,
    loaded: Sequence[Loaded],
    mailer: str,
    using: str,
    settle: Callable[[Sequence[Result]], None],
) -> tuple[list[Email], str | None]:
    """One after the other, each with its intent committed first. Returns what is left, and why, after an outage."""
    if not loaded:
        return [], None
    try:
        backend.open()
    except Exception as error:
        return [each.email for each in loaded], _said(error)
    left = deque(loaded)
    try:
        while left:
            each = left[0]
            if each.email.pk not in write((), [each.email], using).permitted:
                left.rotate(-1)  # changed meanwhile: it is looked at again later
                return [each.email for each in left], None
            left.popleft()
            try:
                outcome = _outcome_of(backend, each)
            except AWAY as error:
                settle([judge(each.email, Outcome(Fate.UNSENT, Stage.CONNECT), timezone.now(), mailer)])
                return [each.email for each in left], _said(error)
            settle([judge(each.email, outcome, timezone.now(), mailer)])
            if _has_lost_its_connection(outcome) and (why := _reopen(backend)):
                return [each.email for each in left], why
    finally:
        _close(backend)
    return [], None


def _has_lost_its_connection(outcome: Outcome) -> bool:
    """smtplib goes on to say so of every later email, of which nothing was sent."""
    replies = [outcome.reply, *outcome.refused.values()]
    return outcome.fate is Fate.AMBIGUOUS or any(reply and reply.code == 421 for reply in replies)


def _reopen(backend: BaseEmailBackend) -> str | None:
    """Returns why it cannot be."""
    _close(backend)
    try:
        backend.open()
    except Exception as error:
        return _said(error)
    return None


def _close(backend: BaseEmailBackend) -> None:
    """What it raises says nothing of the emails, whose outcomes are known."""
    try:
        backend.close()
    except Exception:
        logger.exception("%s.close() raised", type(backend).__qualname__)


def _outcome_of(backend: BaseEmailBackend, loaded: Loaded) -> Outcome:
    """What the backend says, in the words of SMTP. What it raises and nobody knows is tried again, like a 451."""
    email, message = loaded
    _address_to(message, waiting(email))
    if not hasattr(backend, "esp_name"):  # Anymail's services write these themselves, and some refuse others
        _identify(message, email)
    name = f"{type(backend).__module__}.{type(backend).__qualname__}"
    try:
        count = backend.send_messages([message])
    except AWAY:
        raise
    except SMTPNotSupportedError as error:
        return Outcome(Fate.UNFIT, Stage.MAIL, error=Unsendable(_said(error)))
    except SMTPRecipientsRefused as error:
        return Outcome(Fate.REFUSED, Stage.RCPT, None, _refusals(error, waiting(email)))
    except SMTPResponseException as error:
        return Outcome(Fate.REFUSED, Stage.DOT, _reply(error.smtp_code, error.smtp_error))
    except (SMTPServerDisconnected, TimeoutError) as error:  # at which stage, smtplib does not say
        return Outcome(Fate.AMBIGUOUS, Stage.DOT, error=ConnectionLost(_said(error), Stage.DOT))
    except Exception as error:
        causes = list(_causes(error))
        if any(isinstance(each, AWAY) or CONNECTING & _names(each) for each in causes):
            raise NeverConnected(_said(error)) from error
        if any(isinstance(each, BROKEN) for each in causes):
            return Outcome(Fate.AMBIGUOUS, Stage.DOT, error=ConnectionLost(_said(error), Stage.DOT))
        refused = _refused_by_service(message, waiting(email))
        return Outcome(Fate.REFUSED, Stage.DOT, Reply(451, _said(error), _status_of(error)), refused)
    if count == 0:
        return Outcome(Fate.REFUSED, Stage.DOT, Reply(451, f"{name} says that it sent nothing", UNKNOWN))
    refused = _refused_by_service(message, waiting(email))
    return Outcome(Fate.ACCEPTED, Stage.DOT, Reply(250, f"taken by {name}{_id_of_service(message)}"), refused)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What was raised, and what that came of: clients of HTTP wrap what their socket says, and backends that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _identify(message: EmailMessage, email: Email) -> None:
    names = {name.lower() for name in message.extra_headers}
    if "message-id" not in names:
        message.extra_headers["Message-ID"] = email.message_id
    if "date" not in names:
        message.extra_headers["Date"] = format_datetime(in_its_zone(email.date))


def _refused_by_service(message: EmailMessage, addresses: Sequence[str]) -> dict[str, Reply]:
    """Whom Anymail's service will not send it to, by ``message.anymail_status``."""
    told = getattr(getattr(message, "anymail_status", None), "recipients", {})
    codes = {"invalid": 550, "rejected": 550, "failed": 451}
    statuses = {bare(address): each.status for address, each in told.items()}
    said = {address: statuses.get(bare(address)) for address in addresses}
    return {
        address: Reply(codes[status], f"the service says: {status}")
        for address, status in said.items()
        if status in codes
    }


def _id_of_service(message: EmailMessage) -> str:
    id = getattr(getattr(message, "anymail_status", None), "message_id", None)
    return "" if id is None else storable(f" as {id}")


def _status_of(error: Exception) -> str:
    """Too many requests (RFC 6585 4), as Anymail tells it, or nothing that we know."""
    return "4.7.0" if getattr(error, "status_code", None) == 429 else UNKNOWN


def _address_to(message: EmailMessage, addresses: Sequence[str]) -> None:
    """Whoever has it, or is suppressed, gets it no more."""
    wanted = set(addresses)
    if isinstance(message, FinishedMessage):
        message.envelope = [each for each in message.envelope if each in wanted]
    for name in ("to", "cc", "bcc"):
        setattr(message, name, [each for each in getattr(message, name) if str(each) in wanted])


def _refusals(error: SMTPRecipientsRefused, addresses: Sequence[str]) -> dict[str, Reply]:
    """By the record's addresses. All were refused, so one that was told to the server in another form, too."""
    replies = {bare(address): _reply(*said) for address, said in error.recipients.items()}
    any_of_them = next(iter(replies.values()), Reply(451, "refused without a reply"))
    return {address: replies.get(bare(address), any_of_them) for address in addresses}


def _reply(code: int, text: bytes | str) -> Reply:
    return Reply(code, storable(text.decode("utf-8", "replace") if isinstance(text, bytes) else text))


def _said(error: Exception) -> str:
    try:
        return storable(f"{type(error).__name__}: {error}")
    except Exception:  # some cannot even say what they are
        return type(error).__name__
