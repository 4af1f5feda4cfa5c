"""Erasing an address from the records: for a person who asks to be forgotten.

What is looked for is the address as text, in whatever case, in everything that a record holds but its attachments. All
records are read for that, a page of ids at a time; a run that was stopped may simply be started again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import connections, models, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Cast
from django.utils import timezone

from . import suppressions
from .files import drop_unneeded
from .models import FINAL, Email, Status
from .outcomes import FINAL_FOR_RECIPIENT, bare, note
from .retention import EMPTIED, delete, empty

PAGE = 5000
"""Records that one statement looks through."""
ERASED = "[erased]"
_IN_JSON = ("recipients", "content", "events", "tags")
_IN_TEXT = ("sender", "subject", "message_id", "key", "about")
_LISTS = ("to", "cc", "bcc", "reply_to")
_CHANGED = ("status", "sender", "recipients", "subject", "content", "events", "tags", "key", "about", "turn")


@dataclass
class Erased:
    """What was done.

    ``deleted``: emails to nobody else. ``emptied``: ended ones to others, too: content, subject and address are gone.
    ``removed``: emails that others still wait for; this address will not get them. ``left``: ids of emails that still
    hold the address, as they are being sent, or wait to be sent to others: erase it again when they are.
    """

    deleted: int = 0
    emptied: int = 0
    removed: int = 0
    left: list[UUID] = field(default_factory=list)


def find(address: str, using: str) -> Iterator[list[UUID]]:
    """The emails that hold the address, page by page."""
    every = Email.objects.using(using).order_by("pk")
    last = UUID(int=0)
    while page := list(every.filter(pk__gt=last).values_list("pk", flat=True)[:PAGE]):
        its = every.filter(pk__gt=last, pk__lte=page[-1])
        last = page[-1]
        yield list(_holding(its, address, using).values_list("pk", flat=True))


def erase(address: str, using: str, *, forget_suppression: bool = False) -> Erased:
    """Erase the address. On the suppression list it stays in disguise, or not at all with ``forget_suppression``."""
    address = bare(address)
    erased = Erased()
    for page in find(address, using):
        for id in page:
            with transaction.atomic(using):
                digests = _erase_one(id, address, using, erased)
            drop_unneeded(digests, using)
    if forget_suppression:
        suppressions.forget(address, using)
    else:
        with transaction.atomic(using):
            suppressions.disguise(address, using)
    return erased


def _holding(emails: QuerySet[Email], address: str, using: str) -> QuerySet[Email]:
    # PostgreSQL writes JSON's strings as they are; on SQLite they are as Python has written them.
    in_json = json.dumps(address, ensure_ascii=connections[using].vendor != "postgresql")[1:-1]
    asked = Q()
    for name in _IN_JSON:
        emails = emails.annotate(**{f"{name}_text": Cast(name, models.TextField())})
        asked |= Q(**{f"{name}_text__icontains": in_json})
    for name in _IN_TEXT:
        asked |= Q(**{f"{name}__icontains": address})
    return emails.filter(asked)


def _erase_one(id: UUID, address: str, using: str, erased: Erased) -> set[str]:
    """Returns the files that the email had."""
    email = Email.objects.using(using).filter(pk=id).select_for_update().first()
    if email is None:
        return set()
    if email.status == Status.SENDING:
        erased.left.append(id)
        return set()
    if not isinstance(email.content, dict):  # other hands have written it
        email.content = EMPTIED
    others = [each for each in email.recipients if _address(each) != address]
    is_named = len(others) < len(email.recipients)
    if is_named and not others:
        erased.deleted += 1
        return delete([id], using)
    if is_named and email.status not in FINAL and email.content.get("kind") == "finished":
        erased.left.append(id)  # its bytes cannot be changed, and would not be found any more
        return set()
    email.recipients = others
    if is_named and email.status not in FINAL:
        _take_out(email, address)
        erased.removed += 1
    digests: set[str] = set()
    if email.status in FINAL:
        _scrub(email, address)
        digests = empty([id], using)
        email.content = EMPTIED
        erased.emptied += 1
    elif _mentions(email, address):
        erased.left.append(id)
    email.turn += 1
    Email.objects.using(using).filter(pk=id).update(
        **{name: getattr(email, name) for name in _CHANGED}, changed_at=timezone.now()
    )
    return digests


def _address(recipient: Any) -> str:
    """Other hands may have written the record."""
    return bare(str(recipient.get("address", ""))) if isinstance(recipient, dict) else ""


def _take_out(email: Email, address: str) -> None:
    """Of an email that has to be sent to others."""
    fields = email.content.get("fields", {})
    for name in _LISTS:
        if isinstance(fields.get(name), list):
            fields[name] = [each for each in fields[name] if bare(str(each)) != address]
    note(email, timezone.now(), "a recipient was erased")
    if all(each["status"] in FINAL_FOR_RECIPIENT for each in email.recipients):
        stand = {each["status"] for each in email.recipients}
        email.status = next(each for each in ("sent", "failed", "suppressed") if each in stand)


def _scrub(email: Email, address: str) -> None:
    erase = _eraser(address)
    email.subject = ""
    email.sender, email.about = erase(email.sender), erase(email.about)
    in_json = _eraser(json.dumps(address, ensure_ascii=False)[1:-1])
    for name in ("recipients", "events", "tags"):
        setattr(email, name, json.loads(in_json(json.dumps(getattr(email, name), ensure_ascii=False))))
    if email.key is not None and erase(email.key) != email.key:
        email.key = None


def _eraser(text: str) -> Callable[[str], str]:
    pattern = re.compile(re.escape(text), re.IGNORECASE)
    return lambda value: pattern.sub(ERASED, value)


def _mentions(email: Email, address: str) -> bool:
    values: list[Any] = [getattr(email, name) for name in (*_IN_JSON, *_IN_TEXT)]
    return address in json.dumps(values, ensure_ascii=False).lower()
