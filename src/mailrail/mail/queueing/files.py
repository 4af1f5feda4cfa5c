"""What emails carry, stored once: small things inside the record, large ones by their SHA-256."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from io import BytesIO
from typing import Any, TypeAlias
from uuid import UUID

from django.core.files.storage import Storage, storages
from django.db import IntegrityError, connections, transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils import timezone

from mailrail.conf import settings
from mailrail.moments import seconds_between
from mailrail.namespace import current
from mailrail.write_transactions import write_transaction

from ..models import Email, EmailFile, File

MAX_INLINE_BYTES = 32 * 1024
"""Bytes that are kept inside the record: a row of their own would cost more than it saves."""
FOLDER = "mailrail-mail"
PAGE_SIZE = 500
"""Files that are looked at together."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

Files: TypeAlias = Mapping[str, bytes]
"""SHA-256 in hexadecimal -> bytes."""


def put_inline(content: dict[str, Any], files: Files) -> Files:
    """Put what is small into the content of a record. Returns what is large."""
    content.pop("files", None)
    content.pop("large", None)
    if not files:
        return {}
    small = {digest: data for digest, data in files.items() if len(data) <= MAX_INLINE_BYTES}
    large = {digest: data for digest, data in files.items() if digest not in small}
    if small:
        content["files"] = {digest: base64.b64encode(data).decode() for digest, data in small.items()}
    if large:
        content["large"] = sorted(large)
    return large


def store_large(files: Mapping[UUID, Files], using: str) -> None:
    """Store the large files of records, by ids: each once, and who needs it. In the transaction of the records."""
    links = [EmailFile(email_id=id, file_id=digest) for id, large in files.items() for digest in large]
    if not links:
        return
    every = {digest: data for large in files.values() for digest, data in large.items()}
    now = timezone.now()
    missing = every.keys() - _kept(every, using)
    storage = _storage()
    # In one order: no two senders wait for each other. One by one: twice the memory of one.
    for digest in sorted(missing):
        data = every[digest]
        row = File(sha256=digest, size=len(data), data=data if storage is None else None, used_at=now)
        # The row first, and locked: whoever removes a stored file holds its row while that is done.
        File.objects.using(using).bulk_create(
            [row], update_conflicts=True, unique_fields=["sha256"], update_fields=["used_at"]
        )
        if storage is not None and not storage.exists(name := _path(digest)):
            storage.save(name, _Content(data))
    EmailFile.objects.using(using).bulk_create(links, batch_size=1000)


def _kept(digests: Collection[str], using: str) -> set[str]:
    """Return those that are stored, and lock them until the transaction ends: whoever prunes waits, and looks again."""
    if connections[using].vendor != "postgresql":  # one writer at a time, and that is us
        return _known(digests, using)
    with connections[using].cursor() as cursor:
        # Shared. Senders of the same file are no reason for each other to wait, for as long as a transaction takes.
        cursor.execute(
            "SELECT sha256 FROM mailrail_mail_file WHERE sha256 = ANY (%s) ORDER BY sha256 FOR SHARE",
            [list(digests)],
        )
        return {digest for (digest,) in cursor.fetchall()}


def load_files(emails: Iterable[Email], using: str) -> tuple[dict[str, bytes], dict[str, Exception]]:
    """Return the large files that these records need, and why others could not be loaded."""
    emails = list(emails)
    contents: dict[str, bytes] = {}
    errors: dict[str, Exception] = {}
    if not emails:
        return contents, errors
    needed = EmailFile.objects.using(using).filter(email__in=[email.pk for email in emails])
    for row in File.objects.using(using).filter(pk__in=needed.values("file_id")):
        try:
            contents[row.pk] = _read(row)
        except Exception as error:  # a storage may raise anything
            errors[row.pk] = error
    return contents, errors


def inline_files(email: Email) -> dict[str, bytes]:
    return {digest: base64.b64decode(data) for digest, data in email.content.get("files", {}).items()}


# -- what nobody needs any more ---------------------------------------------------------------------------------------


