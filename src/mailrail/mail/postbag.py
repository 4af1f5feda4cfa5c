"""The emails of one delivery on their way through the SMTP client.

One rule keeps a crash cheap. The outcome of an email is committed together with the intent to send the next emails,
before their final dots leave. So after a crash at most one email per open connection is ambiguous. Connections that
come to their final dots at the same time share a commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from django.utils import timezone

from mailrail.log import logger_of

from . import outcomes
from .compose import compose
from .ledger import write
from .load import Loaded
from .models import Email
from .outcomes import Result, judge, waiting
from .refused_senders import RefusedSenders
from .smtp import Envelope, Fate, Outcome
from .smtp.errors import EightBitNotOffered, NotPermitted

logger = logger_of("mailrail.mail")

AddressOf = Callable[[str, Loaded], str]


@dataclass(frozen=True)
class _Ref:
    """What an envelope was made of. ``wire``: the record's address -> what the server was told."""

    loaded: Loaded
    wire: dict[str, str]
    eight_bit: bool


class Postbag:
    """A ``Mailbag``. ``settled`` is told of results that are committed, ``changed`` of emails somebody else changed."""

    def __init__(
        self,
        emails: Sequence[Loaded],
        mailer: str,
        using: str,
        senders: RefusedSenders,
        address_of: AddressOf,
        settled: Callable[[Sequence[Result]], None],
        changed: Callable[[Sequence[Email]], None],
    ) -> None:
        self._waiting = deque((email, True) for email in emails)
        self._mailer = mailer
        self._using = using
        self._senders = senders
        self._address_of = address_of
        self._settled = settled
        self._changed = changed
        self._results: list[Result] = []
        self.accepted = 0
        self.mailer_out = ""
        """The reply by which the server refused whatever comes by this mailer; nothing more is handed out then."""

    def __len__(self) -> int:
        return 0 if self.mailer_out else len(self._waiting)

    def left(self) -> list[Email]:
        """What no connection has taken."""
        return [loaded.email for loaded, _ in self._waiting]

    def next(self) -> Envelope | None:
        while len(self):
            loaded, eight_bit = self._waiting.popleft()
            if loaded.email.mailer == self._mailer and (why := self._senders.reason_to_hold(loaded.email)):
                held = outcomes.hold_for_its_sender(loaded.email, timezone.now(), self._mailer, why=why)
                self._results.append(held)
                continue
            try:
                return self._envelope(loaded, eight_bit)
            except Exception as error:  # of this email alone, whatever it is
                logger.error("email %s cannot be written", loaded.email.pk, exc_info=error)
                why = f"it cannot be written: {type(error).__name__}: {error}"
                loaded.email.attempts += 1
                self._results.append(outcomes.fail(loaded.email, timezone.now(), why, self._mailer))
        return None

    def _envelope(self, loaded: Loaded, eight_bit: bool) -> Envelope:
        email, message = loaded
        composed = compose(
            message, message_id=email.message_id, date=email.date, eight_bit=eight_bit, smtputf8=True
        )
        wire = {address: self._address_of(address, loaded) for address in waiting(email)}
        return Envelope(
            self._address_of(email.sender, loaded),
            list(dict.fromkeys(wire.values())),
            composed.data,
            composed.eight_bit,
            composed.smtputf8,
            ref=_Ref(loaded, wire, eight_bit),
        )

    def permit(self, envelopes: Sequence[Envelope]) -> list[bool]:
        """No for those that were cancelled, held or taken by another worker since they were loaded.

        Raises what the database raises: then nothing leaves.
        """
        emails = [envelope.ref.loaded.email for envelope in envelopes]
        permitted = self.commit(emails)
        return [email.id in permitted for email in emails]

    def ended(self, envelope: Envelope, outcome: Outcome) -> None:
        loaded: Loaded = envelope.ref.loaded
        if isinstance(outcome.error, EightBitNotOffered) and envelope.ref.eight_bit:
            self._waiting.append((loaded, False))
        elif isinstance(outcome.error, NotPermitted):
            self._changed([loaded.email])
        else:
            self.accepted += outcome.fate is Fate.ACCEPTED
            said = _in_words_of_the_record(outcome, envelope.ref.wire)
            result = judge(loaded.email, said, timezone.now(), self._mailer, self._senders)
            self.mailer_out = self.mailer_out or result.mailer_out
            self._results.append(result)

    def commit(self, intents: Sequence[Email] = ()) -> set[UUID]:
        """Write down what has ended, and these intents. Returns the ids of those that may leave.

        When it raises, nothing is forgotten: it may be called again.
        """
        if not self._results and not intents:
            return set()
        results = list(self._results)
        written = write(results, intents, self._using)
        del self._results[: len(results)]
        if len(written.noted) < len(results):
            self._changed([result.email for result in results if result.email.id not in written.noted])
            results = [result for result in results if result.email.id in written.noted]
        self._settled(results)
        return written.permitted


def _in_words_of_the_record(outcome: Outcome, wire: dict[str, str]) -> Outcome:
    """The server was told addresses without names, IDNs in their ASCII form, each of them once."""
    if not outcome.refused:
        return outcome
    refused = {given: outcome.refused[told] for given, told in wire.items() if told in outcome.refused}
    return replace(outcome, refused=refused)
