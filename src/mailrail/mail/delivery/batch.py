"""From claimed messages to emails that have left: load the records, sort them out, hand over, note what came of it.

No transaction is open while anybody talks to a server.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections, router
from django.utils import timezone

from mailrail import MailrailError
from mailrail.addresses import bare
from mailrail.log import logger_of
from mailrail.moments import seconds_between
from mailrail.terminal import counted
from mailrail.transient import is_transient
from mailrail.worker import IncomingMessage

from ..mailers import circuit, failover, rates, throttle
from ..mailers.circuit import CircuitState
from ..mailers.config import open_backend, server_for
from ..mailers.connection_limits import reserved_connections
from ..mailers.logins import Login
from ..mailers.refused_senders import RefusedSenders
from ..models import FINAL, Email, Status
from ..records import reading
from ..records.suppressions import listed
from ..smtp import Connection, SmtpError, SmtpServer, close_all, drive, pool_of, send_all
from ..smtp.as_django import utf8_address_of
from ..smtp.errors import AuthenticationRefused, PoolExhausted
from . import outcome_log, outcomes
from .django_transport import send_by_django
from .load import Loaded, defect_of, in_portions, load_messages
from .outcomes import Result
from .smtp_transport import SmtpTransport
from .store import store_outcomes

logger = logger_of("mailrail.mail")

FINAL_OR_HELD = {*map(Status, FINAL), Status.HELD}
"""Final, or held: releasing it sends a message of its own, whose number (``Email.dispatch``) voids those before it."""
ACCEPTED = {Status.SENT, Status.PARTIAL}
"""The server has accepted it, for some recipients at least."""
EMAILS_PER_CONNECTION = 5
"""Emails that are worth another connection."""
RETRY_SOON_S = 5.0
"""Seconds until mail is looked at again that could not be delivered for a reason that passes."""
OTHER_WORKER_GRACE_S = 60.0
"""Seconds that an email is left to another worker which may be alive."""
DATABASE_TIMEOUT_S = 20.0
"""Seconds in which outcomes that are known wait for a database that is away: each one that is lost is a second copy."""
MIN_PACE_PER_S = 10.0
"""Emails a second, half of which remain at first of a mailer that sends few and is asked for less."""
LOGGING_IN = "another worker logs in first"
NO_CONNECTION = "all connections of its mailer are in use"
FINISH_INTERVAL_S = 1.0
"""Seconds between two settlements of messages whose emails are final, while other emails of the batch go on. The last
messages end with the batch. Each settlement is a call to the layer, which costs as much as several emails. A crash in
between loses nothing: the records say what became of the emails."""


class Delivery:
    """Deliver one batch. When ``run`` is over, each message has its outcome, whatever happened."""

    def __init__(self, messages: Sequence[IncomingMessage]) -> None:
        self._using = router.db_for_write(Email)
        self._all = messages
        self._messages: dict[UUID, IncomingMessage] = {}
        self._emails: dict[UUID, Email] = {}  # as they were read last, and what was written since
        self._slow_down: dict[str, str] = {}  # of the mailer that delivers just now
        self._senders: RefusedSenders  # the same
        self._login: Login | None = None  # the same
        self._ended = 0
        self._probed: str | None = None  # the mailer, while it is tried for all
        self._answered = False
        self._broke = ""  # how its connection did, the last time
        self._final: list[IncomingMessage] = []  # to be finished
        self._turned_away: list[Email] = []  # by the mailer that delivers just now, which is out
        self._not_before: dict[
            UUID, float
        ] = {}  # seconds until one of these may be tried again by the same mailer
        self._finished_at = time.monotonic()

    def run(self) -> None:
        try:
            self._deduplicate()
            self._run_or_part([*self._messages])
        except Exception as error:
            if not is_transient(error):
                raise
            waiting = counted(len(self._all), "email")
            logger.error("the database or the layer is away; %s waiting: %s", waiting, error)
            self._reconnects()
        finally:
            self._finish_final()
            for message in self._all:  # returning would finish them
                _release(message, RETRY_SOON_S, "it could not leave yet")

    def _deduplicate(self) -> None:
        for message in self._all:
            id = id_of(message.content)
            if id is None:
                logger.warning("%r names no email: %r", message, message.content)
                _finish(message)
                continue
            twin = self._messages.setdefault(id, message)
            if twin is not message:  # the later one's record is committed, and makes the other one void
                older, self._messages[id] = sorted(
                    (twin, message), key=lambda claimed: dispatch_of(claimed.content)
                )
                _finish(older)

    def _run_or_part(self, ids: Sequence[UUID]) -> None:
        """Deliver these. After an error that nobody foresaw, each alone, so that the others leave."""
        try:
            self._run(ids)
        except Exception as error:
            if is_transient(error):
                raise
            self._slow_down, self._probed, self._turned_away = {}, None, []
            final = {id(message) for message in self._final}
            left = [
                email_id
                for email_id in ids
                if self._messages[email_id].outcome is None and id(self._messages[email_id]) not in final
            ]
            if len(ids) == 1:
                self._fail_unforeseen(ids[0], error)
                return
            logger.warning(
                "an error in the delivery of %s emails, which are tried one by one: %s", len(ids), error
            )
            known = self._emails
            for email_id in left:
                if email_id in known and known[email_id].status == Status.SENDING:  # by us: it was under way
                    self._fail_unforeseen(email_id, error)
                else:
                    self._run_or_part([email_id])

    def _fail_unforeseen(self, id: UUID, error: Exception) -> None:
        """Count the attempt of the one email that it is about, and say where it happened."""
        message = self._messages[id]
        logger.error("email %s cannot be delivered, for an error that nobody foresaw", id, exc_info=error)
        if message.outcome is not None:
            return
        try:
            email = reading.emails([id], self._using)[id]
            if email.status not in FINAL_OR_HELD:
                self._settle(
                    [outcomes.fail_unforeseen(email, timezone.now(), error, failover.last_mailer(email))]
                )
        except Exception as again:
            if is_transient(again):
                raise
            logger.error("nor can that be written into the record of email %s", id, exc_info=again)
            _settle_message(message, error)

    def _run(self, ids: Sequence[UUID]) -> None:
        self._emails = emails = reading.emails(ids, self._using)
        for id in ids:
            if id not in emails:
                _finish(self._messages[id])  # its record was deleted
        by_mailer: dict[str, list[Email]] = defaultdict(list)
        for email in self._triage([emails[id] for id in ids if id in emails]):
            by_mailer[failover.mailer_of(email)].append(email)
        for mailer in self._working_ones_first(by_mailer):
            self._deliver(mailer, by_mailer[mailer])

    def _working_ones_first(self, mailers: Collection[str]) -> Iterable[str]:
        """Sort the mailers that are out to the end: whoever tries one may have to wait for minutes."""
        if len(mailers) < 2:
            return mailers
        out = circuit.tripped(self._using)
        return sorted(mailers, key=lambda mailer: mailer in out)

    # -- before anything is sent --------------------------------------------------------------------------------

    def _triage(self, emails: list[Email]) -> list[Email]:
        """Return the emails to send now. The others are settled."""
        now = timezone.now()
        sound, results, ready = [], [], []
        for email in emails:
            if (
                email.status in FINAL_OR_HELD
                or dispatch_of(self._messages[email.pk].content) < email.dispatch
            ):
                _finish(self._messages[email.pk])
            elif defect := defect_of(email):
                results.append(outcomes.fail_unsound(email, now, defect))
            elif (left := _seconds_until_due(email, now)) > 0:
                _release(self._messages[email.pk], left, "its time has not come")
            elif (wait := self._wait_for_another(email, now)) > 0:
                _release(self._messages[email.pk], wait, "another worker may be sending it")
            else:
                sound.append(email)
        suppressed = self._suppressed(sound)
        for email in sound:
            if email.status == Status.SENDING:
                results.append(
                    outcomes.keep_ambiguous(
                        email, now, "the worker that sent it died", failover.last_mailer(email)
                    )
                )
            elif email.expires_at is not None and seconds_between(email.expires_at, now) >= 0:
                results.append(outcomes.expire(email, now))
            elif (result := outcomes.suppress(email, now, suppressed)) is not None:
                results.append(result)
            else:
                ready.append(email)
        self._settle(results)
        return ready

    def _wait_for_another(self, email: Email, now: datetime) -> float:
        """Return the seconds to wait for another message that has this email. A message without a loss did not
        leave its email as being sent, so another message did. That happens when the layer was wiped and reconciliation
        has sent the messages again."""
        if email.status != Status.SENDING or self._messages[email.pk].losses:
            return 0.0
        return seconds_between(now, email.changed_at) + OTHER_WORKER_GRACE_S

    def _suppressed(self, emails: Iterable[Email]) -> dict[str, str]:
        addresses = {bare(recipient["address"]) for email in emails for recipient in email.recipients}
        return listed(addresses, self._using)

    # -- one mailer ---------------------------------------------------------------------------------------------

    def _deliver(self, mailer: str, emails: list[Email]) -> None:
        """Deliver by the mailer, or by the first that can stand in for it while it is out."""
        candidates, wait, reason = failover.candidates(mailer), float("inf"), ""
        for candidate in candidates:
            if not emails:
                return
            circuit_state = circuit.state_of(candidate, self._using)
            if candidate == mailer and circuit_state.is_paused:
                self._recheck_later(mailer, emails, f"mailer {mailer!r} is paused")
                return
            if circuit_state.usable:
                emails, delay, reason = self._attempt_with(candidate, emails, circuit_state, candidates)
                wait = min(wait, delay)
            elif not circuit_state.is_paused:
                wait, reason = min(wait, circuit_state.wait), reason or f"mailer {candidate!r} is out"
            bound = [email for email in emails if not failover.can_fail_over(email)]
            self._release_all(bound, wait, reason)
            emails = [email for email in emails if failover.can_fail_over(email)]
        self._release_all(emails, wait, reason)

    def _attempt_with(
        self, mailer: str, emails: list[Email], circuit_state: CircuitState, candidates: Sequence[str]
    ) -> tuple[list[Email], float, str]:
        """Deliver by one mailer. Return the emails that it could not take as it went out, the seconds until its next
        try, and why."""
        self._senders = RefusedSenders(mailer, self._using)
        emails, unwelcome = self._welcome(mailer, emails)
        admission = rates.admit(mailer, emails, self._using)
        for email, delay, reason in admission.later:
            _release(self._messages[email.pk], delay, reason)
        self._slow_down, self._ended, begun = {}, 0, time.monotonic()
        self._answered, self._broke, self._turned_away = False, "", []
        self._probed = mailer if circuit_state.is_probe else None
        left, outage = self._send(mailer, self._moved(mailer, admission.ready), circuit_state, admission)
        self._senders.save()
        left += self._turned_away
        if self._slow_down and self._ended:  # else it is out, which is more than slow
            self._slow(mailer, time.monotonic() - begun)
        admission.give_back(left)
        if outage is None and self._probed is not None and self._broke and not self._answered:
            outage = self._broke
        if outage is None:
            if self._probed is not None:
                (circuit.reset if self._answered else circuit.half_open)(mailer, self._using)
            self._release_all(left, RETRY_SOON_S, "its connection broke")
            self._give_login_back()
            return unwelcome, float("inf"), "its sender is refused"
        stands_in = next(iter(candidates[candidates.index(mailer) + 1 :]), "")
        delay = circuit.trip(mailer, outage, self._using, stands_in)
        self._give_login_back()
        return left + unwelcome, delay, outage

    def _give_login_back(self) -> None:
        """Give the login back, last of all: whoever tries it next has to see that the mailer is out, if it is."""
        if self._login is not None:
            self._login.give_back()
            self._login = None

    def _welcome(self, mailer: str, emails: list[Email]) -> tuple[list[Email], list[Email]]:
        """Hold those whose sender the server refuses. Returns the others, and those that wait for their own mailer."""
        refused = {email.pk: reason for email in emails if (reason := self._senders.reason_to_hold(email))}
        if not refused:
            return emails, []
        now = timezone.now()
        own = [email for email in emails if email.pk in refused and email.mailer == mailer]
        self._settle(
            [outcomes.hold_for_its_sender(email, now, mailer, why=refused[email.pk]) for email in own]
        )
        others = [email for email in emails if email.pk in refused and email.mailer != mailer]
        return [email for email in emails if email.pk not in refused], others

    def _moved(self, mailer: str, emails: list[Email]) -> list[Email]:
        """Return the emails that may leave by this mailer, now that their records say so."""
        changed = failover.move(emails, mailer, self._using)
        self._changed(changed)
        return [email for email in emails if email not in changed] if changed else emails

    def _send(
        self, mailer: str, emails: list[Email], circuit_state: CircuitState, admission: rates.Admission
    ) -> tuple[list[Email], str | None]:
        """Send, and return what is left, and why the mailer cannot be used, if it cannot."""
        if not emails:
            return [], None
        try:
            backend = open_backend(mailer)
            server = server_for(mailer, backend)
        except Exception as error:
            # Wrong settings: mended by a deploy, not by a person who requeues thousands.
            return emails, f"{type(error).__name__}: {error}"
        login = self._login = Login(mailer, backend, self._using)
        if not circuit_state.is_probe and not self._may_log_in(mailer, login):
            self._recheck_later(mailer, emails, LOGGING_IN, soonest=0.1)
            admission.give_back(emails)
            return [], None
        left: list[Email] = []
        outage = None
        for portion in in_portions(emails):
            if outage is not None:
                left += portion
                continue
            loaded = self._load(mailer, portion)
            most = 1 if server is None else _most(server, len(loaded), circuit_state)
            with reserved_connections(mailer, most, self._using) as free:
                if free == 0:
                    self._recheck_later(mailer, portion, NO_CONNECTION, soonest=0.1)
                    admission.give_back(portion)
                elif server is None:
                    unsent, outage = send_by_django(
                        backend, loaded, mailer, self._using, self._senders, login, self._settle_patiently
                    )
                    left += unsent
                else:
                    unsent, outage = self._by_smtp(
                        backend, server, mailer, loaded, admission, free or most, free is not None
                    )
                    left += unsent
        return left, outage

    def _slow(self, mailer: str, seconds: float) -> None:
        """Slow down as the server asks. A few emails say little of the pace that it bears, so the pace has a
        minimum."""
        pace = max(MIN_PACE_PER_S, self._ended / max(seconds, 0.001))
        for domain, reply in self._slow_down.items():
            allowed = rates.slowest_configured(mailer, domain)
            throttle.slow_down(mailer, domain, min(pace, allowed), reply, self._using)

    def _load(self, mailer: str, emails: list[Email]) -> list[Loaded]:
        batch, now = load_messages(emails, self._using), timezone.now()
        ended = self._ended
        for email, error in batch.unreadable:
            logger.error("email %s cannot be read", email.pk, exc_info=error)
            email.attempts += 1
        self._settle(
            [
                outcomes.fail(email, now, f"it cannot be read: {error}", mailer)
                for email, error in batch.unreadable
            ]
            + [
                outcomes.missing_file(email, now, f"a file is missing: {error}", mailer)
                for email, error in batch.missing
            ]
            + [outcomes.await_storage(email, now, str(error), mailer) for email, error in batch.later]
        )
        self._ended = ended  # which says nothing of the mailer
        for email, error in batch.later:
            logger.error("email %s waits: %s", email.pk, error)
        return batch.loaded

    def _by_smtp(
        self,
        backend: BaseEmailBackend,
        server: SmtpServer,
        mailer: str,
        loaded: list[Loaded],
        admission: rates.Admission,
        most: int,
        close: bool,
    ) -> tuple[list[Email], str | None]:
        """Send over at most ``most`` connections, and return what is left, and why. ``close``: keep none of them."""
        if not loaded:
            return [], None
        transport = SmtpTransport(
            loaded,
            mailer,
            server,
            self._using,
            self._senders,
            admission,
            lambda address, loaded_email: utf8_address_of(backend, address, loaded_email.message),
            self._settled,
            self._changed,
        )
        try:
            connections = _take(server, most)
        except PoolExhausted:
            return transport.left(), None
        errors = self._send_over(connections, transport, server, close)
        self._apply_replies(errors, mailer)
        broken = str(errors[0]) if errors and transport.left() and not transport.accepted else None
        return transport.left(), transport.mailer_out or broken

    def _send_over(
        self, connections: Sequence[Connection], transport: SmtpTransport, server: SmtpServer, close: bool
    ) -> list[SmtpError]:
        """Send until no email is left or no connection works. Return why connections failed."""
        try:
            return self._open_first(connections) or send_all(connections, transport)
        finally:
            if close:
                close_all(connections)
            for connection in connections:
                pool_of(server).give_back(connection)
            transport.put_off_rest()
            self._patiently(transport.commit)

    def _may_log_in(self, mailer: str, login: Login) -> bool:
        """Tell whether this batch may. Another one may have tried, and been refused, since it was read."""
        if not login.may_begin():
            return False
        return not (login.is_first and mailer in circuit.tripped(self._using))

    def _open_first(self, connections: Sequence[Connection]) -> list[SmtpError]:
        """Log in over one connection before the others are opened. Returns why that could not be."""
        if (
            self._login is None
            or not self._login.key
            or any(connection.is_open for connection in connections)
        ):
            return []
        try:
            drive(connections[0].open())
        except SmtpError as error:
            return [error]
        self._login.accepted()
        return []

    def _apply_replies(self, errors: Sequence[SmtpError], mailer: str) -> None:
        """Apply the replies to connections: a server that refuses connections wants less mail, too."""
        for error in errors:
            if isinstance(error, AuthenticationRefused) and self._login is not None:
                self._login.refused()
            if outcomes.asks_for_less(error.reply, error.stage, mailer):
                self._slow_down[""] = str(error.reply)

    def _patiently(self, write: Callable[[], object]) -> None:
        """Write outcomes that are known, and wait for a database that is being restarted."""
        until, is_logged = time.monotonic() + DATABASE_TIMEOUT_S, False
        while True:
            try:
                write()
                return
            except Exception as error:
                if not is_transient(error) or time.monotonic() > until or not self._reconnects():
                    raise
                if not is_logged:
                    logger.warning("outcomes of emails wait for the database: %s", error)
                is_logged = True
                time.sleep(0.2)

    def _reconnects(self) -> bool:
        """Close the connection, so that the next query opens a new one. Not inside a caller's transaction, as in a
        test: that one is over."""
        connection = connections[self._using]
        if connection.in_atomic_block:
            return False
        connection.close()
        return True

    # -- afterwards ---------------------------------------------------------------------------------------------

    def _settle(self, results: Sequence[Result]) -> None:
        if results:
            written = store_outcomes(results, (), self._using)
            self._settled([result for result in results if result.email.pk in written.saved])
            self._changed([result.email for result in results if result.email.pk not in written.saved])

    def _settle_patiently(self, results: Sequence[Result]) -> None:
        self._patiently(lambda: self._settle(results))

    def _settled(self, results: Sequence[Result]) -> None:
        """Settle the messages of results that are committed."""
        self._ended += len(results)
        for result in results:
            if result.slow_down:
                self._slow_down.update(result.slow_down)
            self._answered, self._broke = self._answered or result.is_answer, result.broke or self._broke
            message = self._messages[result.email.pk]
            if result.is_part:
                continue
            if result.mailer_out:
                self._turned_away.append(result.email)
                self._not_before[result.email.pk] = result.again or 0.0
            elif result.again is None:
                self._final.append(message)
            else:
                _release(message, result.again, "it is sent later")
        outcome_log.log([result for result in results if not result.mailer_out and not result.is_part])
        if time.monotonic() - self._finished_at >= FINISH_INTERVAL_S:
            self._finish_final()
        if self._probed is not None and any(result.status in ACCEPTED for result in results):
            circuit.reset(self._probed, self._using)  # nobody has to wait for the rest of this batch
            self._probed = None

    def _finish_final(self) -> None:
        for message in self._final:
            _say(message, partial(message.finish, is_logged=True))
        self._final.clear()
        self._finished_at = time.monotonic()

    def _changed(self, emails: Iterable[Email]) -> None:
        """Release emails that were changed meanwhile: by a person, or by another worker whose message this one has
        become."""
        for email in emails:
            logger.info("email %s was changed while it was about to be sent", email.pk)
            _release(self._messages[email.pk], random.uniform(0, 1), "it was changed meanwhile")

    def _release_all(self, emails: Iterable[Email], delay: float, reason: str) -> None:
        for email in emails:
            wait = max(delay * random.uniform(1, 1.1), self._not_before.get(email.pk, 0.0))
            _release(self._messages[email.pk], wait, reason)

    def _recheck_later(
        self, mailer: str, emails: Sequence[Email], reason: str, soonest: float = throttle.MIN_RECHECK_S
    ) -> None:
        """Release emails that wait for an unknown time: few are checked again soon, many less often."""
        for email, delay in zip(emails, throttle.recheck_delays(mailer, len(emails), soonest), strict=True):
            _release(self._messages[email.pk], delay, reason)


def _most(server: SmtpServer, count: int, circuit_state: CircuitState) -> int:
    """Return how many connections so many emails are worth."""
    return 1 if circuit_state.is_probe else max(1, min(server.pool_size, -(-count // EMAILS_PER_CONNECTION)))


def _take(server: SmtpServer, most: int) -> list[Connection]:
    """Take at least one connection, and others that are free. Raise ``PoolExhausted``."""
    pool = pool_of(server)
    connections = [pool.take()]
    try:
        while len(connections) < most:
            connections.append(pool.take(timeout=0))
    except PoolExhausted:
        pass  # the other batch has them
    return connections


def _settle_message(message: IncomingMessage, error: Exception) -> None:
    """Retry or bury a message by its own attempts, where the record cannot be used. A dead one's record is held."""
    error_text = "".join(traceback.format_exception(error))
    if message.attempt < outcomes.MAX_UNFORESEEN_ATTEMPTS:
        _say(message, lambda: message.retry(outcomes.delay_after(message.attempt), error_text))
    else:
        _say(message, lambda: message.bury(error_text))


def _finish(message: IncomingMessage) -> None:
    _say(message, message.finish)


def _seconds_until_due(email: Email, now: datetime) -> float:
    if email.send_at is None or email.status != Status.QUEUED:
        return 0.0
    return seconds_between(now, email.send_at)


def _release(message: IncomingMessage, delay: float, reason: str) -> None:
    _say(message, lambda: message.release(delay, reason, is_logged=True))


def _say(message: IncomingMessage, settle: Callable[[], None]) -> None:
    """Settle a message, unless it is settled already: by us, or by a worker that had to stop."""
    if message.outcome is None:
        try:
            settle()
        except MailrailError:
            pass  # in that very moment


def dispatch_of(content: Mapping[str, object]) -> int:
    dispatch = content.get("dispatch", 0)
    return dispatch if isinstance(dispatch, int) else 0


def id_of(content: Mapping[str, object]) -> UUID | None:
    try:
        return UUID(str(content.get("id")))
    except ValueError:
        return None
