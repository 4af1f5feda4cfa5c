"""Give the copy of a sent email a Message-ID of its own: mailboxes drop a second email that has the same one.

The old one goes into References (RFC 5322 3.6.4), so that both stay in one thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.utils import timezone

from ..compose.common import new_message_id
from ..delivery.record import add_event
from ..models import Email
from ..queueing.files import Files, inline_files, load_files, put_inline
from ..queueing.serialize import digest_of_file
from ..queueing.values import pack, unpack

RENEWED = "given a Message-ID of its own; the old one is in References"
KEPT = "its Message-ID is kept, as it is signed"

_message_id = re.compile(rb"^message-id:.*(?:\r\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
_references = re.compile(rb"^references:.*(?:\r\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
_signed = re.compile(
    rb"^(?:dkim-signature|arc-message-signature):(.*(?:\r\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE
)


def renew_message_id(copied: Email, email: Email, using: str) -> Files | None:
    """Change the record of the copy of ``email``, and return the large files that the copy needs.

    None: the copy needs the files of ``email``. An event tells what became of a Message-ID that the sender gave.
    """
    if copied.content.get("kind") == "finished":
        return _renew_in_bytes(copied, email, using)
    given, content = _without_message_id(copied.content)
    old, copied.message_id = copied.message_id, new_message_id()
    if given:
        copied.content = content
        add_event(copied, timezone.now(), RENEWED, why=old)
    return None


def _without_message_id(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the Message-ID among the headers that were given, and a content that names it in References instead."""
    fields = content.get("fields") or {}
    headers: dict[Any, Any] = unpack(fields.get("extra_headers")) or {}
    chosen = {name: str(value) for name, value in headers.items() if str(name).lower() == "message-id"}
    if not chosen:
        return "", {**content}
    old = next(iter(chosen.values()))
    kept = {name: value for name, value in headers.items() if name not in chosen}
    references = next((name for name in kept if str(name).lower() == "references"), "References")
    kept[references] = f"{kept.get(references, '')} {old}".strip()
    return old, {**content, "fields": {**fields, "extra_headers": pack(kept, "headers")}}


def _renew_in_bytes(copied: Email, email: Email, using: str) -> Files | None:
    """Renew the Message-ID of a message whose class wrote it. One whose signature covers the Message-ID stays
    unchanged."""
    digest = copied.content.get("data")
    large, _ = load_files([email], using)
    data = {**large, **inline_files(email)}.get(str(digest))
    if data is None:
        return None  # the delivery says which file is gone
    head, end, body = data.partition(b"\r\n\r\n")
    if any(b"message-id" in signature.lower() for signature in _signed.findall(head)):
        add_event(copied, timezone.now(), KEPT, why=copied.message_id)
        return None
    old, new = copied.message_id, new_message_id()
    written = _in_references(_message_id.sub(f"Message-ID: {new}".encode(), head), old) + end + body
    copied.message_id = new
    copied.content = {**copied.content, "data": digest_of_file(written)}
    add_event(copied, timezone.now(), RENEWED, why=old)
    return put_inline(copied.content, {copied.content["data"]: written})


def _in_references(head: bytes, old: str) -> bytes:
    if _references.search(head):
        return _references.sub(lambda match: match[0].rstrip() + f"\r\n {old}".encode(), head, count=1)
    return head + f"\r\nReferences: {old}".encode()
