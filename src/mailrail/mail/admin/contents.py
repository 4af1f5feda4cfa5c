"""Show the content of an email: as it is sent, parsed again part by part, and harmless.

An email is foreign text. Its HTML is shown in a frame that runs no scripts, has no origin, submits no forms and loads
nothing. Images come from the email's own parts, as ``data:`` URLs.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from django.core.mail import EmailMessage
from django.http import HttpResponse
from django.utils.html import escape
from django.utils.http import content_disposition_header
from django.utils.translation import gettext

from mailrail.terminal import escape_control_characters, single_line

from ..compose import compose
from ..delivery.load import load_messages
from ..models import Email

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
MAX_FILENAME_LENGTH = 150
_DOCTYPE = re.compile(r"\s*<!doctype[^>]*>", re.IGNORECASE)
_CID = re.compile(r"""cid:([^"'\s<>)]+)""", re.IGNORECASE)
# These open connections, which tells their host who reads what: before a policy refuses what would come over them, and
# "preconnect" in spite of any. By another name they are unknown to browsers, whatever stands around them.
_CONNECTS = re.compile(r"<(?=(?:link|i?frame|object|embed)\b)", re.IGNORECASE)
# Where links would open, which the sandbox does not allow; without it they would open in the frame.
_NOWHERE = '<base target="_blank">'
_TEXT = (
    '<!doctype html><meta charset="utf-8"><pre style="white-space: pre-wrap; overflow-wrap: anywhere; margin: 0">'
    "{}</pre>"
)


class CannotShow(Exception):
    """Say to people why a content cannot be shown."""


@dataclass(frozen=True)
class ShownPart:
    """Show one of the parts that are no container. ``number``: its place among them."""

    number: int
    message: Message

    @property
    def mimetype(self) -> str:
        return self.message.get_content_type()

    @property
    def filename(self) -> str:
        return decoded(self.message.get_filename() or "")

    @property
    def label(self) -> str:
        """Return what people see of the part."""
        return single_line(self.filename or decoded(str(self.message.get("Content-ID", ""))).strip("<>"))

    @cached_property
    def data(self) -> bytes:
        if self.message.is_multipart():  # an email in the email
            inner: Any = self.message.get_payload()
            return b"".join(submessage.as_bytes() for submessage in inner)
        payload: Any = self.message.get_payload(decode=True)
        return bytes(payload or b"")

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def text(self) -> str:
        charset = self.message.get_content_charset() or "utf-8"
        try:
            return self.data.decode(charset, "replace")
        except (LookupError, UnicodeError):  # some charsets of Python's, such as "idna", replace nothing
            return self.data.decode("utf-8", "replace")

    def is_body(self, mimetype: str) -> bool:
        shown = self.message.get_content_disposition() != "attachment" and not self.filename
        return shown and self.mimetype == mimetype


class Contents:
    """Read a record's email. Raise ``CannotShow``."""

    def __init__(self, email: Email, using: str) -> None:
        self.data = _composed(email, using)
        self._message: Message = message_from_bytes(self.data)
        self.parts = [ShownPart(n, leaf) for n, leaf in enumerate(_leaves(self._message))]
        self.html = self._body("text/html")
        self.text = self._body("text/plain")

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [(name, decoded(value)) for name, value in self._message.items()]

    @property
    def attachments(self) -> list[ShownPart]:
        """Whatever is not shown as the body."""
        return [part for part in self.parts if part not in (self.html, self.text)]

    def document(self, *, as_text: bool = False) -> str:
        """Return the body as HTML that needs ``POLICY``."""
        if self.html is None or as_text:
            return _TEXT.format(escape("" if self.text is None else self.text.text))
        html = _CID.sub(self._image, _CONNECTS.sub("<x-", self.html.text))
        doctype = _DOCTYPE.match(html)
        end = doctype.end() if doctype else 0
        return html[:end] + _NOWHERE + html[end:]

    def _body(self, mimetype: str) -> ShownPart | None:
        return next((part for part in self.parts if part.is_body(mimetype)), None)

    def _image(self, match: re.Match[str]) -> str:
        part = self._by_content_id.get(unquote(match[1]))
        if part is None or not part.mimetype.startswith("image/"):
            return match[0]
        return f"data:{part.mimetype};base64,{base64.b64encode(part.data).decode()}"

    @cached_property
    def _by_content_id(self) -> dict[str, ShownPart]:
        return {str(part.message.get("Content-ID", "")).strip().strip("<>"): part for part in self.parts}


def decoded(value: Any) -> str:
    """Return a header's value as people read it; unchanged, where it cannot be decoded."""
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return str(value)


def preview(contents: Contents, *, as_text: bool) -> HttpResponse:
    """Return the document of the frame."""
    response = HttpResponse(contents.document(as_text=as_text), content_type="text/html; charset=utf-8")
    response["X-Frame-Options"] = "SAMEORIGIN"
    response["X-DNS-Prefetch-Control"] = "off"
    return _guarded(response)


def download(data: bytes, filename: str, mimetype: str = "application/octet-stream") -> HttpResponse:
    """Return a file that no browser opens by itself."""
    response = HttpResponse(data, content_type=mimetype)
    response["Content-Disposition"] = content_disposition_header(True, safe_filename(filename))
    return _guarded(response)


def safe_filename(name: str) -> str:
    """Remove folders, control characters and marks of direction: ``exe.gpj`` is no picture."""
    kept = "".join(char if char.isprintable() and char not in '\\/:*?"<>|' else "_" for char in name)
    return kept.strip(" .")[-MAX_FILENAME_LENGTH:] or "attachment"


def _guarded(response: HttpResponse) -> HttpResponse:
    response["Content-Security-Policy"] = POLICY
    response["X-Content-Type-Options"] = "nosniff"
    response["Referrer-Policy"] = "no-referrer"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    response["Cache-Control"] = "private, no-store"
    return response


def _composed(email: Email, using: str) -> bytes:
    if email.emptied_at is not None:
        raise CannotShow(gettext("Its content was removed."))
    try:
        batch = load_messages([email], using)
        for _, error in (*batch.unreadable, *batch.missing, *batch.later):
            raise error
        [loaded] = batch.loaded
        _as_text(loaded.message, email)
        return compose(loaded.message, message_id=email.message_id, date=email.date).data
    except Exception as error:  # whatever the record or the storage holds: the page must say it
        reason = escape_control_characters(f"{type(error).__name__}: {error}")
        raise CannotShow(gettext("It cannot be read: %(reason)s") % {"reason": reason}) from error


def _as_text(message: EmailMessage, email: Email) -> None:
    """Turn into text what services with an API accept and Django cannot write, such as headers that are numbers."""
    message.from_email = message.from_email or email.sender
    for name in ("subject", "body"):
        setattr(message, name, getattr(message, name) or "")
    message.extra_headers = {
        str(name): value if isinstance(value, str) else str(value)
        for name, value in message.extra_headers.items()
    }


def _leaves(message: Message) -> Iterator[Message]:
    payload: Any = message.get_payload()
    if message.is_multipart() and message.get_content_maintype() == "multipart":
        for subpart in payload:
            yield from _leaves(subpart)
    else:
        yield message
