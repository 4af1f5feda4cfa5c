"""Limit the invitations mailed within 24 hours: per sender, per site and per recipient.

Invitations are counted in their own table, in the transaction that adds to them. So a rollback counts for nothing, and
no second count can disagree. How exact that is:

- Of one sender, exact: the sender's row stays locked until the transaction ends (``FOR NO KEY UPDATE``). The next
  transaction counts what this one added. On SQLite a transaction that writes is alone in any case.
- Of the site and of one recipient, nearly: invitations that others send at the same moment, not yet committed, are
  not counted. Each sender can get past the limit by one transaction, once.
- What was sent again counts with all its mails that followed each other within a day: rather too many than too few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db import router
from django.db.models import QuerySet, Sum
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from mailrail.addresses import normal_form
from mailrail.conf import settings
from mailrail.moments import from_now

from .errors import RecipientRefused, SenderRefused
from .models import PAGE_SIZE, InvitationQuerySet

PERIOD = timedelta(hours=24)
MAX_ADDRESSES_SHOWN = 5


def check_limits(invitations: InvitationQuerySet, sender: Any, addresses: Sequence[str]) -> None:
    """Raise ``SenderRefused`` or ``RecipientRefused`` if ``addresses`` exceed a limit; call it in the transaction.

    ``invitations``: all invitations, on the database that is written to.
    """
    recent = invitations.order_by().filter(queued_at__gt=from_now(-PERIOD.total_seconds()))
    if settings.invitations_per_sender is not None:
        _lock(sender, invitations.db)
        _check(
            recent.filter(sender_id=sender.pk),
            len(addresses),
            settings.invitations_per_sender,
            _("You can send %(most)d invitations within 24 hours; %(left)d are left."),
        )
    if settings.invitations_per_day is not None:
        _check(
            recent,
            len(addresses),
            settings.invitations_per_day,
            _("This site sends %(most)d invitations within 24 hours; %(left)d are left. Try again tomorrow."),
        )
    if over := over_limit(invitations, addresses):
        raise _refused(
            over,
            ngettext(
                "%(shown)s has received many invitations recently. Try again tomorrow.",
                "%(shown)s have received many invitations recently. Try again tomorrow.",
                len(over),
            ),
        )
    if listed_addresses := suppressed(addresses):
        raise _refused(
            listed_addresses,
            ngettext(
                "%(shown)s gets no email from this site: mail came back, or its owner asked for none.",
                "%(shown)s get no email from this site: mail came back, or their owners asked for none.",
                len(listed_addresses),
            ),
        )


def over_limit(invitations: InvitationQuerySet, addresses: Sequence[str]) -> list[str]:
    """Return the addresses that have reached the limit per recipient."""
    most = settings.invitations_per_recipient
    if most is None:
        return []
    recent = invitations.order_by().filter(queued_at__gt=from_now(-PERIOD.total_seconds()))
    over: list[str] = []
    for page in pages(addresses):
        rows = recent.to_mailboxes(page).values_list("mailbox").annotate(Sum("mails"))
        counts: dict[str, int] = {}
        for mailbox, count in rows:
            counts[normal_form(mailbox)] = counts.get(normal_form(mailbox), 0) + count
        over += [address for address in page if counts.get(normal_form(address), 0) >= most]
    return over


def suppressed(addresses: Sequence[str]) -> list[str]:
    """Return the suppressed addresses, if ``mailrail.mail`` is installed."""
    if not apps.is_installed("mailrail.mail"):
        return []
    from mailrail.mail.models import Suppression
    from mailrail.mail.records.suppressions import listed

    listed_mailboxes = listed(map(normal_form, addresses), router.db_for_read(Suppression))
    return [address for address in addresses if normal_form(address) in listed_mailboxes]


def pages(addresses: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut a list into parts small enough for one query."""
    for start in range(0, len(addresses), PAGE_SIZE):
        yield addresses[start : start + PAGE_SIZE]


def _lock(sender: Any, database: str) -> None:
    """Lock the sender's row, so that one transaction at a time counts and adds.

    With NO KEY, other rows may still refer to it.
    """
    users = get_user_model()._base_manager.using(database)
    users.select_for_update(no_key=True).filter(pk=sender.pk).values_list("pk").first()


def _check(recent: QuerySet[Any], more: int, most: int, text: str) -> None:
    used = recent.aggregate(mails=Sum("mails"))["mails"] or 0
    if used + more > most:
        raise SenderRefused(text % {"most": most, "left": max(0, most - used)})


def _refused(addresses: list[str], text: str) -> RecipientRefused:
    shown = ", ".join(addresses[:MAX_ADDRESSES_SHOWN]) + (
        " …" if len(addresses) > MAX_ADDRESSES_SHOWN else ""
    )
    return RecipientRefused(text % {"shown": shown}, addresses)
