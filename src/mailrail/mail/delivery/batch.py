"""From claimed messages to emails that have left: load the records, sort them out, hand over, note what came of it.

No transaction is open while anybody talks to a server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from uuid import UUID

from django.db import router
from django.utils import timezone

from mailrail.log import logger_of
from mailrail.terminal import counted
from mailrail.transient import is_transient
from mailrail.worker import IncomingMessage

from ..mailers import circuit, failover, refused_senders, waiting
from ..mailers.channels import channel_of, mailer_of
from ..mailers.limiter import collect
from ..mailers.waiting import RELEASE_DELAY_S
from ..models import Email, Status
from ..queueing.accept import announce
from ..records import reading
from . import outcomes
from .messages import ClaimedMessages
from .recipient_states import is_ambiguous
from .retries import RETRY_SOON_S
from .sending import Sending
from .triage import FINAL_OR_HELD, triage
from .writer import OutcomeWriter

logger = logger_of("mailrail.mail")


class Delivery:
    """Deliver one batch. When ``run`` is over, each message has its outcome, whatever happened."""

    def __init__(self, messages: Sequence[IncomingMessage]) -> None:
        self._using = router.db_for_write(Email)
        self._messages = ClaimedMessages(messages)
        self._writer = OutcomeWriter(self._messages, self._using)
        self._channel = messages[0].channel
        self._reserved = collect(message.id for message in messages)
        self._sending = Sending(self._messages, self._writer, self._reserved, self._using)
        self._emails: dict[UUID, Email] = {}  # as they were read last, and what was written since
        self._obstacles = reading.Obstacles()

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
            if self._sending.is_alone:
                self._fail_unforeseen(ids[0], error)
                return
            emails = counted(len(ids), "email")
            logger.warning("an error in the delivery of %s, tried one by one now: %s", emails, error)
            known, self._sending.is_alone = self._emails, True
            for id in self._messages.undecided(ids):
                if id in known and known[id].status == Status.SENDING:  # by us: it was under way
                    self._fail_unforeseen(id, error)
                else:
                    self._run_or_part([id])

    def _fail_unforeseen(self, id: UUID, error: Exception) -> None:
        """Count the attempt of the one email that it is about, and say where it happened."""
        logger.error("email %s cannot be delivered, for an error that nobody foresaw", id, exc_info=error)
        if self._messages[id].outcome is not None:
            return
        try:
            email = reading.emails([id], self._using)[id]
            if email.status not in FINAL_OR_HELD:
                mailer = failover.last_mailer(email)
                self._writer.write([outcomes.fail_unforeseen(email, timezone.now(), error, mailer)])
        except Exception as again:
            if is_transient(again):
                raise
            logger.error("nor can that be written into the record of email %s", id, exc_info=again)
            self._messages.settle_by_itself(id, error)

    def _run(self, ids: Sequence[UUID]) -> None:
        emails, self._obstacles = reading.emails_and_obstacles(ids, self._using)
        self._emails = emails
        known = []
        for id in ids:
            if (email := emails.get(id)) is not None:
                known.append(email)
            else:
                self._messages.finish(id)  # its record was deleted
        by_mailer: dict[str, list[Email]] = defaultdict(list)
        has_suppressions = self._obstacles.suppressions
        ready = triage(known, self._messages, self._writer, self._using, has_suppressions)
        for email in self._on_their_channel(ready):
            by_mailer[failover.mailer_of(email)].append(email)
        if not by_mailer and (own := mailer_of(self._channel)) is not None:
            waiting.reopen(own)  # its limiter may wait for this batch to probe the mailer
        for mailer in self._working_ones_first(by_mailer):
            self._deliver(mailer, by_mailer[mailer])

    def _on_their_channel(self, emails: Iterable[Email]) -> Iterator[Email]:
        """Yield those that came on the channel of their mailer. Others get a message there: it was changed."""
        for email in emails:
            if self._messages[email.id].channel == channel_of(email.mailer):
                yield email
                continue
            announce(email.mailer, [email.pk], self._using, email.priority, email.send_at, email.dispatch)
            self._messages.finish(email.pk)

    def _working_ones_first(self, mailers: Collection[str]) -> Iterable[str]:
        """Sort the mailers that are out to the end: whoever tries one may have to wait for minutes."""
        if len(mailers) < 2:
            return mailers
        out = circuit.tripped(self._using)
        return sorted(mailers, key=lambda mailer: mailer in out)

    def _deliver(self, mailer: str, emails: list[Email]) -> None:
        """Deliver by the mailer, or by the first that can stand in for it while it is out."""
        candidates, reason = failover.candidates(mailer), ""
        for candidate, stands_in in zip(candidates, [*candidates[1:], ""], strict=True):
            if not emails:
                return
            permission = circuit.permission_of(candidate, self._using, self._obstacles.mailer_states)
            if not self._obstacles.refused_senders:
                refused_senders.note_none(candidate, self._using)
            self._obstacles = (
                reading.Obstacles()
            )  # what was read before an attempt says nothing of the next one
            if candidate == mailer and permission.is_paused:
                circuit.keep_paused(mailer, self._using)
                self._messages.release_all(emails, RELEASE_DELAY_S, f"mailer {mailer!r} is paused")
                return
            if permission.limit:
                emails, reason = self._sending.attempt(candidate, emails, permission, stands_in)
            else:
                reason = reason or permission.reason
            bound = [email for email in emails if is_ambiguous(email)]
            self._messages.release_all(bound, RELEASE_DELAY_S, reason)
            emails = [email for email in emails if not is_ambiguous(email)]
        self._messages.release_all(emails, RELEASE_DELAY_S, reason)
