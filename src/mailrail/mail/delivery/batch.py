"""From claimed messages to emails that have left: load the records, sort them out, hand over, note what came of it.

No transaction is open while anybody talks to a server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from django.db import router
from django.utils import timezone

from mailrail.addresses import bare
from mailrail.log import logger_of
from mailrail.moments import seconds_between
from mailrail.terminal import counted
from mailrail.transient import is_transient
from mailrail.worker import IncomingMessage

from ..mailers import circuit, failover, refused_senders, throttle, waiting
from ..mailers.channels import channel_of, mailer_of
from ..mailers.config import open_backend, policy_of, server_for
from ..mailers.connection_limits import NONE_FREE, reserved_connections
from ..mailers.limiter import collect
from ..mailers.logins import Login, key_of
from ..mailers.waiting import RELEASE_DELAY_S, Permission
from ..models import FINAL, Email, Status
from ..queueing.accept import announce
from ..records.suppressions import listed
from . import outcomes
from .attempt import Attempt
from .django_transport import DjangoTransport
from .load import EmailBatch, Loaded, Obstacles, defect_of, in_portions, load_messages, load_records
from .messages import ClaimedMessages, dispatch_of
from .outcomes import Result
from .record import is_ambiguous
from .retries import RETRY_SOON_S
from .smtp_transport import SmtpTransport
from .transport import Transport
from .writer import OutcomeWriter

logger = logger_of("mailrail.mail")

FINAL_OR_HELD = {*map(Status, FINAL), Status.HELD}
"""Final, or held: releasing it sends a message of its own, whose number (``Email.dispatch``) voids those before it."""
OTHER_WORKER_GRACE_S = 60.0
"""Seconds that an email is left to another worker which may be alive."""
LOGGING_IN = Permission(0, NONE_FREE.wait, "another worker logs in first")


class Delivery:
    """Deliver one batch. When ``run`` is over, each message has its outcome, whatever happened."""

    def __init__(self, messages: Sequence[IncomingMessage]) -> None:
        self._using = router.db_for_write(Email)
        self._messages = ClaimedMessages(messages)
        self._writer = OutcomeWriter(self._messages, self._using)
        self._channels = {message.channel for message in messages}
        self._reserved = collect(message.id for message in messages)
        self._is_alone = False  # sharing no connection with other batches, so that no error is due to one
        self._emails: list[Email] = []  # as they were read last, and what was written since

    def run(self) -> None:
        try:
            self._run_or_part(self._messages.deduplicate())
        except Exception as error:
            if not is_transient(error):
                raise
            waiting = counted(len(self._messages), "email")
            logger.error("the database or the layer is away; %s waiting: %s", waiting, error)
            self._writer.reconnects()
        finally:
            self._messages.close(RETRY_SOON_S)
            self._reserved.give_back()

    def _run_or_part(self, ids: Sequence[UUID]) -> None:
        """Deliver these. After an error that nobody foresaw, each alone, so that the others leave.

        Even a single email is tried again: it may have shared its connection with another batch, which has failed.
        """
        try:
            self._run(ids)
        except Exception as error:
            if is_transient(error):
                raise
            if self._is_alone:
                self._fail_unforeseen(ids[0], error)
                return
            emails = counted(len(ids), "email")
            logger.warning("an error in the delivery of %s, tried one by one now: %s", emails, error)
            under_way = {email.id for email in self._emails if email.status == Status.SENDING}  # by us
            self._is_alone = True
            for id in self._messages.undecided(ids):
                if id in under_way:
                    self._fail_unforeseen(id, error)
                else:
                    self._run_or_part([id])

    def _fail_unforeseen(self, id: UUID, error: Exception) -> None:
        """Count the attempt of the one email that it is about, and say where it happened."""
        logger.error("email %s cannot be delivered, for an error that nobody foresaw", id, exc_info=error)
        if self._messages[id].outcome is not None:
            return
        try:
            [email], _ = load_records([id], self._using)
            if email.status not in FINAL_OR_HELD:
                mailer = failover.last_mailer(email)
                self._writer.write([outcomes.fail_unforeseen(email, timezone.now(), error, mailer)])
        except Exception as again:
            if is_transient(again):
                raise
            logger.error("nor can that be written into the record of email %s", id, exc_info=again)
            self._messages.settle_by_itself(id, error)

    def _run(self, ids: Sequence[UUID]) -> None:
        emails, obstacles = load_records(ids, self._using)
        self._emails = emails
        if len(emails) < len(ids):
            for id in {*ids}.difference([email.id for email in emails]):
                self._messages.finish(id)  # its record was deleted
        by_mailer: dict[str, list[Email]] = {}
        for email in self._on_their_channel(self._triage(emails, obstacles)):
            by_mailer.setdefault(failover.mailer_of(email) if email.via else email.mailer, []).append(email)
        if not by_mailer:
            for channel in self._channels:
                if (own := mailer_of(channel)) is not None:
                    waiting.reopen(own)  # its limiter may wait for this batch to probe the mailer
        for mailer in self._working_ones_first(by_mailer) if len(by_mailer) > 1 else by_mailer:
            self._deliver(mailer, by_mailer[mailer], obstacles)
            obstacles = Obstacles()  # what was read before an attempt says nothing of the next one

    def _triage(self, emails: Iterable[Email], obstacles: Obstacles) -> list[Email]:
        """Return the emails to send now. The others are settled."""
        now, messages = timezone.now(), self._messages
        results: list[Result] = []
        sound: list[Email] = []
        for email in emails:
            message = messages[email.id]
            is_void = email.dispatch and dispatch_of(message.content) < email.dispatch
            if is_void or email.status in FINAL_OR_HELD:
                messages.finish(email.id)
            elif defect := defect_of(email):
                results.append(outcomes.fail_unsound(email, now, defect))
            elif email.send_at is not None and (left := _seconds_until_due(email, now)) > 0:
                messages.release(email.id, left, "its time has not come")
            elif (
                email.status == Status.SENDING and (wait := _wait_for_another(email, message.losses, now)) > 0
            ):
                messages.release(email.id, wait, "another worker may be sending it")
            else:
                sound.append(email)
        suppressed, ready = dict[str, str](), list[Email]()
        if obstacles.suppressions:
            addresses = {bare(recipient["address"]) for email in sound for recipient in email.recipients}
            suppressed = listed(addresses, self._using)
        for email in sound:
            if (result := _ended(email, now, suppressed)) is None:
                ready.append(email)
            else:
                results.append(result)
        if results:
            self._writer.write(results)
        return ready

    def _on_their_channel(self, emails: list[Email]) -> list[Email]:
        """Return those that came on the channel of their mailer. Others get a message there: it was changed."""
        channels = {mailer: channel_of(mailer) for mailer in {email.mailer for email in emails}}
        if len(self._channels) == 1 and self._channels == {*channels.values()}:
            return emails
        here = []
        for email in emails:
            if self._messages[email.id].channel == channels[email.mailer]:
                here.append(email)
                continue
            announce(email.mailer, [email.pk], self._using, email.priority, email.send_at, email.dispatch)
            self._messages.finish(email.pk)
        return here

    def _working_ones_first(self, mailers: Collection[str]) -> Iterable[str]:
        """Sort the mailers that are out to the end: whoever tries one may have to wait for minutes."""
        out = circuit.tripped(self._using)
        return sorted(mailers, key=lambda mailer: mailer in out)

    def _deliver(self, mailer: str, emails: list[Email], obstacles: Obstacles) -> None:
        """Deliver by the mailer, or by the first that can stand in for it while it is out."""
        candidates, reason = failover.candidates(mailer), ""
        for candidate, stands_in in zip(candidates, [*candidates[1:], ""], strict=True):
            if not emails:
                return
            permission = circuit.permission_of(candidate, self._using, obstacles.mailer_states)
            if not obstacles.refused_senders:
                refused_senders.note_none(candidate, self._using)
            if not obstacles.throttles:
                throttle.note_none(candidate, self._using)
            obstacles = Obstacles()
            if permission.limit:
                emails, reason = self._attempt(candidate, emails, permission, stands_in)
            elif candidate == mailer and permission.is_paused:
                circuit.keep_paused(mailer, self._using)
                self._messages.release_all(emails, RELEASE_DELAY_S, f"mailer {mailer!r} is paused")
                return
            else:
                reason = reason or permission.reason
            bound = [email for email in emails if is_ambiguous(email)]
            self._messages.release_all(bound, RELEASE_DELAY_S, reason)
            emails = [email for email in emails if not is_ambiguous(email)]
        self._messages.release_all(emails, RELEASE_DELAY_S, reason)

    def _attempt(
        self, mailer: str, emails: list[Email], permission: Permission, stands_in: str
    ) -> tuple[list[Email], str]:
        """Send by one mailer. Return the emails that it could not take as it went out, and why.

        ``stands_in``: the mailer that takes its email then, for the log.
        """
        attempt = Attempt(mailer, permission.is_probe, self._messages, self._writer, self._using)
        attempt.is_alone |= self._is_alone
        try:
            emails, unwelcome = (emails, []) if attempt.senders.is_empty else self._welcome(attempt, emails)
            attempt.admission = throttle.admit(mailer, emails, self._using, self._reserved.take)
            for email, refusal in attempt.admission.later:
                self._messages.release(email.pk, refusal.wait, refusal.reason)
            ready = attempt.admission.ready
            if changed := failover.move(ready, mailer, self._using):
                self._writer.changed(changed)
                ready = [email for email in ready if email not in changed]
            left, outage = self._send(attempt, ready) if ready else ([], "")
            left += attempt.turned_away
            outage = attempt.end(left, outage, stands_in)
            if outage:
                return left + unwelcome, outage
            self._messages.release_all(left, RETRY_SOON_S, "its connection broke")
            return unwelcome, "its sender is refused"
        finally:
            if attempt.login is not None:
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
        refused = {email.pk: reason for email in emails if (reason := attempt.senders.reason_to_hold(email))}
        now, mailer = timezone.now(), attempt.mailer
        own = [email for email in emails if email.pk in refused and email.mailer == mailer]
        self._writer.write(
            [outcomes.hold_for_its_sender(email, now, mailer, why=refused[email.pk]) for email in own]
        )
        others = [email for email in emails if email.pk in refused and email.mailer != mailer]
        return [email for email in emails if email.pk not in refused], others

    def _send(self, attempt: Attempt, emails: list[Email]) -> tuple[list[Email], str]:
        """Send, and return what is left, and why the mailer cannot be used, if it cannot."""
        try:
            backend = open_backend(attempt.mailer)
            server = server_for(attempt.mailer, backend)
        except Exception as error:
            # Wrong settings: mended by a deploy, not by a person who requeues thousands.
            return emails, f"{type(error).__name__}: {error}"
        if key := key_of(backend):
            attempt.login = Login(attempt.mailer, key, self._using)
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
        has_limit = policy_of(attempt.mailer).connections is not None
        left, outage = list[Email](), ""
        for portion in in_portions(emails):
            if outage:
                left += portion
                continue
            batch = load_messages(portion, self._using)
            if len(batch.loaded) < len(portion):
                self._settle_unloaded(attempt.mailer, batch)
            if batch.loaded and has_limit:
                unsent, outage = self._send_within_limit(attempt, transport, batch.loaded)
                left += unsent
            elif batch.loaded:
                most = transport.connections_for(len(batch.loaded))
                unsent, outage = transport.send(batch.loaded, most, keep_open=True)
                left += unsent
        return left, outage

    def _send_within_limit(
        self, attempt: Attempt, transport: Transport, loaded: list[Loaded]
    ) -> tuple[list[Email], str]:
        """Send over connections of a mailer that may have only so many at once."""
        most, ready = transport.connections_for(len(loaded)), self._reserved.connection(attempt.mailer)
        with reserved_connections(attempt.mailer, most, self._using, ready) as permission:
            if permission.limit:
                return transport.send(loaded, permission.limit, keep_open=False)
            self._wait_for(attempt, [unsent.email for unsent in loaded], permission)
        return [], ""

    def _settle_unloaded(self, mailer: str, batch: EmailBatch) -> None:
        """Settle the emails whose content cannot be had."""
        now, results = timezone.now(), list[Result]()
        for email, error in batch.unreadable:
            logger.error("email %s cannot be read", email.pk, exc_info=error)
            email.attempts += 1
            results.append(outcomes.fail(email, now, f"it cannot be read: {error}", mailer))
        for email, error in batch.missing:
            results.append(outcomes.missing_file(email, now, f"a file is missing: {error}", mailer))
        for email, error in batch.later:
            results.append(outcomes.defer(email, now, mailer, why=str(error)))
        self._writer.write(results)
        for email, error in batch.later:
            logger.error("email %s waits: %s", email.pk, error)


def _ended(email: Email, now: datetime, suppressed: dict[str, str]) -> Result | None:
    """Return what became of an email that is not sent now; ``None``, if it is."""
    is_waiting = email.recipients[0]["status"] == Status.QUEUED
    if is_waiting and not suppressed and email.status == Status.QUEUED and email.expires_at is None:
        return None  # nearly all
    if email.status == Status.SENDING:
        mailer = failover.last_mailer(email)
        return outcomes.keep_ambiguous(email, now, "the worker that sent it died", mailer)
    if email.expires_at is not None and seconds_between(email.expires_at, now) >= 0:
        return outcomes.expire(email, now)
    return outcomes.suppress(email, now, suppressed)


def _seconds_until_due(email: Email, now: datetime) -> float:
    if email.send_at is None or email.status != Status.QUEUED:
        return 0.0
    return seconds_between(now, email.send_at)


def _wait_for_another(email: Email, losses: int, now: datetime) -> float:
    """Return the seconds to wait for another message that has this email, which is being sent. A message without a
    loss did not leave it so, so another message did. That happens when the layer was wiped and reconciliation has sent
    the messages again."""
    return 0.0 if losses else seconds_between(now, email.changed_at) + OTHER_WORKER_GRACE_S
