"""Invite from Python, as the forms do.

from mailrail.invitations import invite, invite_many, resend, revoke

invite("guest@example.com", request.user, role="editor", payload={"project": 7})
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ValidationError
from django.db import router
from django.utils import timezone
from django.utils.translation import get_supported_language_variant
from django.utils.translation import gettext as _

from mailrail import Channel
from mailrail import options as checked
from mailrail.addresses import normal_form
from mailrail.conf import settings
from mailrail.moments import seconds_between
from mailrail.write_transactions import write_transaction

from . import addresses
from .errors import InvitationClosed
from .limits import PERIOD, check_limits
from .models import InvitationStatus, current_language, every_invitation, get_invitation_model
from .rights import check_rights

INSERT_BATCH_SIZE = 1000
"""Rows of one INSERT statement."""


def invite(
    email: str,
    sender: Any,
    *,
    role: str = "",
    payload: Any = None,
    message: str = "",
    expires: float | timedelta | datetime | None = None,
    language: str | None = None,
    **fields: Any,
) -> Any:
    """Save an invitation and send its message, both or neither, and return it.

    ``role`` (100 characters) and ``payload`` (JSON) are for your project, which reads them at acceptance.
    ``message`` (2,000 characters) is shown in the email. ``expires``: seconds or a ``timedelta`` from now, or a
    ``datetime`` (naive ones only with ``USE_TZ = False``); default ``MAILRAIL["INVITATION_LIFETIME"]``. ``language`` of
    the email: one of ``LANGUAGES``, or empty for that of the site; default: the active one, in a request that of the
    sender. ``fields``: those that your own model adds.

    Raises ``ValidationError`` for an address that can get no mail or a field that is too long, ``SenderRefused``,
    ``RecipientRefused``.
    """
    model = get_invitation_model()
    invitation = model(
        email=addresses.understand(email),
        sender=sender,
        **_options(role, payload, message, expires, language),
        **fields,
    )
    _clean(invitation)
    check_rights(sender, invitation)
    database = router.db_for_write(model, instance=invitation)
    with write_transaction(database):
        check_limits(every_invitation(database), sender, [invitation.email])
        invitation.save(using=database)
        Channel("send-invite").send(invitation.content, unique=True, using=database)
    return invitation


def invite_many(
    emails: Iterable[str],
    sender: Any,
    *,
    role: str = "",
    payload: Any = None,
    message: str = "",
    expires: float | timedelta | datetime | None = None,
    language: str | None = None,
    **fields: Any,
) -> list[Any]:
    """Save an invitation for each address and send their messages, all or none, and return them in order.

    Options and errors are as for ``invite``; a repeated address is invited once. A ``ValidationError`` lists
    every address that can get no mail.
    """
    model = get_invitation_model()
    options = {**_options(role, payload, message, expires, language), **fields}
    recipients = _clean_all(emails)
    if not recipients:
        return []
    first = model(email=recipients[0], sender=sender, **options)
    _clean(first)
    check_rights(sender, first)
    database = router.db_for_write(model)
    with write_transaction(database):
        check_limits(every_invitation(database), sender, recipients)
        invitations: list[Any] = model._default_manager.using(database).bulk_create(
            (model(email=email, sender=sender, **options) for email in recipients),
            batch_size=INSERT_BATCH_SIZE,
        )
        contents = [invitation.content for invitation in invitations]
        Channel("send-invite").send_many(contents, unique=True, using=database)
    return invitations


def resend(invitation: Any, *, expires: float | timedelta | datetime | None = None) -> None:
    """Send the invitation again with a new link; earlier links stop working. It expires as if it were new.

    Raises ``InvitationClosed`` if it was accepted or revoked, ``SenderRefused``, ``RecipientRefused``, and
    ``DoesNotExist`` if it was deleted meanwhile.
    """
    model, database = type(invitation), router.db_for_write(type(invitation), instance=invitation)
    now = timezone.now()
    with write_transaction(database):
        rows = model._base_manager.using(database)
        row = rows.select_for_update(of=("self",), no_key=True).select_related("sender").get(pk=invitation.pk)
        if row.status in (InvitationStatus.ACCEPTED, InvitationStatus.REVOKED):
            raise InvitationClosed(_closed(row))
        check_rights(row.sender, row)
        check_limits(every_invitation(database), row.sender, [row.email])
        within = row.queued_at is not None and seconds_between(row.queued_at, now) < PERIOD.total_seconds()
        row.generation += 1
        row.sent, row.failed_at, row.queued_at, row.mails = None, None, now, row.mails + 1 if within else 1
        row.expires_at = _expiry(expires)
        row.save(update_fields=["generation", "sent", "failed_at", "queued_at", "mails", "expires_at"])
        Channel("send-invite").send(row.content, unique=True, using=database)
    invitation.refresh_from_db(using=database)


def revoke(invitation: Any) -> bool:
    """Make the link of the invitation useless, for good; return whether this call did it.

    Raises ``InvitationClosed`` if it was accepted already.
    """
    if invitation.revoke():
        return True
    if invitation.status == InvitationStatus.ACCEPTED:
        raise InvitationClosed(_closed(invitation))
    return False


def _closed(invitation: Any) -> str:
    if invitation.status == InvitationStatus.ACCEPTED:
        return _("The invitation of %(email)s was accepted already.") % {"email": invitation.email}
    return _("The invitation of %(email)s was revoked. Invite again instead.") % {"email": invitation.email}


def _options(
    role: str,
    payload: Any,
    message: str,
    expires: float | timedelta | datetime | None,
    language: str | None,
) -> dict[str, Any]:
    return {
        "role": role,
        "payload": {} if payload is None else payload,
        "message": message,
        "expires_at": _expiry(expires),
        "language": current_language() if language is None else _known(language),
    }


def _known(language: str) -> str:
    languages = dict(django_settings.LANGUAGES)
    if language and language not in languages:
        raise ValueError(
            f"language must be one of the setting LANGUAGES ({', '.join(languages)}), or empty for that of the site, "
            f"not {language!r}.{_meant_by(language)}"
        )
    return language


def _meant_by(language: str) -> str:
    """Return a question that suggests the site's language for another code or spelling of it."""
    code = str(language).replace("_", "-").lower()
    try:
        return f" Is it {get_supported_language_variant(code)!r}?"
    except LookupError:
        return ""


def _expiry(expires: float | timedelta | datetime | None) -> datetime | None:
    if expires is None:
        expires = settings.invitation_lifetime
    if expires is None:
        return None
    moment = checked.moment_or_seconds("expires", expires)
    if seconds_between(timezone.now(), moment) <= 0:
        raise ValueError(f"expires must be later than now, not {expires!r}.")
    return moment


def _clean(invitation: Any) -> None:
    """Validate all fields but relations, which would take a query; the database checks those."""
    relations = [field.name for field in invitation._meta.concrete_fields if field.is_relation]
    invitation.clean_fields(exclude=relations)


def _clean_all(emails: Iterable[str]) -> list[str]:
    by_mailbox: dict[str, str] = {}
    errors: list[ValidationError] = []
    for email in emails:
        try:
            address = addresses.clean(email)
        except ValidationError as error:
            errors.append(ValidationError(f"{email!r}: {error.messages[0]}", code=error.code))
        else:
            by_mailbox.setdefault(normal_form(address), address)
    if errors:
        raise ValidationError(errors)
    return list(by_mailbox.values())
