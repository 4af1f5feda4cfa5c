"""Queueing: from an ``EmailMessage`` to a record and the message that says "now", in the caller's transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import chain, islice
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import EmailMessage
from django.db import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    models,
    router,
    transaction,
)
from django.utils import timezone

from mailrail import Channel, uuid7
from mailrail import options as checked
from mailrail.missing_tables import migration_for
from mailrail.second_connection import outside_the_transaction
from mailrail.storable import storable
from mailrail.worker import ExecutionContext
from mailrail.write_transactions import write_transaction

from ..compose.addresses import mailboxes, sender_of
from ..compose.common import new_message_id
from ..errors import CannotQueue, KeyConflict
from ..mailers.channels import channel_of
from ..models import Email, Status
from .files import Files, put_inline, store_large
from .insert import Columns, NewEmail, NewEmails, insertion_of
from .options import Options, plain_options, read_options
from .sensitive import decide
from .serialize import dump
from .validation import (
    addresses_in,
    check_address_of,
    check_finished,
    check_message_id,
    check_text,
    message_id_in,
    size_composed,
    size_of_fields,
)
from .values import ABOUT, CannotBeStored


def queue(
    message: EmailMessage,
    *,
    priority: int = 0,
    send_at: datetime | timedelta | float | None = None,
    expires_at: datetime | timedelta | float | None = None,
    key: str | None = None,
    tags: Iterable[str] = (),
    about: models.Model | str | None = None,
    mailer: str | None = None,
    immediately: bool = False,
) -> Email:
    """Queue an email, in the transaction of the caller, and return its record.

    ``priority``: -100 to 100, higher first. ``send_at``, ``expires_at``: a ``datetime`` (naive ones only if ``USE_TZ``
    is off), or seconds or a ``timedelta`` from now. An email that is not sent by ``expires_at`` is "expired".
    ``key``: at most one email has it; a second call with the same content returns the first record, with other content
    it raises ``KeyConflict``. ``tags``: words to find it by. ``about``: the object it is about. ``mailer``: alias of
    the one that delivers it. ``immediately=True`` queues it whatever becomes of that transaction.

    Raises what ``EmailMessage.send()`` would raise for headers and addresses. Raises ``CannotQueue`` for an email that
    can never be sent; ``EmailTooLarge`` and ``KeyConflict`` are kinds of it. Raises ``TypeError`` and ``ValueError``
    for options. Raises ``WouldDeadlock`` for ``immediately=True`` where that waits for the caller itself.
    """
    options = read_options(mailer, priority, send_at, expires_at, tags, about)
    [new] = _records([message], options)
    key = None if key is None else checked.label("key", key)
    with _transaction(immediately):
        if key is not None:
            return _store_once(new, options, key)
        _store([new], options)
    return new.email(router.db_for_write(Email))


def queue_many(
    messages: Iterable[EmailMessage],
    *,
    priority: int = 0,
    send_at: datetime | timedelta | float | None = None,
    expires_at: datetime | timedelta | float | None = None,
    tags: Iterable[str] = (),
    mailer: str | None = None,
    immediately: bool = False,
) -> list[Email]:
    """Queue emails, all or none of them. Options, and what is raised, as for ``queue``."""
    options = read_options(mailer, priority, send_at, expires_at, tags, None)
    made = [*_records(messages, options)]
    if made:
        with _transaction(immediately):
            _store(made, options)
    using = router.db_for_write(Email)
    return [new.email(using) for new in made]


def queue_all(messages: Sequence[EmailMessage], mailer: str, execution: ExecutionContext | None) -> int:
    """Queue emails, all or none of them, as ``queue_many`` does, and keep no records of them in memory.

    Of what a consumer sends (``execution``), leave out what an earlier run for its message has queued. Return how many
    emails were given.
    """
    options = plain_options(mailer)
    if execution is not None:
        _queue_in_execution(messages, options, execution)
    elif messages:
        _store(_records(messages, options), options)
    return len(messages)


def _queue_in_execution(
    messages: Iterable[EmailMessage], options: Options, execution: ExecutionContext
) -> None:
    """Queue what a consumer sends, without what an earlier run for its message has queued.

    The same email is the one with the same content, recipients and mailer; sent twice in one run, there are two.
    """
    made = [*_records(messages, options)]
    for new in made:
        new.columns["digest"] = digest_of(new)
    try:
        numbers = _store_missing(made, execution, options)
    except IntegrityError:
        # Stored in this very moment, by a worker that has the message since our lease lapsed.
        numbers = _store_missing(made, execution, options)
    for new, number in zip(made, numbers, strict=True):
        execution.ordinals(new.columns["digest"]).add(number)


async def aqueue(message: EmailMessage, **options: Any) -> Email:
    """Call ``queue`` from async code; the options are the same."""
    return await sync_to_async(queue)(message, **options)


async def aqueue_many(messages: Iterable[EmailMessage], **options: Any) -> list[Email]:
    """Call ``queue_many`` from async code; the options are the same."""
    return await sync_to_async(queue_many)(messages, **options)


# -- from a message to a record -------------------------------------------------------------------------------------


def _records(messages: Iterable[EmailMessage], options: Options) -> Iterator[NewEmail]:
    """Yield what is to be stored. Raise for whatever cannot be sent, so that no worker has to find it out."""
    now = timezone.now()
    for message in messages:
        yield _record(message, options, now)


def _record(message: EmailMessage, options: Options, now: datetime) -> NewEmail:
    if not hasattr(message, "recipients"):
        raise TypeError(f"Only an EmailMessage can be queued, not {message!r}.")
    recipients = [*dict.fromkeys(map(str, message.recipients()))]
    if not recipients:
        raise CannotQueue("The email has no recipients: put at least one address into to, cc or bcc.")
    sender = _sender(message, options)
    for address in recipients:
        check_address_of(message, address)
    content, files, message_id, size = _written(message, options, now)
    large = put_inline(content, files) if files else {}
    text = check_text(content, "The email")
    columns = {
        "id": uuid7(),
        "sender": sender,
        "subject": "" if message.subject is None else storable(str(message.subject)),
        "content": content,
        "message_id": message_id,
        "date": now,
        "size": size,
        "created_at": now,
        "changed_at": now,
        "recipients": [{"address": address, "status": "queued"} for address in recipients],
        **options.columns,
    }
    if decide(message):
        columns["sensitive"] = True
    if about := getattr(message, ABOUT, None):
        columns["related_object"] = checked.related_object(ABOUT, about)
    return NewEmail(columns, text, large)


def _written(
    message: EmailMessage, options: Options, now: datetime
) -> tuple[dict[str, Any], Files, str, int]:
    """Return what is stored of a message and its files, its Message-ID, and its bytes as it would be sent."""
    message_id = _message_id(message)
    size = size_composed(message, message_id, now) if options.composes else 0
    try:
        content, packed_files = dump(message, composes=options.composes)
    except CannotBeStored as error:
        raise CannotQueue(str(error)) from error
    files = dict(packed_files)
    if content["kind"] == "finished":
        data = files[content["data"]]
        check_finished(data, message)
        message_id = message_id_in(data) or message_id
    check_message_id(message_id)
    return content, files, message_id, size or size_of_fields(message, content, files)


def _sender(message: EmailMessage, options: Options) -> str:
    """Return the envelope's. Raise ``CannotQueue`` for it, or for an author, that can be told to no server."""
    # Anymail leaves what is None to the template of the service.
    from_email = "" if message.from_email is None else str(message.from_email)
    authors = mailboxes(from_email) if options.composes else addresses_in(from_email)
    for author in authors:
        check_address_of(message, author, "from_email: ")
    if "," not in from_email:
        return from_email
    sender = sender_of(from_email, message.extra_headers)
    if options.composes and sender not in authors:
        check_address_of(message, sender, "The header Sender: ")
    return sender


