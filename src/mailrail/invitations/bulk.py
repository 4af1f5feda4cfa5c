"""Sort lists of addresses out, show them, and invite once the sender confirms.

Between preview and confirmation the database keeps the list (``InvitationBatch``). So the user confirms what was shown,
and no page carries ten thousand addresses to and fro. A list has at most ``MAX_ADDRESSES`` addresses and shows at most
``MAX_PROBLEMS_SHOWN`` problems. A sender may have ``MAX_DRAFTS`` unconfirmed lists: the oldest ones are deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import router
from django.utils import timezone
from django.utils.translation import gettext as _

from mailrail.addresses import normal_form
from mailrail.write_transactions import write_transaction

from .addresses import Entry, LineProblem, Reading, read_list
from .inviting import invite_many
from .limits import over_limit, pages, suppressed
from .models import InvitationBatch, InvitationStatus, get_invitation_model, written_invitations

MAX_ADDRESSES = 10_000
MAX_PROBLEMS_SHOWN = 200
MAX_DRAFTS = 5
MAX_FILE_BYTES = 2 * 1024 * 1024


def sort_out(entries: Sequence[Entry], sender: Any) -> tuple[list[str], list[LineProblem]]:
    """Return the addresses that can be invited, in order, and a problem for every other line."""
    good, problems = _sort_out(entries, sender)
    return [reading.text for reading in good], problems


def _sort_out(entries: Sequence[Entry], sender: Any) -> tuple[list[Reading], list[LineProblem]]:
    good, problems = read_list(entries)
    reasons = _reasons([entry.text for entry in good], sender)
    refused = [reading for reading in good if reading.text in reasons]
    problems += [LineProblem(reading.line, reading.text, *reasons[reading.text]) for reading in refused]
    return [reading for reading in good if reading.text not in reasons], sorted(problems)


def _reasons(addresses: Sequence[str], sender: Any) -> dict[str, tuple[str, str]]:
    """Return, by address, why some valid addresses are not invited: one reason each, the most specific one."""
    reasons = dict.fromkeys(
        over_limit(written_invitations(), addresses),
        (_("This address has received many invitations recently. Try again tomorrow."), "limit"),
    )
    reasons |= dict.fromkeys(
        suppressed(addresses), (_("This address gets no email from this site."), "suppressed")
    )
    for address, status in _invited(addresses, sender).items():
        text = _("You have invited this address already: %(status)s.") % {"status": status.label}
        reasons[address] = (text, "invited")
    return reasons


def _invited(addresses: Sequence[str], sender: Any) -> dict[str, InvitationStatus]:
    """Return the status, by address, of the sender's own invitations that are open or accepted."""
    statuses: dict[str, InvitationStatus] = {}
    for page in pages(addresses):
        own = written_invitations().filter(sender_id=sender.pk, revoked_at=None).to_mailboxes(page)
        status_of = {normal_form(invitation.email): invitation.status for invitation in own.order_by("pk")}
        for address in page:
            status = status_of.get(normal_form(address), InvitationStatus.EXPIRED)
            if status is not InvitationStatus.EXPIRED:
                statuses[address] = status
    return statuses


def draft(entries: Sequence[Entry], sender: Any, message: str = "") -> InvitationBatch:
    """Sort a list out and store it until its sender confirms it."""
    good, problems = _sort_out(entries, sender)
    understood = [reading for reading in good if reading.written]
    batches = InvitationBatch.objects.using(router.db_for_write(InvitationBatch))
    batch = batches.create(
        sender=sender,
        message=message,
        addresses=[reading.text for reading in good],
        total=len(good),
        understood=[reading._asdict() for reading in understood[:MAX_PROBLEMS_SHOWN]],
        understood_count=len(understood),
        problems=[problem._asdict() for problem in problems[:MAX_PROBLEMS_SHOWN]],
        problem_count=len(problems),
    )
    drafts = batches.filter(sender=sender, confirmed_at=None).order_by("-created", "-pk")
    batches.filter(pk__in=list(drafts.values_list("pk", flat=True)[MAX_DRAFTS:])).delete()
    return batch


def confirm(batch: InvitationBatch, **fields: Any) -> bool:
    """Invite everybody on the list, all or none; return whether this call did it, if several run at once.

    ``fields``: those of your own model, the same for all. Addresses invited or suppressed since the preview are left
    out. Raises as ``invite_many`` does.
    """
    database = router.db_for_write(get_invitation_model())
    with write_transaction(database):
        rows = InvitationBatch.objects.using(database).select_for_update(of=("self",), no_key=True)
        row = rows.select_related("sender").get(pk=batch.pk)
        if row.confirmed_at is not None:
            return False
        reasons = _reasons(row.addresses, row.sender)
        addresses = [address for address in row.addresses if address not in reasons]
        invite_many(addresses, row.sender, message=row.message, batch=row, **fields)
        row.confirmed_at, row.addresses, row.total = timezone.now(), [], len(addresses)
        row.save(update_fields=["confirmed_at", "addresses", "total"])
    return True
