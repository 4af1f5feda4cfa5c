"""From the ids of emails to their records, and from records back to messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple
from uuid import UUID

from django.core.mail import EmailMessage
from django.db import connections
from django.db.models.base import ModelState

from mailrail.addresses import bare
from mailrail.moments import from_timestamp

from ..compose import Composed, Style, compose, compose_fields, style
from ..models import Email, Status
from ..queueing.files import inline_files, load_files
from ..queueing.serialize import common_fields, load

NOT_LOADED = frozenset(
    {
        "subject",
        "sensitive",
        "key",
        "digest",
        "tags",
        "related_object",
        "emptied_at",
        "next_try_at",
        "changed_at",
        "namespace",
    }
)
"""Columns that nearly no email needs. Like any deferred field of Django's, each is fetched should somebody need it."""
_MOMENTS = ("date", "created_at")
"""Columns that come as Unix seconds: Django's loader of times takes longer than all others of a row together."""
_JSON = ("content", "recipients", "events")
"""Columns that Django has psycopg leave as text."""
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # the part in C of what ``loads`` calls

_CONTROL = re.compile(r"[\x00-\x1f]")
MAX_ADDRESS_LENGTH = 320
"""Characters of a bare one, for which the suppression list has room; servers take 254."""
MAX_PORTION_BYTES = 16 * 1024 * 1024
"""Bytes of emails that are in memory together."""
_STATUSES = frozenset(Status.values)
_RECIPIENT_STATUSES = ("queued", "sent", "failed", "suppressed")
_TEXTS, _OBJECTS = frozenset({str}), frozenset({dict})


class Obstacles(NamedTuple):
    """Tell which lists may keep email from leaving: those that are empty need no query of their own."""

    suppressions: bool = True
    mailer_states: bool = True
    refused_senders: bool = True
    throttles: bool = True


def load_records(ids: Sequence[UUID], using: str) -> tuple[list[Email], Obstacles]:
    """Return the records that exist, in the order of these ids, and the obstacles that were there then."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        found = Email.objects.using(using).defer(*NOT_LOADED).in_bulk(list(ids))
        return [found[id] for id in ids if id in found], Obstacles()
    with connection.cursor() as cursor:
        # Numbers stand for ids here: what UUID does of its own, such as hashing, is Python.
        cursor.execute(_statement(), ["{" + ",".join([f"{id.int:032x}" for id in ids]) + "}"])
        rows = cursor.fetchall()
    zone = connection.timezone
    moment = from_timestamp if zone is None else partial(datetime.fromtimestamp, tz=zone)
    names, state = _names(), ModelState()
    state.adding, state.db = False, using
    emails: dict[int, Email] = {}
    for row in rows:
        columns = dict(zip(names, row, strict=False))  # behind its columns are the obstacles
        for name in _JSON:
            text = columns[name]
            columns[name] = [] if text == "[]" else _scan(text, 0)[0]
        for name in _MOMENTS:
            columns[name] = moment(columns[name])
        columns["_state"] = state  # one for all: no relation of an email is kept in it
        email = Email.__new__(Email)  # as unpickling makes one: Django's own way takes five times as long
        email.__dict__.update(columns)
        emails[columns["id"].int] = email
    in_order = [emails[id.int] for id in ids if id.int in emails]
    return in_order, Obstacles(*rows[0][len(names) :]) if rows else Obstacles()


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    return tuple(field.attname for field in Email._meta.concrete_fields if field.attname not in NOT_LOADED)


@lru_cache(maxsize=1)
def _statement() -> str:
    columns = [f"extract(epoch FROM {name})::float8" if name in _MOMENTS else name for name in _names()]
    return f"""
SELECT {", ".join(columns)},
    EXISTS (SELECT FROM mailrail_mail_suppression),
    EXISTS (SELECT FROM mailrail_mail_mailerstate),
    EXISTS (SELECT FROM mailrail_mail_refusedsender),
    EXISTS (SELECT FROM mailrail_mail_mailerthrottle WHERE share < 1)