def _message_id(message: EmailMessage) -> str:
    for name, value in message.extra_headers.items():
        if str(name).lower() == "message-id":
            return str(value)
    return new_message_id()


def digest_of(new: NewEmail) -> str:
    """Return a digest of what the receivers would see, and of who they are."""
    columns = new.columns
    seen = [
        columns["content"],
        [recipient["address"] for recipient in columns["recipients"]],
        columns.get("mailer", ""),  # left out where it is the default
    ]
    return sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


# -- storing --------------------------------------------------------------------------------------------------------


def _transaction(immediately: bool) -> AbstractContextManager[None]:
    """Return the caller's transaction, or one beside it."""
    if not immediately:
        return nullcontext()
    hint = "Leave it out (the email is queued when the transaction commits), or queue before atomic()."
    return outside_the_transaction(router.db_for_write(Email), hint)


def _store(new: Iterable[NewEmail], options: Options) -> None:
    """Store one or more records, their files and their messages, all or none. Nothing is stored before all are made."""
    using = router.db_for_write(Email)
    coming = iter(new)
    begin = [*islice(coming, 2)]
    if len(begin) > 1 or begin[0].large:
        _store_many(chain(begin, coming), options, using)
        return
    [first] = begin
    with tables_said_missing():
        # The record and its message, in one round trip on PostgreSQL: the caller waits for this.
        options.channel.send_with_record(
            insertion_of(first, using),
            content_for(first.columns["id"]),
            at=options.send_at,
            priority=options.priority,
            unique=True,
            using=using,
        )


