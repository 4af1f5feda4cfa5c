"""Django's SMTP backend, with connections that stay open from one ``send()`` to the next."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from django.core.mail import EmailMessage
from django.core.mail.backends import smtp
from django.core.mail.utils import DNS_NAME

from mailrail import options as checked
from mailrail.log import logger_of
from mailrail.options import Mistakes

from ..compose import compose
from ..compose.addresses import sender_of
from ..compose.headers import check_lines
from .as_django import address_of, exception_for, exception_of
from .connection import Connection
from .driver import drive, send_all
from .envelope import DeliveryOutcome, Envelope, Fate
from .errors import EightBitNotOffered, SmtpError
from .log_recipients import masked, named
from .pool import Pool, pool_of
from .replies import Reply
from .server import SmtpServer, Timeouts, Tls, check_extensions, check_local_hostname
from .transactions import divide, learn, most_recipients, overflow, smaller, without

logger = logger_of("mailrail.mail")


class EmailBackend(smtp.EmailBackend):
    """Take the options of Django's backend, with the same meaning and the same errors, and some more.

    The others: ``pool_size``, ``pool_timeout``, ``max_messages``, ``max_age``, ``check_after``: how many
    connections this process keeps to the server, and how long (``SmtpServer``). ``token``: a callable that returns an
    XOAUTH2 token.
    ``ssl_context``: replaces the default context; all connections share it. ``local_hostname``: the name in EHLO,
    instead of this machine's name. ``ignore_extensions``: extensions that are not used even if the server offers them.
    ``max_recipients``: of an email in one transaction; an email to more leaves in several.
    """

    connection: Connection | None  # type: ignore[assignment]  # Django's holds smtplib's

    def __init__(
        self,
        *args: Any,
        pool_size: int = SmtpServer.pool_size,
        pool_timeout: float = SmtpServer.pool_timeout,
        max_messages: int = SmtpServer.max_messages,
        max_age: float = SmtpServer.max_age,
        check_after: float = SmtpServer.check_after,
        token: Callable[[], str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        local_hostname: str | None = None,
        ignore_extensions: Collection[str] = (),
        max_recipients: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Django 6.1 takes a missing alias for a call from outside of Django, and we stand between it and its own.
        super().__init__(*args, **{"alias": None, **kwargs})
        self._token = token
        self._context = ssl_context
        if isinstance(ignore_extensions, list | set):
            ignore_extensions = tuple(ignore_extensions)
        given = (pool_size, max_messages, max_recipients, pool_timeout, max_age, check_after)
        self._options = _check_options(*given, ignore_extensions, local_hostname)
        self._pool: Pool | None = None

    @property
    def server(self) -> SmtpServer:
        """Return what the options say. Equal servers share a pool, whichever backend objects they belong to."""
        return server_of(self, token=self._token, context=self._context, **self._options)

    def open(self) -> bool | None:
        """Take a connection out of the pool until ``close``. True: done, False: it had one, None: failed silently."""
        if self.connection is not None:
            return False
        if not self._take():
            return None
        assert self.connection is not None
        try:
            drive(self.connection.open())
        except SmtpError as error:
            self.close()
            return self._fail(error)
        except BaseException:
            self.close()
            raise
        return True

    def _take_to_send(self) -> bool:
        """Take a connection, which sending opens; but a subclass may do something in an ``open`` of its own."""
        is_ours = getattr(self.open, "__func__", None) is EmailBackend.open
        return self._take() if is_ours else bool(self.open())

    def _take(self) -> bool:
        """Take a connection out of the pool."""
        self._pool = pool_of(self.server)
        try:
            self.connection = self._pool.take()
        except SmtpError as error:
            self._fail(error)
        return self.connection is not None

    def _fail(self, error: SmtpError) -> None:
        if not self.fail_silently:
            raise exception_for(error) from error

    def close(self) -> None:
        """Give the connection back to the pool, which keeps it open."""
        if self.connection is not None and self._pool is not None:
            connection, self.connection = self.connection, None
            self._pool.give_back(connection)

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Send, and return how many were. As with Django's backend, the first failure is raised, and ends it.

        An email that may have been accepted is never sent again from here.
        """
        if not email_messages:
            return 0
        with self._lock:
            taken = self.connection is None and self._take_to_send()
            if self.connection is None:
                return 0
            try:
                return self._send_over(self.connection, email_messages)
            finally:
                if taken:
                    self.close()

    def _send_over(self, connection: Connection, email_messages: Sequence[EmailMessage]) -> int:
        batch = _Batch(email_messages, connection.server, self._envelope_of, bool(self.fail_silently))
        for error in send_all([connection], batch):
            if batch.failure is None:
                self._fail(error)
        if batch.failure is not None:
            raise batch.failure
        return batch.sent

    def _envelope_of(self, message: EmailMessage, eight_bit: bool) -> Envelope:
        mail_from = address_of(
            self, sender_of(str(message.from_email), message.extra_headers), message.encoding
        )
        recipients = [address_of(self, recipient, message.encoding) for recipient in message.recipients()]
        composed = compose(message, eight_bit=eight_bit)
        check_lines(composed.data, free_text=False)
        return Envelope(
            mail_from,
            recipients,
            composed.data,
            composed.eight_bit,
            composed.smtputf8,
            ref=_MessageRef(message, eight_bit),
        )


