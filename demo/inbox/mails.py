"""Reads what was captured, and removes it. Another process may remove an email at any moment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from demo import environment

_DOCTYPE = re.compile(r"\s*<!doctype[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Mail:
    """One captured email. ``name``: that of its file, without the ending."""

    name: str
    source: bytes

    @property
    def received(self) -> datetime:
        return datetime.fromtimestamp(int(self.name.partition("-")[0]) / 1e9, UTC)

    @cached_property
    def _message(self) -> EmailMessage:
        message = BytesParser(policy=policy.default).parsebytes(self.source)
        assert isinstance(message, EmailMessage)  # the policy's
        return message

    @property
    def subject(self) -> str:
        return str(self._message.get("Subject", ""))

    @property
    def recipients(self) -> str:
        return ", ".join(map(str, self._message.get_all("Delivered-To", [])))

    @property
    def searched(self) -> str:
        """Return what a search looks at, without case: the subject, the addresses and the bodies."""
        addresses = (str(self._message.get(name, "")) for name in ("From", "To", "Cc"))
        bodies = (self.text or "", self._body("html") or "")
        return "\n".join([self.subject, self.recipients, *addresses, *bodies]).casefold()

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [(name, str(value)) for name, value in self._message.items()]

    @property
    def text(self) -> str | None:
        return self._body("plain")

    @property
    def html(self) -> str | None:
        """The document for a frame: its links open beside the site, not in the frame."""
        html = self._body("html")
        if html is None:
            return None
        doctype = _DOCTYPE.match(html)
        end = doctype.end() if doctype else 0
        return f'{html[:end]}<base target="_blank">{html[end:]}'

    @property
    def attachments(self) -> list[Attachment]:
        """Return the parts that are not shown as a body."""
        bodies = [self._message.get_body((kind,)) for kind in ("plain", "html")]
        parts = [leaf for leaf in _leaves(self._message) if not any(leaf is body for body in bodies)]
        return [Attachment(number, part) for number, part in enumerate(parts)]

    def _body(self, kind: str) -> str | None:
        part = self._message.get_body((kind,))
        return None if part is None else _text_of(part)


@dataclass(frozen=True)
class Attachment:
    """``number``: its place in the email."""

    number: int
    _part: Any

    @property
    def filename(self) -> str:
        return self._part.get_filename() or f"attachment-{self.number}"

    @property
    def mimetype(self) -> str:
        return str(self._part.get_content_type())

    @cached_property
    def content(self) -> bytes:
        if self._part.is_multipart():  # an email in the email
            return b"".join(bytes(part) for part in self._part.iter_parts())
        return bytes(self._part.get_payload(decode=True) or b"")

    @property
    def size(self) -> int:
        return len(self.content)


def newest(most: int, query: str = "") -> list[Mail]:
    """Return the last ones captured that have all words of the query, newest first."""
    words = query.casefold().split()
    files = (
        file for file in sorted(_files(), reverse=True) if all(word in _searched(file) for word in words)
    )
    mails = (mail for file in files if (mail := _read(file)) is not None)
    return list(islice(mails, most))


def find(name: str) -> Mail | None:
    """The one of this name. Names come from addresses of pages, so they are looked for, never opened."""
    return next((_read(file) for file in _files() if file.stem == name), None)


def count() -> int:
    return sum(1 for _ in _files())


def version() -> str:
    """Return a text that is another one once an email has come or gone."""
    names = [file.stem for file in _files()]
    return f"{len(names)}-{max(names, default='')}"


def remove(until: str) -> int:
    """Remove the email of this name and all that came before it. Returns how many those were."""
    old = [file for file in _files() if file.stem <= until]
    for file in old:
        file.unlink(missing_ok=True)
    return len(old)


@lru_cache(maxsize=5000)
def _searched(file: Path) -> str:
    """Parse an email once: parsing takes 2 ms, and a page with a search asks again at each arrival."""
    mail = _read(file)
    return "" if mail is None else mail.searched


def _read(file: Path) -> Mail | None:
    try:
        return Mail(file.stem, file.read_bytes())
    except FileNotFoundError:  # removed in this moment
        return None


def _files() -> Iterable[Path]:
    return environment.inbox_folder().glob("*.eml")


def _leaves(message: Any) -> Iterator[Any]:
    if message.get_content_maintype() == "multipart":
        for part in message.iter_parts():
            yield from _leaves(part)
    else:
        yield message


def _text_of(part: Any) -> str:
    try:
        return str(part.get_content())
    except LookupError:  # a charset that Python does not know
        return bytes(part.get_payload(decode=True)).decode("ascii", "replace")
