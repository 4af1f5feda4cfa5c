"""Senders that a mailer's server refuses: their mail is held until a person allows them; mail of others goes on.

A refusal of MAIL, before any recipient was named, is about the sender (RFC 5321 3.3). Of the default sender, or of
three senders in a row, it says more of the mailer: the mailer is out, and its mail waits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from uuid import UUID

from django.conf import settings as django_settings
from django.db import router
from django.utils.dateparse import parse_datetime

from mailrail.addresses import bare
from mailrail.log import logger_of
from mailrail.moments import seconds_between
from mailrail.write_transactions import write_transaction

from ..compose.addresses import sender_of
from ..delivery.record import SENDER_REFUSED
from ..models import Email, RefusedSender, Status
from ..records import control
from .config import alias_of

logger = logger_of("mailrail.mail")

MAX_REFUSED_IN_A_ROW = 3
"""Different senders that are refused, with no other let through in between, until the mailer is out."""
CACHE_S = 1.0
"""Seconds for which a process believes what it has read: no batch costs a look of its own."""
PER_TRANSACTION = 500
"""Held emails that are taken off hold in one transaction."""

_known: dict[tuple[str, str], tuple[float, list[RefusedSender]]] = {}


def known(mailer: str, using: str) -> list[RefusedSender]:
    """Return the refused senders of a mailer, as they were a second ago at most."""
    read_at, rows = _known.get((mailer, using), (float("-inf"), []))
    if time.monotonic() - read_at >= CACHE_S:
        rows = list(RefusedSender.objects.using(using).filter(mailer=mailer))
        _known[mailer, using] = time.monotonic(), rows
    return rows


def note_none(mailer: str, using: str) -> None:
    """Take in that no mailer has refused senders, as somebody has just read."""
    _known[mailer, using] = time.monotonic(), []


class RefusedSenders:
    """Those of one mailer, as one batch knows them. ``save`` writes down what it has learnt."""

    def __init__(self, mailer: str, using: str) -> None:
        self._mailer = mailer
        self._using = using
        rows = known(mailer, using)
        self._rows = {row.sender: row for row in rows}
        self._in_a_row = {row.sender for row in rows if row.in_a_row}
        self._refused: set[str] = set()
        self._works: set[str] = set()
        self._row_ended = False

    @property
    def is_empty(self) -> bool:
        """Tell whether no sender is refused."""
        return not self._rows

    def reason_to_hold(self, email: Email) -> str:
        """Return why this email is not even tried; nothing, if it is.

        One that was taken off hold since is tried: that is how a server's change of mind is found out.
        """
        row = self._rows.get(bare(email.sender)) if self._rows else None
        return "" if row is None or _was_sent_on_request(email, row.since) else row.reason

    def refuse(self, sender: str, reply: str) -> str:
        """Note that the server refuses the sender. Returns why the mailer is out; nothing, if it is not."""
        sender = bare(sender)
        if sender == bare(sender_of(str(django_settings.DEFAULT_FROM_EMAIL), {})):
            return f"its server refuses the default sender {sender}: {reply}"
        if len(self._in_a_row | {sender}) >= MAX_REFUSED_IN_A_ROW:
            return f"its server refuses one sender after the other, {sender or '<>'} the last: {reply}"
        self._in_a_row.add(sender)
        self._refused.add(sender)
        self._rows[sender] = RefusedSender(mailer=self._mailer, sender=sender, reason=reply, in_a_row=True)
        return ""

    def let_through(self, sender: str) -> None:
        """Note that the server has accepted the sender."""
        if not self._rows:
            return
        self._row_ended = self._row_ended or bool(self._in_a_row)
        self._in_a_row.clear()
        if self._rows.pop(bare(sender), None) is not None:
            self._refused.discard(bare(sender))
            self._works.add(bare(sender))

    def save(self) -> None:
        """Write down what is new. The log tells once of each sender."""
        if not (self._refused or self._works or self._row_ended):
            return
        rows = RefusedSender.objects.using(self._using).filter(mailer=self._mailer)
        if self._row_ended:
            rows.filter(in_a_row=True).update(in_a_row=False)
        rows.filter(sender__in=self._works).delete()
        for sender in self._refused:
            self._write(self._rows[sender])
        _known.pop((self._mailer, self._using), None)
        self._refused, self._works, self._row_ended = set(), set(), False

    def _write(self, row: RefusedSender) -> None:
        values = {"reason": row.reason, "in_a_row": row.sender in self._in_a_row, "since": row.since}
        rows = RefusedSender.objects.using(self._using)
        with write_transaction(self._using):
            _, is_new = rows.update_or_create(mailer=row.mailer, sender=row.sender, defaults=values)
        if is_new:
            text = (
                "Mailer %r: its server refuses the sender %s, whose mail is held until somebody allows it: %s"
            )
            logger.error(text, row.mailer or "default", row.sender or "<>", row.reason)


def _was_sent_on_request(email: Email, since: datetime) -> bool:
    """Tell whether a person has sent it after the refusal that is known."""
    events = email.events if isinstance(email.events, list) else []
    unheld_at = (event["at"] for event in events if event.get("what") in control.SENT_ON_REQUEST)
    return any(
        (at := parse_datetime(moment)) is not None and seconds_between(since, at) > 0 for moment in unheld_at
    )


def allow_sender(mailer: str, sender: str, using: str | None = None) -> int:
    """Unhold the mail of a sender that the mailer's server has refused. Return how many emails were taken off hold.

    ``sender``: an address, with or without a name. ``using``: alias of the database; by default the one that the emails
    are in. If the server refuses the sender again, the mail is held again.
    """
    mailer, sender, using = alias_of(mailer), bare(sender), using or router.db_for_write(Email)
    RefusedSender.objects.using(using).filter(mailer=mailer, sender=sender).delete()
    _known.pop((mailer, using), None)
    return sum(len(control.unhold(ids).done) for ids in _held(mailer, sender, using))


def _held(mailer: str, sender: str, using: str) -> Iterator[list[UUID]]:
    """Yield the ids of the emails that wait for this decision, page by page."""
    emails = Email.objects.using(using).filter(status=Status.HELD, mailer=mailer).order_by("pk")
    last = UUID(int=0)
    while page := list(emails.filter(pk__gt=last).only("sender", "events")[:PER_TRANSACTION]):
        last = page[-1].pk
        yield [email.pk for email in page if bare(email.sender) == sender and _is_held_for_its_sender(email)]


def _is_held_for_its_sender(email: Email) -> bool:
    events = email.events if isinstance(email.events, list) else []
    return bool(events) and isinstance(events[-1], dict) and events[-1].get("what") == SENDER_REFUSED


def refused_senders(using: str | None = None, mailer: str | None = None) -> Iterable[RefusedSender]:
    """Return the refused senders, of one mailer or of all."""
    rows = RefusedSender.objects.using(using or router.db_for_write(RefusedSender)).order_by(
        "mailer", "sender"
    )
    return rows if mailer is None else rows.filter(mailer=mailer)


def forget() -> None:
    """Drop what this process believes; for tests, and for a forked child."""
    _known.clear()


os.register_at_fork(after_in_child=forget)