def _check_options(*given: Any) -> Mapping[str, Any]:
    """Return the options of the server. Django makes a backend for each email; equal options are checked once."""
    try:
        hash(given)
    except TypeError:  # no right option is like that
        return _checked(*given)
    return _checked_once(*given)


def _checked(
    pool_size: Any,
    max_messages: Any,
    max_recipients: Any,
    pool_timeout: Any,
    max_age: Any,
    check_after: Any,
    ignore_extensions: Any,
    local_hostname: Any,
) -> Mapping[str, Any]:
    """Check the options, and raise one error for all that are wrong."""
    mistakes, options = Mistakes(), dict[str, Any]()
    numbers = {"pool_size": pool_size, "max_messages": max_messages, "max_recipients": max_recipients}
    for name, number in numbers.items():
        if number is not None or name != "max_recipients":
            with mistakes.noted():
                options[name] = checked.whole_number(name, number)
    times = {"pool_timeout": pool_timeout, "max_age": max_age, "check_after": check_after}
    for name, time in times.items():
        with mistakes.noted():
            options[name] = checked.seconds(name, time)
    with mistakes.noted():
        options["ignored_extensions"] = check_extensions("ignore_extensions", ignore_extensions)
    if local_hostname is not None:
        with mistakes.noted():
            options["local_hostname"] = check_local_hostname("local_hostname", local_hostname)
    mistakes.raise_any()
    return options


_checked_once = lru_cache(maxsize=64, typed=True)(_checked)  # typed: True is no 1


def server_of(backend: smtp.EmailBackend, **more: Any) -> SmtpServer:
    """Return the server that a backend with Django's options means: the same object for equal options."""
    tls: Tls = "implicit" if backend.use_ssl else "starttls" if backend.use_tls else "none"
    return _server(
        host=str(backend.host),
        port=int(backend.port),
        tls=tls,
        username=backend.username or "",
        password=backend.password or "",
        certfile=os.fsdecode(backend.ssl_certfile) if backend.ssl_certfile else None,
        keyfile=os.fsdecode(backend.ssl_keyfile) if backend.ssl_keyfile else None,
        timeouts=_timeouts(backend.timeout),
        **{"local_hostname": DNS_NAME.get_fqdn(), **more},
    )


_server = lru_cache(maxsize=64)(SmtpServer)


@lru_cache(maxsize=64)
def _timeouts(seconds: float | None) -> Timeouts:
    return Timeouts().capped(seconds)


class _MessageRef(NamedTuple):
    """What an envelope was made of. ``rest``: who follows in other transactions; ``most``: in one, as the server says.

    ``begun``: others of its recipients have it.
    """

    message: EmailMessage
    eight_bit: bool
    rest: tuple[str, ...] = ()
    most: int | None = None
    begun: bool = False

    @property
    def is_divided(self) -> bool:
        return self.begun or bool(self.rest or self.most)