def drop_unneeded(digests: Iterable[str], using: str) -> int:
    """Delete those of these files that no email refers to. Returns how many were deleted.

    Somebody may queue an email with such a file at the same time. Either that transaction has the row first, and the
    file stays. Or it finds no row, and stores the file again.
    """
    candidates = set(digests)
    if not candidates:  # nearly always, and SQLite's write lock is one for all
        return 0
    with write_transaction(using):
        rows = File.objects.using(using).filter(pk__in=candidates).order_by("pk").select_for_update()
        is_elsewhere = ExpressionWrapper(Q(data=None), output_field=BooleanField())
        stored = dict(rows.values_list("pk", is_elsewhere))
        # A statement of its own, after the rows are locked: it sees what those have committed who held them before.
        needed = set(EmailFile.objects.using(using).filter(file__in=stored).values_list("file_id", flat=True))
        unneeded = stored.keys() - needed
        File.objects.using(using).filter(pk__in=unneeded).only("pk").delete()
    for digest in sorted(unneeded):
        if stored[digest]:
            _drop_stored(digest, using)
    return len(unneeded)


def drop_all_unneeded(using: str) -> Iterator[int]:
    """Look through all rows, page by page: emails may have been deleted without asking what they carried."""
    last = ""
    while page := list(
        File.objects.using(using).filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:PAGE_SIZE]
    ):
        last = page[-1]
        links = EmailFile.objects.using(using).filter(file__in=page)
        yield drop_unneeded(set(page) - set(links.values_list("file_id", flat=True)), using)


def drop_left_behind(using: str, before: datetime) -> int:
    """Delete what lies in ``MAILRAIL["MAIL_STORAGE"]`` since ``before`` and has no row, as its transaction was rolled
    back. Returns how many. Raises ``NotImplementedError`` for a storage that cannot list its files, or tell their age.
    """
    storage = _storage()
    if storage is None:
        return 0
    try:
        _, entries = storage.listdir(_folder())
    except FileNotFoundError:  # nothing was ever stored
        return 0
    names = sorted(name for name in entries if _SHA256.fullmatch(name))
    dropped = 0
    for start in range(0, len(names), PAGE_SIZE):
        page = names[start : start + PAGE_SIZE]
        for name in sorted(set(page) - _known(page, using)):
            try:
                is_old = seconds_between(storage.get_modified_time(_path(name)), before) > 0
            except FileNotFoundError:  # another run was quicker
                continue
            if is_old:
                dropped += _drop_stored(name, using)
    return dropped


def _known(digests: Collection[str], using: str) -> set[str]:
    return set(File.objects.using(using).filter(pk__in=digests).values_list("pk", flat=True))


def _drop_stored(digest: str, using: str) -> bool:
    """Delete a file from the storage, unless somebody has stored it again meanwhile.

    For as long as that takes it has a row of ours, for which everybody waits who stores the same file. If we die, the
    row is gone, and the file is one that was left behind, or is gone as well.
    """
    storage = _storage()
    if storage is None:
        return False
    try:
        with transaction.atomic(using):
            File(sha256=digest).save(using=using, force_insert=True)
            storage.delete(_path(digest))
            File.objects.using(using).filter(pk=digest).only("pk").delete()
    except IntegrityError:
        return False
    return True


# -- reading and writing ----------------------------------------------------------------------------------------------


def _read(row: File) -> bytes:
    if row.data is not None:
        return bytes(row.data)
    storage = _storage()
    if storage is None:
        raise FileNotFoundError(
            f"The file {row.pk} lies in a storage, and MAILRAIL['MAIL_STORAGE'] names none any more."
        )
    with storage.open(_path(row.pk)) as file:
        data: bytes = file.read()
    return data


def _folder() -> str:
    """Return where this project's files lie: those of other namespaces are none that were left behind."""
    return f"{FOLDER}/{name}" if (name := current()) else FOLDER


def _path(digest: str) -> str:
    return f"{_folder()}/{digest}"


def _storage() -> Storage | None:
    """Return the storage that ``MAILRAIL["MAIL_STORAGE"]`` names, an alias of ``STORAGES``, or ``None`` for the
    database."""
    return None if settings.mail_storage is None else storages[settings.mail_storage]


class _Content(BytesIO):
    """Give a storage bytes with a size and chunks."""

    def chunks(self) -> Iterable[bytes]:
        yield self.getvalue()
