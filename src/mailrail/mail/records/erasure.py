"""Erasing an address from the records: for a person who asks to be forgotten.

The address is searched as text, in any case and with its domain in either spelling. The search covers everything in a
record except its attachments. Only the whole address matches: joann@example.com is somebody else than ann@example.com.
All records are read for that, a page of ids at a time; a run that was stopped may simply be started again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.apps import apps
from django.db import connections, models, router
from django.db.models import Q, QuerySet
from django.db.models.functions import Cast
from django.utils import timezone

from mailrail.addresses import bare, spellings
from mailrail.write_transactions import write_transaction

from ..delivery.record import FINAL_FOR_RECIPIENT, add_event, status_by_recipients
from ..models import FINAL, Email, RefusedSender, Status
from ..queueing.files import drop_unneeded
from . import suppressions
from .retention import EMPTIED, delete, empty

if TYPE_CHECKING:
    from django.contrib.admin.models import LogEntry

PAGE_SIZE = 5000
"""Records that one statement looks through."""
PER_TRANSACTION = 50
"""Records that are in memory together."""
ERASED = "[erased]"
_IN_JSON = ("recipients", "content", "events", "tags")
_IN_TEXT = ("sender", "subject", "message_id", "key", "related_object")
_LABELS = ("tags", "message_id", "key", "related_object")
_LISTS = ("to", "cc", "bcc", "reply_to")
_CHANGED = (
    "status",
    "sender",
    "recipients",
    "subject",
    "content",
    "message_id",
    "events",
    "tags",
    "key",
    "related_object",
    "version",
    "changed_at",
)


@dataclass
class Erased:
    """What was done.

    ``deleted``: emails to nobody else. ``emptied``: ended ones to others, too: content, subject and address are gone.
    ``removed``: emails that others still wait for; this address will not get them. ``left``: ids of emails that still
    hold the address, because they are being sent or wait to be sent to others. Erase the address again when they are
    final.
    """

    deleted: int = 0
    emptied: int = 0
    removed: int = 0
    left: list[UUID] = field(default_factory=list)


def find(address: str, using: str) -> Iterator[list[UUID]]:
    """Yield the emails that hold the address, page by page."""
    every = Email.objects.using(using).order_by("pk")
    last = UUID(int=0)
    while page := list(every.filter(pk__gt=last).values_list("pk", flat=True)[:PAGE_SIZE]):
        emails = every.filter(pk__gt=last, pk__lte=page[-1])
        last = page[-1]
        ids = list(_holding(emails, address, using).values_list("pk", flat=True))
        parts = (
            every.filter(pk__in=ids[n : n + PER_TRANSACTION]) for n in range(0, len(ids), PER_TRANSACTION)
        )
        yield [email.pk for part in parts for email in part if _holds(email, address)]


def erase(address: str, using: str, *, forget_suppression: bool = False) -> Erased:
    """Erase the address. On the suppression list it stays as a hash, or not at all with ``forget_suppression``."""
    address = bare(address)
    erased = Erased()
    log = _admin_log()
    for page in find(address, using):
        if log is not None:  # first: a run that was stopped finds the emails again
            entries = log.filter(content_type__model="email", object_id__in=[str(id) for id in page])
            entries.update(object_repr=ERASED)
        for id in page:
            with write_transaction(using):
                digests = _erase_one(id, address, using, erased)
            drop_unneeded(digests, using)
    if log is not None:
        _erase_in_admin_log(log, address)
    RefusedSender.objects.using(using).filter(sender=address).delete()
    if forget_suppression:
        suppressions.forget(address, using)
    else:
        with write_transaction(using):
            suppressions.keep_hashed(address, using)
    return erased


def _admin_log() -> QuerySet[LogEntry] | None:
    """Return the admin's log of this app, with old names of its objects, or ``None`` without the admin."""
    if not apps.is_installed("django.contrib.admin"):
        return None
    from django.contrib.admin.models import LogEntry

    log = LogEntry.objects.using(router.db_for_write(LogEntry))
    return log.filter(content_type__app_label=Email._meta.app_label)


def _erase_in_admin_log(log: QuerySet[LogEntry], address: str) -> None:
    names, text, wanted = _written(address), _in_text(address), Q()
    for name in names:
        wanted |= (
            Q(object_repr__icontains=name) | Q(change_message__icontains=name) | Q(object_id__iexact=name)
        )
    for entry in log.filter(wanted):
        if entry.object_id in names:
            entry.object_id = suppressions.hash_address(address)
        entry.object_repr = _without(entry.object_repr, text)
        entry.change_message = _without(entry.change_message, text)
        entry.save(update_fields=("object_id", "object_repr", "change_message"))


def _holds(email: Email, address: str) -> bool:
    return _is_named(email, address) or _mentions(email, address)


def _is_named(email: Email, address: str) -> bool:
    return any(_address(recipient) == address for recipient in _recipients(email))


def _recipients(email: Email) -> list[Any]:
    """Return the recipients, or an empty list where other hands have written something else."""
    return email.recipients if isinstance(email.recipients, list) else [email.recipients]