FROM mailrail_mail_email WHERE id = ANY (%s::uuid[])
"""


class Loaded:
    """Hold a record and what it keeps: as plain fields where those are enough to write it, or as a message."""

    __slots__ = ("_fields", "_files", "_message", "_style", "email")

    def __init__(self, email: Email, files: Mapping[str, bytes], style: Style) -> None:
        """Read the content. Raise whatever a content that other hands have written leads to."""
        self.email = email
        self._files = files
        self._style = style
        self._fields = common_fields(email.content, files)
        self._message = None if self._fields is not None else load(email.content, files)

    @property
    def message(self) -> EmailMessage:
        if self._message is None:
            self._message = load(self.email.content, self._files)
        return self._message

    @property
    def encoding(self) -> Any:
        """Return what the message says of the charset of its addresses."""
        return None if self._message is None else self._message.encoding

    def compose(self, *, eight_bit: bool) -> Composed:
        """Write it for a server with SMTPUTF8, with the Message-ID and the date of its record."""
        id, date, fields = self.email.message_id, self.email.date, self._fields
        if fields is not None:
            composed = compose_fields(fields, id, date, self._style, eight_bit=eight_bit, smtputf8=True)
            if composed is not None:
                return composed
        return compose(self.message, message_id=id, date=date, eight_bit=eight_bit, smtputf8=True)


@dataclass
class EmailBatch:
    """``unreadable``: never to be sent. ``missing``: their storage says that it has not got a file of theirs.
    ``later``: it does not answer now."""

    loaded: list[Loaded] = field(default_factory=list)
    unreadable: list[tuple[Email, Exception]] = field(default_factory=list)
    missing: list[tuple[Email, Exception]] = field(default_factory=list)
    later: list[tuple[Email, Exception]] = field(default_factory=list)


def in_portions(emails: Sequence[Email]) -> Iterator[list[Email]]:
    """Yield as many emails at once as fit into memory. One that does not fit is alone."""
    portion: list[Email] = []
    size = 0
    for email in emails:
        if portion and size + email.size > MAX_PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(email)
        size += email.size
    if portion:
        yield portion


def load_messages(emails: Sequence[Email], using: str) -> EmailBatch:
    """Return the emails with their messages, and why others have none."""
    batch, as_written = EmailBatch(), style()
    with_large = [email for email in emails if email.content.get("large")]
    large, errors = load_files(with_large, using) if with_large else ({}, {})
    for email in emails:
        if errors and (failed := [errors[name] for name in email.content.get("large", ()) if name in errors]):
            is_missing = all(isinstance(error, FileNotFoundError) for error in failed)
            (batch.missing if is_missing else batch.later).append((email, _named(email, failed[0], errors)))
            continue
        try:
            files = {**large, **inline_files(email)} if "files" in email.content else large
            batch.loaded.append(Loaded(email, files, as_written))
        except KeyError as error:
            digest = str(error.args[0])
            is_gone = digest in email.content.get("large", ()) and digest not in large
            gone = f"{file_name(email, digest)} is not stored any more"
            batch.unreadable.append((email, FileNotFoundError(gone) if is_gone else error))
        except Exception as error:  # whatever the record holds
            batch.unreadable.append((email, error))
    return batch


def _named(email: Email, error: Exception, errors: Mapping[str, Exception]) -> Exception:
    """Name the file in a storage's error as people know it: the storage knows it by another name."""
    digest = next(digest for digest in email.content["large"] if errors.get(digest) is error)
    name = file_name(email, digest)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{name} is not where it is kept: {error}")
    return OSError(f"{name} cannot be read just now: {type(error).__name__}: {error}")


def file_name(email: Email, digest: str) -> str:
    """Return a stored file in words: by the name of the attachment, if it is one and has one."""
    attachments = email.content.get("attachments")
    for attachment in attachments if isinstance(attachments, list) else ():
        if not isinstance(attachment, dict) or not attachment.get("filename"):
            continue
        if digest in json.dumps(attachment.get("content")):
            return f"the attachment {str(attachment['filename'])!r} (SHA-256 {digest})"
    return f"the file with the SHA-256 {digest}"


def defect_of(email: Email) -> str:
    """Return what is wrong with a record that other hands have written, so that nothing else fails over it."""
    recipients, content, events = email.recipients, email.content, email.events
    if email.status not in _STATUSES:
        return f"its status is {email.status!r}"
    if not isinstance(recipients, list) or not recipients:
        return "its recipients are no list of at least one"
    addresses = [email.sender]
    for recipient in recipients:
        address = recipient.get("address") if isinstance(recipient, dict) else None
        if not isinstance(address, str) or recipient.get("status") not in _RECIPIENT_STATUSES:
            return 'a recipient is not {"address": …, "status": …}'
        addresses.append(address)
    for address in addresses:
        if not address.isprintable() and _CONTROL.search(address):
            return "an address has a control character"
        if len(address) > MAX_ADDRESS_LENGTH and len(bare(address)) > MAX_ADDRESS_LENGTH:
            return f"an address is longer than {MAX_ADDRESS_LENGTH} characters"
    if not isinstance(content, dict) or not isinstance(content.get("files", {}), dict):
        return "its content is no object"
    large = content.get("large", [])
    if not isinstance(large, list) or not _TEXTS.issuperset(map(type, large)):
        return "its content names large files in another way than by a list of their SHA-256"
    if not isinstance(events, list) or not _OBJECTS.issuperset(map(type, events)):
        return "its events are no list of objects"
    return ""