def _store_many(new: Iterable[NewEmail], options: Options, using: str) -> None:
    emails = NewEmails(new, using)
    with tables_said_missing(), transaction.atomic(using, savepoint=False):
        emails.insert()
        store_large(emails.large, using)
        announce(options.mailer, emails.ids, using, options.priority, options.send_at)


@contextmanager
def tables_said_missing() -> Iterator[None]:
    """Add what to do to an error that says "no such table", or that comes from an event loop."""
    try:
        yield
    except SynchronousOnlyOperation as error:
        error.add_note(
            "In async code: await mail.aqueue(…), or await sync_to_async(send_mail)(…) (asgiref.sync.sync_to_async)."
        )
        raise
    except (OperationalError, ProgrammingError) as error:
        if migration := migration_for(error):
            error.add_note(f"Run: {migration}")
        raise


def _store_missing(made: Sequence[NewEmail], execution: ExecutionContext, options: Options) -> list[int]:
    """Store those that no earlier run has queued. Return the ordinal of each among equal emails.

    The others' messages may have been lost with the process, after its commit.
    """
    using = router.db_for_write(Email)
    with tables_said_missing(), write_transaction(using):
        numbers, known = _numbered([new.columns for new in made], execution, using)
        if missing := [new for new in made if new.columns["key"] not in known]:
            _store(missing, options)
        again = [known[key] for new in made if (key := new.columns["key"]) in known]
        unsent = [email.pk for email in again if email.status == Status.QUEUED and email.version == 0]
        announce(options.mailer, unsent, using)
    return numbers


def _numbered(
    emails: Sequence[Columns], execution: ExecutionContext, using: str
) -> tuple[list[int], dict[str | None, Email]]:
    """Give them their keys; returns their numbers, too, and the records that have such keys already.

    An email that an earlier run has queued has the number of that one. A new one has the first number that no record
    has. So an email that this run has queued and rolled back is queued once more under the same key, and known to the
    next run.
    """
    count = Counter(email["digest"] for email in emails)
    possible = {
        digest: {
            _key(execution, digest, n): n
            for n in range(1 + max(execution.ordinals(digest), default=-1) + many)
        }
        for digest, many in count.items()
    }
    keys = [key for ordinals in possible.values() for key in ordinals]
    rows = Email.objects.using(using).filter(key__in=keys).only("key", "status", "version")
    known: dict[str | None, Email] = {row.key: row for row in rows}
    given: dict[str, Iterator[int]] = {}
    for digest, ordinals in possible.items():
        stored = {n for key, n in ordinals.items() if key in known}
        given[digest] = iter(
            [*sorted(stored - execution.ordinals(digest)), *sorted(set(ordinals.values()) - stored)]
        )
    numbers = [next(given[email["digest"]]) for email in emails]
    for email, number in zip(emails, numbers, strict=True):
        email["key"] = _key(execution, email["digest"], number)
    return numbers, known


def _key(execution: ExecutionContext, digest: str, number: int) -> str:
    return f"mailrail:{execution.key}:{digest[:32]}:{number}"


def _store_once(new: NewEmail, options: Options, key: str) -> Email:
    using = router.db_for_write(Email)
    digest = new.columns["digest"] = digest_of(new)
    new.columns["key"] = key
    try:
        with transaction.atomic(using):  # a savepoint: the caller's transaction goes on after a conflict
            _store([new], options)
    except IntegrityError:
        first = Email.objects.using(using).filter(key=key).first()
        if first is None:
            raise
        if first.digest != digest:
            raise KeyConflict(
                f"The key {key!r} belongs to another email with other content, {first.pk}. Use a key that says what "
                "makes this one different."
            ) from None
        return first
    return new.email(using)


def announce(
    mailer: str,
    ids: Sequence[UUID],
    using: str,
    priority: int = 0,
    send_at: datetime | None = None,
    dispatch: int = 0,
) -> None:
    """Tell the workers of these records of a mailer, when the transaction of ``using`` commits.

    It may be told again: while the first message is there, that changes nothing.
    """
    contents = [content_for(id, dispatch) for id in ids]
    Channel(channel_of(mailer)).send_many(contents, at=send_at, priority=priority, using=using, unique=True)


def content_for(id: UUID, dispatch: int = 0) -> dict[str, Any]:
    """Return the content of a record's message."""
    return {"id": str(id), "dispatch": dispatch} if dispatch else {"id": str(id)}
