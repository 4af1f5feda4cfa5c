"""Tell how far the mailing of a list is: by its invitations, and by what became of their emails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.db import models, router
from django.db.models import Case, Count, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Cast, Coalesce, Concat
from django.utils import timezone
from django.utils.translation import gettext

from mailrail.monitoring.progress import FailedItem, WorkProgress
from mailrail.terminal import single_line

MAX_FAILURES = 100
"""Failures that a page names; it says how many more there are."""
MAX_REASON_LENGTH = 200
"""Characters of a server's reply."""
WAITING, SENT, FAILED, OVER = "waiting", "sent", "failed", "over"
_OF_EMAIL = {
    **dict.fromkeys(("queued", "sending", "held"), WAITING),
    **dict.fromkeys(("failed", "cancelled", "expired", "suppressed"), FAILED),
}
"""What the status of its email means for an invitation; any other, or none: it is sent."""
_TEXT: models.Field[Any, Any] = models.CharField(max_length=255)


def progress_of(invitations: QuerySet[Any]) -> WorkProgress:
    """Return how many of these invitations are sent, have failed and wait, with the first failures by name.

    Sent means that the mail server has accepted the email. Where ``mailrail.mail`` does not keep the email in the same
    database, it means that the email was handed over. Invitations revoked or expired before they were sent are not
    counted.
    """
    counts = dict.fromkeys((WAITING, SENT, FAILED, OVER), 0)
    rows = _with_state(invitations)
    for state, email, count in rows.order_by().values_list("state", "email_status").annotate(n=Count("pk")):
        counts[_OF_EMAIL.get(email, state)] += count
    failed = counts[FAILED]
    return WorkProgress(
        done=counts[SENT],
        total=counts[SENT] + failed + counts[WAITING],
        failed=failed,
        failures=_failures(rows) if failed else (),
    )


def _with_state(rows: QuerySet[Any]) -> QuerySet[Any]:
    """Return the invitations, with the ``state`` of each, and the ``email_status`` if that decides."""
    is_good = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
    state = Case(
        When(sent__isnull=False, then=Value(SENT)),
        When(~Q(accepted_at=None) | ~is_good, then=Value(OVER)),
        When(failed_at__isnull=False, then=Value(FAILED)),
        default=Value(WAITING),
        output_field=_TEXT,
    )
    status = Case(
        When(Q(sent__isnull=False, accepted_at=None), then=Coalesce(_email_status(rows), Value(""))),
        default=Value(""),
        output_field=_TEXT,
    )
    stated: QuerySet[Any] = rows.annotate(state=state, email_status=status)
    return stated


def _email_status(rows: QuerySet[Any]) -> Any:
    """Return the status of the newest email of an invitation: a new link has an email of its own."""
    if not _has_emails(rows):
        return Value("")
    about = Concat(Value(_label(rows)), Cast(OuterRef("pk"), _TEXT), output_field=_TEXT)
    emails = _emails(rows).filter(related_object=about)
    return Subquery(emails.exclude(related_object="").order_by("-pk").values("status")[:1])


def _failures(rows: QuerySet[Any]) -> list[FailedItem]:
    is_failed = Q(state=FAILED) | Q(
        email_status__in=[name for name in _OF_EMAIL if _OF_EMAIL[name] == FAILED]
    )
    failed = list(
        rows.filter(is_failed).order_by("pk").values_list("pk", "email", "email_status")[:MAX_FAILURES]
    )
    replies = _replies(rows, [pk for pk, _, status in failed if status])
    at_the_site = gettext("The site could not send it. Its administrators see why.")
    return [FailedItem(email, replies.get(pk, "") if status else at_the_site) for pk, email, status in failed]


def _replies(rows: QuerySet[Any], keys: list[Any]) -> Mapping[Any, str]:
    """Return, by invitation, how its newest email stands and what the server said of its recipient."""
    if not keys:
        return {}
    keys_by_label = {f"{_label(rows)}{pk}": pk for pk in keys}
    emails = _emails(rows).filter(related_object__in=keys_by_label).order_by("pk")
    newest = {keys_by_label[email.related_object]: email for email in emails.defer("content", "events")}
    return {pk: _reason(email) for pk, email in newest.items()}


def _reason(email: Any) -> str:
    recipients = email.recipients if isinstance(email.recipients, list) else []
    replies = [recipient for recipient in recipients if isinstance(recipient, dict)]
    texts = [f"{reply.get('code') or ''} {reply.get('text') or ''}" for reply in replies]
    said = next((text.strip() for text in texts if text.strip()), "")
    status = str(email.get_status_display())
    return single_line(f"{status}, {said}"[:MAX_REASON_LENGTH]) if said else status


def _label(rows: QuerySet[Any]) -> str:
    return f"{rows.model._meta.label_lower}:"


def _has_emails(rows: QuerySet[Any]) -> bool:
    return apps.is_installed("mailrail.mail") and router.db_for_write(_email_model()) == rows.db


def _emails(rows: QuerySet[Any]) -> Any:
    return _email_model().objects.using(rows.db)


def _email_model() -> Any:
    return apps.get_model("mailrail_mail", "Email")
