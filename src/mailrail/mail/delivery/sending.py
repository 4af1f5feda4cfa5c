"""Send the emails of a batch by one mailer: which of them it may send now, over how many connections, by what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.utils import timezone

from mailrail.log import logger_of

from ..mailers import circuit, failover, throttle, waiting
from ..mailers.config import open_backend, policy_of, server_for
from ..mailers.connection_limits import NONE_FREE, reserved_connections
from ..mailers.limiter import Reserved
from ..mailers.logins import Login
from ..mailers.waiting import Permission
from ..models import Email
from . import outcomes
from .attempt import Attempt
from .django_transport import DjangoTransport
from .load import Loaded, in_portions, load_messages
from .messages import ClaimedMessages
from .retries import RETRY_SOON_S
from .smtp_transport import SmtpTransport
from .transport import Transport
from .writer import OutcomeWriter

logger = logger_of("mailrail.mail")

LOGGING_IN = Permission(0, NONE_FREE.wait, "another worker logs in first")


class Sending:
    """Send by mailers, with what all attempts of a batch share."""

    def __init__(
        self, messages: ClaimedMessages, writer: OutcomeWriter, reserved: Reserved, using: str
    ) -> None:
        self._messages = messages
        self._writer = writer
        self._reserved = reserved
        self._using = using
        self.is_alone = False
        """Share no connection with other batches, so that no error is due to one of them."""

    def attempt(
        self, mailer: str, emails: list[Email], permission: Permission, stands_in: str
    ) -> tuple[list[Email], str]:
        """Send by one mailer. Return the emails that it could not take as it went out, and why.

        ``stands_in``: the mailer that takes its email then, for the log.
        """
        attempt = Attempt(mailer, permission.is_probe, self._messages, self._writer, self._using)
        attempt.is_alone |= self.is_alone
        try:
            emails, unwelcome = self._welcome(attempt, emails)
            attempt.admission = throttle.admit(mailer, emails, self._using, self._reserved.take)
            for email, refusal in attempt.admission.later:
                self._messages.release(email.pk, refusal.wait, refusal.reason)
            left, outage = self._send(attempt, self._moved(mailer, attempt.admission.ready))
            attempt.senders.save()
            left += attempt.turned_away
            attempt.slow_down()
            attempt.admission.give_back(left)
            if attempt.is_probe and attempt.broke and not attempt.answered:
                outage = outage or attempt.broke
            attempt.end(outage, stands_in)
            if outage:
                return left + unwelcome, outage
            self._messages.release_all(left, RETRY_SOON_S, "its connection broke")
            return unwelcome, "its sender is refused"
        finally:
            attempt.give_login_back()
            if permission.is_probe:
                circuit.end_probe(mailer, self._using)

    def _wait_for(self, attempt: Attempt, emails: Sequence[Email], refusal: Permission) -> None:
        """Release emails that wait for another batch to log in, or to close a connection."""
        waiting.close(attempt.mailer, refusal.wait)
        self._messages.release_all(emails, refusal.wait, refusal.reason)
        attempt.admission.give_back(emails)

    def _welcome(self, attempt: Attempt, emails: list[Email]) -> tuple[list[Email], list[Email]]:
        """Hold those whose sender the server refuses. Returns the others, and those that wait for their own mailer."""
        if attempt.senders.is_empty:
            return emails, []
        refused = {email.pk: reason for email in emails if (reason := attempt.senders.reason_to_hold(email))}
        if not refused:
            return emails, []
        now, mailer = timezone.now(), attempt.mailer
        own = [email for email in emails if email.pk in refused and email.mailer == mailer]
        self._writer.write(
            [outcomes.hold_for_its_sender(email, now, mailer, why=refused[email.pk]) for email in own]
        )
        others = [email for email in emails if email.pk in refused and email.mailer != mailer]
        return [email for email in emails if email.pk not in refused], others

    def _moved(self, mailer: str, emails: list[Email]) -> list[Email]:
        """Return the emails that may leave by this mailer, now that their records say so."""
        if changed := failover.move(emails, mailer, self._using):
            self._writer.changed(changed)
            return [email for email in emails if email not in changed]
        return emails

    def _send(self, attempt: Attempt, emails: list[Email]) -> tuple[list[Email], str]:
        """Send, and return what is left, and why the mailer cannot be used, if it cannot."""
        if not emails:
            return [], ""
        try:
            backend = open_backend(attempt.mailer)
            server = server_for(attempt.mailer, backend)
        except Exception as error:
            # Wrong settings: mended by a deploy, not by a person who requeues thousands.
            return emails, f"{type(error).__name__}: {error}"
        attempt.login = Login(attempt.mailer, backend, self._using)
        if not attempt.is_probe and not self._may_log_in(attempt.mailer, attempt.login):
            self._wait_for(attempt, emails, LOGGING_IN)
            return [], ""
        transport: Transport
        if server is None:
            transport = DjangoTransport(attempt, backend)
        else:
            transport = SmtpTransport(attempt, backend, server)
        return self._send_in_portions(attempt, transport, emails)

    def _may_log_in(self, mailer: str, login: Login) -> bool:
        """Tell whether this batch may. Another one may have tried, and been refused, since it was read."""
        if not login.may_begin():
            return False
        return not (login.is_first and mailer in circuit.tripped(self._using))

    def _send_in_portions(
        self, attempt: Attempt, transport: Transport, emails: list[Email]
    ) -> tuple[list[Email], str]:
        left: list[Email] = []
        outage, keep_open = "", policy_of(attempt.mailer).connections is None
        for portion in in_portions(emails):
            if outage:
                left += portion
                continue
            loaded = self._load(attempt.mailer, portion)
            most = transport.connections_for(len(loaded))
            ready = self._reserved.connection(attempt.mailer)
            with reserved_connections(attempt.mailer, most, self._using, ready) as permission:
                if not permission.limit:
                    self._wait_for(attempt, portion, permission)
                elif loaded:
                    unsent, outage = transport.send(loaded, permission.limit, keep_open)
                    left += unsent
        return left, outage

    def _load(self, mailer: str, emails: list[Email]) -> list[Loaded]:
        """Return the emails with their messages. Those whose content cannot be had are settled."""
        batch, now = load_messages(emails, self._using), timezone.now()
        for email, error in batch.unreadable:
            logger.error("email %s cannot be read", email.pk, exc_info=error)
            email.attempts += 1
        results: Iterable[outcomes.Result] = (
            *(
                outcomes.fail(it, now, f"it cannot be read: {error}", mailer)
                for it, error in batch.unreadable
            ),
            *(
                outcomes.missing_file(it, now, f"a file is missing: {error}", mailer)
                for it, error in batch.missing
            ),
            *(outcomes.defer(it, now, mailer, why=str(error)) for it, error in batch.later),
        )
        self._writer.write([*results])
        for email, error in batch.later:
            logger.error("email %s waits: %s", email.pk, error)
        return batch.loaded