class _Batch:
    """Provide the messages of one call as envelopes."""

    def __init__(
        self,
        messages: Sequence[EmailMessage],
        server: SmtpServer,
        envelope_of: Callable[[EmailMessage, bool], Envelope],
        silent: bool,
    ) -> None:
        self._waiting: list[tuple[EmailMessage, bool] | Envelope]
        self._waiting = [(message, True) for message in messages if message.recipients()]
        self._waiting.reverse()
        self._server = server
        self._envelope_of = envelope_of
        self._silent = silent
        self.failure: Exception | None = None
        self.sent = 0
        self._is_stopped = False

    def __len__(self) -> int:
        return 0 if self.failure or self._is_stopped else len(self._waiting)

    def next(self) -> Envelope | None:
        if self.failure is not None or self._is_stopped or not self._waiting:
            return None
        taken = self._waiting.pop()
        try:
            return self._part(taken if isinstance(taken, Envelope) else self._envelope_of(*taken))
        except Exception as error:  # of this message alone: those before it are sent first
            self.failure = error
            return None

    def _part(self, envelope: Envelope) -> Envelope:
        """Return as much of it as leaves in one transaction."""
        if len(envelope.recipients) == 1:
            return envelope
        first, rest = divide(envelope.recipients, envelope.ref.most, most_recipients(self._server))
        if not rest:
            return envelope
        return replace(envelope, recipients=first, ref=envelope.ref._replace(rest=tuple(rest)))

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        return [self.failure is None for _ in envelopes]

    def stop(self) -> None:
        self._is_stopped = True

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        ref: _MessageRef = envelope.ref
        if outcome.fate is Fate.ACCEPTED and len(envelope.recipients) == 1 and not ref.is_divided:
            self.sent += 1
        elif isinstance(outcome.error, EightBitNotOffered) and ref.eight_bit:
            self._waiting.append((ref.message, False))
        elif outcome.fate is not Fate.ACCEPTED and (most := smaller(envelope, outcome)):
            self._go_on(envelope, [*envelope.recipients, *ref.rest], ref._replace(most=most))
        elif outcome.fate is Fate.ACCEPTED or (ref.begun and outcome.fate is Fate.REFUSED):
            self._count(envelope, outcome)
        elif self.failure is None and not self._silent:
            self.failure = exception_of(envelope, outcome)

    def _count(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        """Count it as sent, even if not to everybody. Those for whom there was no room follow at once."""
        ref: _MessageRef = envelope.ref
        over: list[str] = []
        if outcome.fate is Fate.ACCEPTED:
            over, most = overflow(envelope.recipients, outcome)
            if ref.most:
                learn(self._server, ref.most)
            ref = ref._replace(most=most or ref.most)
        outcome = without(outcome, over)
        for recipient in envelope.recipients:
            reply = outcome.reply_for(recipient)
            if reply is not None and reply.refusal:
                note_refusal(ref.message, recipient, reply)
                logger.warning("%s was refused, others were not: %s", named([recipient]), masked(str(reply)))
        self.sent += not ref.begun
        if rest := [*over, *ref.rest]:
            self._send_rest(envelope, rest, ref._replace(begun=True))

    def _send_rest(self, envelope: Envelope, rest: Sequence[str], ref: _MessageRef) -> None:
        """Send it to the others. The queue does that by itself, as it has to store first who has the email."""
        if IS_QUEUED not in ref.message.__dict__:
            self._go_on(envelope, rest, ref)
            return
        for recipient in rest:
            note_refusal(ref.message, recipient, NO_ROOM)

    def _go_on(self, envelope: Envelope, rest: Sequence[str], ref: _MessageRef) -> None:
        self._waiting.append(replace(envelope, recipients=rest, ref=ref._replace(rest=())))


def note_refusal(message: EmailMessage, recipient: str, reply: Reply) -> None:
    """Keep with the message who did not get it, for the queue: a backend can only say how many messages it has sent."""
    message.__dict__.setdefault(REFUSED, {})[recipient] = reply


REFUSED = "_mailrail_refused"
"""Attribute of a message: address, as the server was told -> reply."""
IS_QUEUED = "_mailrail_is_queued"
"""Attribute of a message that the queue delivers, which asks again for the recipients that there was no room for."""
NO_ROOM = Reply(452, "Too many recipients in one transaction", "4.5.3")
"""What those recipients are told to have been answered (RFC 5321 4.5.3.1.10)."""