def _holding(emails: QuerySet[Email], address: str, using: str) -> QuerySet[Email]:
    """Select the emails that hold the text, and so perhaps the address."""
    local = address.rpartition("@")[0] + "@"
    # SQLite folds the case of ASCII alone, so an international domain is left to Python.
    text = local if "xn--" in address else address
    is_postgresql = connections[using].vendor == "postgresql"
    asked = Q()
    for name in _IN_JSON:
        emails = emails.annotate(**{f"{name}_text": Cast(name, models.TextField())})
        asked |= Q(**{f"{name}_text__icontains": _in_json(text, is_postgresql)})
    for name in _IN_TEXT:
        asked |= Q(**{f"{name}__icontains": text})
    # A domain in ASCII may be written in other letters, such as those of full width.
    others = (
        Q(recipients_text__regex=r"[^\x01-\x7f]") if is_postgresql else Q(recipients_text__contains="\\u")
    )
    return emails.filter(asked | (others & Q(recipients_text__icontains=_in_json(local, is_postgresql))))


def _in_json(text: str, is_postgresql: bool) -> str:
    """Return how a text stands in JSON: PostgreSQL writes strings unescaped, on SQLite they are as Python has written
    them."""
    return json.dumps(text, ensure_ascii=not is_postgresql)[1:-1]


def _erase_one(id: UUID, address: str, using: str, erased: Erased) -> set[str]:
    """Erase the address from one email. Return the files that the email had."""
    email = Email.objects.using(using).filter(pk=id).select_for_update().first()
    if email is None:
        return set()
    if email.status == Status.SENDING:
        erased.left.append(id)
        return set()
    if not _holds(email, address):  # any more
        return set()
    if not isinstance(email.content, dict):  # other hands have written it
        email.content = EMPTIED
    others = [recipient for recipient in _recipients(email) if _address(recipient) != address]
    is_named, has_ended = _is_named(email, address), email.status in FINAL
    if is_named and not others:
        erased.deleted += 1
        return delete([id], using)
    if not has_ended and (not is_named or email.content.get("kind") == "finished"):
        erased.left.append(id)  # finished bytes cannot be changed, and would not be found any more
        return set()
    email.recipients = others
    if not has_ended:
        _take_out(email, address)
        email.changed_at = timezone.now()  # else the time of its end stays: retention counts from there
        erased.removed += 1
    digests: set[str] = set()
    if email.status in FINAL:
        _scrub(email, address)
        digests = empty([id], using)
        email.content = EMPTIED
        erased.emptied += 1
    elif _mentions(email, address):
        erased.left.append(id)
    email.version += 1
    Email.objects.using(using).filter(pk=id).update(**{name: getattr(email, name) for name in _CHANGED})
    return digests


def _address(recipient: Any) -> str:
    """Return the address of a recipient, or an empty text where other hands have written something else."""
    return bare(str(recipient.get("address", ""))) if isinstance(recipient, dict) else ""


def _take_out(email: Email, address: str) -> None:
    """Take the address out of an email that has to be sent to others."""
    fields = email.content.get("fields", {})
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            fields[name] = [entry for entry in fields[name] if bare(str(entry)) != address]
    add_event(email, timezone.now(), "a recipient was erased")
    if all(
        isinstance(recipient, dict) and recipient.get("status") in FINAL_FOR_RECIPIENT
        for recipient in email.recipients
    ):
        email.status = status_by_recipients(email.recipients)


def _scrub(email: Email, address: str) -> None:
    label = _in_labels(email, address)
    email.subject = ""
    for name in ("sender", "recipients", "events"):
        setattr(email, name, _without(getattr(email, name), _in_text(address)))
    for name in ("message_id", "related_object", "tags"):
        setattr(email, name, _without(getattr(email, name), label))
    if _is_in(email.key, label):
        email.key = None


def _mentions(email: Email, address: str) -> bool:
    text, label = _in_text(address), _in_labels(email, address)
    return any(
        _is_in(getattr(email, name), label if name in _LABELS else text) for name in (*_IN_JSON, *_IN_TEXT)
    )


@lru_cache(maxsize=1)
def _in_text(address: str) -> re.Pattern[str]:
    """Return a pattern of the address that matches no part of another: of joann@, jo.ann@ or @example.com.au.

    A sign alone, as in ``_ann@…_``, is text around it, and so is the ``%3D`` of a link.
    """
    before = r"(?:(?<![^\W_])(?<![^\W_][._+%-])|(?<=%[0-9A-F]{2}))"
    names = "|".join(map(re.escape, _written(address)))
    return re.compile(rf"{before}(?P<it>{names})(?![^\W_])(?![.-][^\W_])", re.IGNORECASE)


def _written(address: str) -> list[str]:
    """Return how a text may write it: by A-labels, and by U-labels of either normalization of Unicode."""
    names = spellings(address)
    return list(dict.fromkeys([*names, *(unicodedata.normalize("NFD", name) for name in names)]))


def _in_labels(email: Email, address: str) -> re.Pattern[str]:
    """Return a pattern for labels that programs make, such as welcome-ann@… for ann@…, but not those of a recipient
    jo-ann@…"""
    recipients = [_address(recipient) for recipient in _recipients(email)]
    others = [
        name for other in recipients if address in other and other != address for name in _written(other)
    ]
    names = "|".join(map(re.escape, _written(address)))
    own = rf"(?<![^\W_])(?P<it>{names})(?![^\W_])"
    return re.compile("|".join([*map(re.escape, others), own]), re.IGNORECASE)


def _is_in(value: Any, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return any(match["it"] for match in pattern.finditer(value))
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return isinstance(value, list) and any(_is_in(item, pattern) for item in value)


def _without(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda match: ERASED if match["it"] else match[0], value)
    if isinstance(value, list):
        return [_without(item, pattern) for item in value]
    if isinstance(value, dict):
        return {_without(key, pattern): _without(item, pattern) for key, item in value.items()}
    return value
