"""The emails of one delivery on their way through the SMTP client.

One rule keeps a crash cheap. The outcome of an email is committed together with the intent to send the next emails,
before their final dots leave. So after a crash at most one email per open connection is ambiguous. Connections that
come to their final dots at the same time share a commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple

from django.utils import timezone

from mailrail.log import logger_of

from ..models import Email, Status
from ..smtp import DeliveryOutcome, Envelope, Fate, SmtpServer
from ..smtp.errors import EightBitNotOffered, NotCommitted
from ..smtp.replies import Stage
from ..smtp.transactions import divide, learn, most_recipients, overflow, smaller, without
from . import outcomes
from .answers import accept, apply_outcome, may_go_on
from .attempt import Attempt
from .load import Loaded
from .outcomes import Result
from .record import mark_under_way, waiting
from .retries import RETRY_SOON_S
from .writer import Note, OutcomeWriter, write_together

logger = logger_of("mailrail.mail")

AddressOf = Callable[[str, Any], str]
"""Return the bare address that the server is told. The second argument is the encoding of its message."""


class _EmailRef(NamedTuple):
    """What an envelope was made of, and by whom. ``wire``: the record's address -> what the server was told.

    ``rest``: recipients, as the server is told, who follow in other transactions. ``most``: in one, as the server has
    said. ``is_split``: there are others, or were. ``paid``: domains whose tokens no transaction has used yet.
    """

    source: EmailSource
    loaded: Loaded
    wire: dict[str, str]
    eight_bit: bool
    rest: tuple[str, ...] = ()
    most: int | None = None
    is_split: bool = False
    paid: AbstractSet[str] = frozenset()


class EmailSource:
    """Hand emails to the SMTP client, and take their outcomes: an ``EnvelopeSource``.

    An email to more recipients than ``server`` takes at once leaves in several transactions, one after the other. The
    outcome of one is committed before the final dot of the next: who has the email is not offered it again.
    """

    def __init__(
        self,
        emails: Sequence[Loaded],
        attempt: Attempt,
        server: SmtpServer,
        address_of: AddressOf,
    ) -> None:
        self._waiting: deque[tuple[Loaded, bool] | Envelope] = deque([(email, True) for email in emails])
        self._attempt = attempt
        self.using = attempt.using
        self._mailer = attempt.mailer
        self._senders = attempt.senders
        self._admission = attempt.admission
        self._server = server
        self._address_of = address_of
        self._results: list[Result] = []
        self.outcomes: tuple[OutcomeWriter, list[Result], Note] = attempt.writer, self._results, attempt.learn
        """What is not written yet, for ``write_together``, which empties the list."""
        self._under_way = 0
        self.accepted = 0
        self.mailer_out = ""
        """The reply by which the server refused whatever comes by this mailer; nothing more is handed out then."""

    def __len__(self) -> int:
        return 0 if self.mailer_out else len(self._waiting)

    @property
    def is_over(self) -> bool:
        """Tell whether nothing waits, and nothing is under way."""
        return not self._under_way and not len(self)

    def left(self) -> list[Email]:
        """Return what no connection has taken."""
        return [item[0].email for item in self._waiting if not isinstance(item, Envelope)]

    def next(self) -> Envelope | None:
        while self._waiting and not self.mailer_out:
            taken = self._waiting.popleft()
            envelope = taken if isinstance(taken, Envelope) else self._envelope(*taken)
            if envelope is not None and (len(envelope.recipients) > 1 or envelope.ref.is_split):
                envelope = self._part(envelope)
            if envelope is not None:
                self._under_way += 1
                return envelope
        return None

    def _envelope(self, loaded: Loaded, eight_bit: bool) -> Envelope | None:
        """Return the envelope with all its recipients, unless the email cannot leave."""
        email, address_of = loaded.email, self._address_of
        if email.mailer == self._mailer and (reason := self._senders.reason_to_hold(email)):
            self._results.append(
                outcomes.hold_for_its_sender(email, timezone.now(), self._mailer, why=reason)
            )
            return None
        try:
            composed, encoding = loaded.compose(eight_bit=eight_bit), loaded.encoding
            wire = {address: address_of(address, encoding) for address in waiting(email)}
            ref = _EmailRef(self, loaded, wire, eight_bit)
            if len(wire) > 1:  # with one recipient it cannot leave in parts
                ref = ref._replace(paid=self._admission.domains(wire))
            return Envelope(
                address_of(email.sender, encoding),
                list(dict.fromkeys(wire.values())),
                composed.data,
                composed.eight_bit,
                composed.smtputf8,
                ref,
            )
        except Exception as error:  # of this email alone, whatever it is
            logger.error("email %s cannot be written", email.pk, exc_info=error)
            reason = f"it cannot be written: {type(error).__name__}: {error}"
            email.attempts += 1
            self._results.append(outcomes.fail(email, timezone.now(), reason, self._mailer))
            return None

    def _part(self, envelope: Envelope) -> Envelope | None:
        """Return as much of it as leaves in one transaction, unless that has to wait for a rate."""
        ref: _EmailRef = envelope.ref
        recipients, rest = divide(envelope.recipients, ref.most, most_recipients(self._server))
        if not rest and not ref.is_split:
            return envelope
        offered = set(recipients)
        domains = self._admission.domains(given for given, wire in ref.wire.items() if wire in offered)
        email = ref.loaded.email
        try:
            _, wait, reason, _ = self._admission.take_another(email, domains - ref.paid, self.using)
        except Exception as error:  # not here: another email of this connection may be at its final dot
            wait, reason = RETRY_SOON_S, f"its rate cannot be asked: {error}"
        if wait:
            self._add(outcomes.defer(email, timezone.now(), self._mailer, delay=wait, why=reason))
            return None
        ref = ref._replace(rest=tuple(rest), is_split=True, paid=ref.paid - domains)
        return replace(envelope, recipients=recipients, ref=ref)

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        """Return ``False`` for each that was cancelled, held or taken by another worker since it was loaded.

        Raises what the database raises: then nothing leaves.
        """
        return commit_together([self], envelopes)

    def prepare(self, envelopes: Sequence[Envelope]) -> list[Email]:
        """Note in the records who is about to get these. Return the emails that need an intent.

        Those of which a part has left need none: the outcome of that part and the next intent are one change of one
        record.
        """
        for envelope in envelopes:
            if envelope.ref.is_split:
                self._mark(envelope)
        intents = [envelope.ref.loaded.email for envelope in envelopes]
        if not (parts := [result.email for result in self._results if result.is_part]):
            return intents
        on_the_way, now = {email.id for email in intents}, timezone.now()
        for email in parts:
            email.status = Status.SENDING if email.id in on_the_way else Status.QUEUED
            email.changed_at, email.next_try_at = now, None
        return [email for email in intents if email not in parts]

    def take_back(self, envelopes: Sequence[Envelope]) -> None:
        """Take back what ``prepare`` has noted, as it was not written."""
        for envelope in envelopes:
            if envelope.ref.is_split:
                mark_under_way(envelope.ref.loaded.email, ())

    def _mark(self, envelope: Envelope) -> None:
        """Mark in the record who is under way, as the others are not."""
        email = envelope.ref.loaded.email
        mark_under_way(email, set(_given(envelope.ref.wire, envelope.recipients)))
        if self._part_of(email) is None:
            self._add(Result(email, Status.QUEUED, is_part=True))

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        ref: _EmailRef = envelope.ref
        self._under_way -= 1
        if outcome.fate is Fate.ACCEPTED:
            self.accepted += 1
            if outcome.reply is not None and not outcome.refused and not ref.is_split:  # as nearly all are
                email = ref.loaded.email
                result = accept(email, outcome.reply, timezone.now(), self._mailer, self._senders)
                self._results.append(result)
            else:
                self._apply_outcome(envelope, outcome)
        elif isinstance(outcome.error, EightBitNotOffered) and ref.eight_bit:
            self._waiting.append((ref.loaded, False))
        elif isinstance(outcome.error, NotCommitted):
            self._attempt.writer.changed([ref.loaded.email])
        elif most := smaller(envelope, outcome):
            whole = [*envelope.recipients, *ref.rest]
            ref = ref._replace(rest=(), is_split=True, most=most)
            self._waiting.appendleft(replace(envelope, recipients=whole, ref=ref))
        else:
            self._apply_outcome(envelope, outcome)

    def _apply_outcome(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        ref: _EmailRef = envelope.ref
        if outcome.fate is Fate.ACCEPTED and ref.most:
            learn(self._server, ref.most)
        over, most = overflow(envelope.recipients, outcome) if outcome.fate is not Fate.AMBIGUOUS else ([], 0)
        rest = [*over, *ref.rest]
        offered = None
        if rest or ref.is_split:
            offered = self._offered(envelope, outcome, over)
            outcome = without(outcome, over)
        result = apply_outcome(
            ref.loaded.email,
            _in_words_of_the_record(outcome, ref.wire),
            timezone.now(),
            self._mailer,
            self._senders,
            offered,
            goes_on=bool(rest) and may_go_on(outcome, self._mailer),
        )
        self.mailer_out = self.mailer_out or result.mailer_out
        if result.is_part:
            used = self._admission.domains(offered or ())
            ref = ref._replace(rest=(), is_split=True, most=most or ref.most, paid=ref.paid - used)
            self._waiting.appendleft(replace(envelope, recipients=rest, ref=ref))
        self._add(result)

    @staticmethod
    def _offered(envelope: Envelope, outcome: DeliveryOutcome, over: Collection[str]) -> set[str]:
        """Return whom the outcome is about, as the record has them: a refusal of MAIL is about all who follow, too."""
        offered = {*envelope.recipients} - {*over}
        if outcome.stage is Stage.MAIL:
            offered.update(envelope.ref.rest)
        return set(_given(envelope.ref.wire, offered))

    def _add(self, result: Result) -> None:
        """Add a result, one for each email, as each is written once: that of a transaction goes into that of the
        next."""
        if (before := self._part_of(result.email)) is not None:
            self._results[:] = [other for other in self._results if other is not before]
            result.take_over(before)
        self._results.append(result)

    def _part_of(self, email: Email) -> Result | None:
        """Return the unwritten result of an email that has recipients to follow."""
        return next((it for it in self._results if it.is_part and it.email.id == email.id), None)

    def put_off_rest(self) -> None:
        """Let the rest of those wait that have begun to leave: no connection is left for it."""
        begun = [envelope for envelope in self._waiting if isinstance(envelope, Envelope)]
        self._waiting = deque(envelope for envelope in self._waiting if not isinstance(envelope, Envelope))
        for envelope in begun:
            email = envelope.ref.loaded.email
            reason = self.mailer_out or "no connection was left for the other recipients"
            result = outcomes.defer(email, timezone.now(), self._mailer, delay=RETRY_SOON_S, why=reason)
            result.mailer_out = self.mailer_out
            self._add(result)


def commit_together(sources: Collection[EmailSource], envelopes: Sequence[Envelope] = ()) -> list[bool]:
    """Write down what has ended, and that these are about to leave, in one commit. Return which of them may.

    ``envelopes``: of these sources. When it raises, nothing is forgotten: it may be called again.
    """
    by_source: dict[EmailSource, list[Envelope]] = {source: [] for source in sources}
    for envelope in envelopes:
        by_source[envelope.ref.source].append(envelope)
    try:
        intents = [email for source, own in by_source.items() for email in source.prepare(own)]
        using = next(iter(by_source)).using
        lost = write_together([source.outcomes for source in by_source], intents, using)
    except BaseException:
        for source, own in by_source.items():
            source.take_back(own)
        raise
    return [not lost or envelope.ref.loaded.email.id not in lost for envelope in envelopes]


def _given(wire: Mapping[str, str], addresses: Iterable[str]) -> list[str]:
    """Return the record's addresses of those that the server was told."""
    wanted = set(addresses)
    return [given for given, address in wire.items() if address in wanted]


def _in_words_of_the_record(outcome: DeliveryOutcome, wire: dict[str, str]) -> DeliveryOutcome:
    """Name recipients as the record does: the server was told bare addresses, IDNs in ASCII, each once."""
    if not outcome.refused:
        return outcome
    refused = {
        given: outcome.refused[address] for given, address in wire.items() if address in outcome.refused
    }
    return replace(outcome, refused=refused)
