"""Lists of addresses: read from a paste or a CSV file, sorted out, shown, confirmed.

Between the preview and the confirmation a list lies in the database (``InvitationBatch``): what is confirmed is what
was shown, and no page carries ten thousand addresses to and fro. Bounded: ``MOST`` addresses, ``SHOWN`` problems, and
``DRAFTS`` lists of a sender that wait for confirmation; the oldest go first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from mailrail.addresses import normal_form

from .addresses import Entry, Problem, read_list
from .inviting import invite_many
from .limits import over_limit, pages, suppressed
from .models import InvitationBatch, Status, get_invitation_model, written_invitations

MOST = 10_000
SHOWN = 200
DRAFTS = 5
LARGEST_FILE = 2 * 1024 * 1024
HEADINGS = {
    *("email", "e-mail", "mail", "email address", "address"),
    *("邮箱", "邮箱地址", "电子邮箱", "电子邮件", "电子邮件地址"),
}


def csv_entries(raw: bytes) -> Iterator[Entry]:
    """Read a CSV file: of the column that is headed ``email``, else of the first one. Lines are counted from 1.

    Raises ``ValidationError`` for what is no CSV in UTF-8.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValidationError(
            gettext_lazy("The file is not in UTF-8. Save it as “CSV UTF-8”, or paste the addresses."),
            "encoding",
        ) from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    column = None
    try:
        for row in rows:
            if column is None:
                heads = [cell.strip().lower() for cell in row]
                column = next((at for at, head in enumerate(heads) if head in HEADINGS), None)
                if column is not None:
                    continue
                column = 0
            if column < len(row) and row[column].strip():
                yield Entry(rows.line_num, row[column].strip())
    except csv.Error as error:
        raise ValidationError(
            gettext_lazy("Line %(line)d of the file is no CSV: %(error)s."),
            code="csv",
            params={"line": rows.line_num, "error": error},
        ) from None


def sort_out(entries: Sequence[Entry], sender: Any) -> tuple[list[str], list[Problem]]:
    """Return who can be invited, in order, and for every other line why not."""
    good, problems = read_list(entries)
    reasons = _reasons([entry.text for entry in good], sender)
    problems += [Problem(it.line, it.text, *reasons[it.text]) for it in good if it.text in reasons]
    return [it.text for it in good if it.text not in reasons], sorted(problems)


def _reasons(addresses: Sequence[str], sender: Any) -> dict[str, tuple[str, str]]:
    """Why some of these good addresses are not invited, by address. The first reason is the one that is told."""
    reasons = dict.fromkeys(
        over_limit(written_invitations(), addresses),
        (_("This address has got many invitations lately. Try again tomorrow."), "limit"),
    )
    reasons |= dict.fromkeys(
        suppressed(addresses), (_("This address gets no email from this site."), "suppressed")
    )
    for address, status in _invited(addresses, sender).items():
        text = _("You have invited this address already: %(status)s.") % {"status": status.label}
        reasons[address] = (text, "invited")
    return reasons


def _invited(addresses: Sequence[str], sender: Any) -> dict[str, Status]:
    """How the sender's own invitations of these addresses stand that are open or accepted."""
    found: dict[str, Status] = {}
    for page in pages(addresses):
        own = written_invitations().filter(sender_id=sender.pk, revoked_at=None).to_mailboxes(page)
        standing = {normal_form(it.email): it.status for it in own.order_by("pk")}
        for address in page:
            status = standing.get(normal_form(address), Status.EXPIRED)
            if status is not Status.EXPIRED:
                found[address] = status
    return found


def draft(entries: Sequence[Entry], sender: Any, message: str = "") -> InvitationBatch:
    """Sort a list out and keep it until its sender confirms it."""
    addresses, problems = sort_out(entries, sender)
    batches = InvitationBatch.objects.using(router.db_for_write(InvitationBatch))
    batch = batches.create(
        sender=sender,
        message=message,
        addresses=addresses,
        total=len(addresses),
        problems=[problem._asdict() for problem in problems[:SHOWN]],
        problem_count=len(problems),
    )
    drafts = batches.filter(sender=sender, confirmed_at=None).order_by("-created", "-pk")
    batches.filter(pk__in=list(drafts.values_list("pk", flat=True)[DRAFTS:])).delete()
    return batch


def confirm(batch: InvitationBatch, **fields: Any) -> bool:
    """Invite everybody on the list, all or none; return whether this call did it, of however many at once.

    ``fields``: of a model of your own, the same for all. Who has been invited or suppressed since the preview is left
    out. Raises as ``invite_many`` does.
    """
    database = router.db_for_write(get_invitation_model())
    with transaction.atomic(using=database):
        rows = InvitationBatch.objects.using(database).select_for_update(of=("self",), no_key=True)
        row = rows.select_related("sender").get(pk=batch.pk)
        if row.confirmed_at is not None:
            return False
        reasons = _reasons(row.addresses, row.sender)
        wanted = [address for address in row.addresses if address not in reasons]
        invite_many(wanted, row.sender, message=row.message, batch=row, **fields)
        row.confirmed_at, row.addresses, row.total = timezone.now(), [], len(wanted)
        row.save(update_fields=["confirmed_at", "addresses", "total"])
    return True
