"""Giving the mail of one mailer to another, such as after an alias was removed from the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import router
from django.db.models import Q
from django.utils import timezone

from mailrail.write_transactions import write_transaction

from ..delivery.record import add_event, is_ambiguous
from ..mailers import circuit
from ..mailers.config import alias_of, check_delivering, delivering
from ..models import Email, MailerThrottle, RefusedSender, Status
from ..queueing.accept import announce
from .overview import waiting

PER_TRANSACTION = 200
"""Emails of one transaction."""
MOVABLE = (Status.QUEUED.value, Status.HELD.value)
MOVED = "moved to another mailer"


@dataclass(frozen=True)
class Moved:
    """How many emails were moved; how many are left, as they may have been sent, or are being sent just now."""

    moved: int = 0
    left: int = 0


def unknown_mailers(using: str) -> dict[str, int]:
    """Return the aliases, and how many emails wait for each, of mailers that no setting defines.

    Among the oldest emails of each status, as in ``overview.waiting``.
    """
    known, counts = set(delivering()), dict[str, int]()
    for group in waiting(using):
        if group.mailer not in known:
            counts[group.mailer] = counts.get(group.mailer, 0) + group.count
    return counts


def move(old: str, new: str, using: str | None = None, *, ambiguous: bool = False) -> Moved:
    """Let what waits for the mailer ``old`` leave by ``new``, at once where it is due; what is held stays held.

    Email that may have been sent stays where it is: another server does not know its Message-ID, so that recipients
    may get it twice. ``ambiguous``: move it all the same. Raises ``InvalidSettings`` if ``new`` cannot deliver, and
    ``ValueError`` if both are the same, or no email waits for ``old``.
    """
    old, new, using = alias_of(old), alias_of(check_delivering(new)), using or router.db_for_write(Email)
    if old == new:
        raise ValueError(f"The mailers are the same, {old or 'default'!r}: nothing is to be moved.")
    total = Moved()
    for ids in _pages(old, using):
        done = _move_page(ids, new, using, ambiguous)
        total = Moved(total.moved + done.moved, total.left + done.left)
    being_sent = Email.objects.using(using).filter(status=Status.SENDING, mailer=old).count()
    total = replace(total, left=total.left + being_sent)
    if total == Moved():
        raise ValueError(_nothing_waits(old, using))
    if not total.left and old not in delivering():
        _forget(old, using)
    return total


def _pages(old: str, using: str) -> Iterator[list[UUID]]:
    """Yield the ids of emails that belong to the mailer, or went by it last."""
    for status in MOVABLE:
        emails = Email.objects.using(using).filter(Q(mailer=old) | Q(via=old or "default"), status=status)
        last = UUID(int=0)
        while page := list(
            emails.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:PER_TRANSACTION]
        ):
            last = page[-1]
            yield page


def _move_page(ids: list[UUID], new: str, using: str, ambiguous: bool) -> Moved:
    moved = left = 0
    with write_transaction(using):
        # By their ids alone: the planner may find the status or the namespace by an index, which has all that waits.
        rows = Email._base_manager.using(using).filter(pk__in=ids).order_by("pk")
        for email in rows.defer("content").select_for_update():
            if email.status not in MOVABLE:
                continue
            if is_ambiguous(email) and not ambiguous:
                left += 1
            elif _give(email, new, using):
                moved += 1
            else:
                left += 1  # a worker was quicker: SQLite has no locks of rows
    return Moved(moved, left)


def _give(email: Email, new: str, using: str) -> bool:
    """Give an email to the other mailer. A queued one gets a new message, as its present one waits for the old
    mailer."""
    is_queued = email.status == Status.QUEUED
    version, dispatch = email.version, email.dispatch + is_queued
    add_event(email, now := timezone.now(), MOVED, mailer=new or "default")
    row = Email.objects.using(using).filter(pk=email.pk, version=version)
    changes = {
        "version": version + 1,
        "dispatch": dispatch,
        "events": email.events,
        "changed_at": now,
        "next_try_at": None,
    }
    if not row.update(mailer=new, via="", **changes):
        return False
    if is_queued:
        announce(new, [email.pk], using, email.priority, email.send_at, dispatch)
    return True


def _nothing_waits(old: str, using: str) -> str:
    others = sorted({group.mailer or "default" for group in waiting(using)})
    return f"No email waits for mailer {old or 'default'!r}. Some waits for: {', '.join(others) or 'none'}."


def _forget(mailer: str, using: str) -> None:
    """Forget outage and throttling of a mailer that is gone and has no mail left."""
    for model in (MailerThrottle, RefusedSender):
        model.objects.using(using).filter(mailer=mailer).delete()
    circuit.resume(mailer, using)  # its void messages are still to be claimed
