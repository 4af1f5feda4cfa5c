"""What is refused when an email is queued, as it could never be stored, or never be sent.

The email is written where its mailer does, so that nothing fails that could be told now. Where no mailer of it writes
bytes (Anymail), only the fields are checked. Such a backend accepts headers that are numbers and lazily translated
texts, which Django cannot write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.errors import MessageError
from email.parser import BytesHeaderParser
from email.utils import getaddresses
from functools import lru_cache
from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp as djangos
from django.utils.encoding import punycode

from mailrail.addresses import InvalidDomain, ascii_domain
from mailrail.conf import settings

from ..compose import compose
from ..compose.addresses import mailboxes
from ..compose.common import writes_as_django
from ..compose.headers import HeaderTooLong, check_lines
from ..errors import CannotQueue, EmailTooLarge
from ..smtp import check_address
from ..smtp.as_django import COMMON_ADDRESS, utf8_address_of
from ..smtp.errors import InvalidAddress

ANYBODY = "anybody@example.com"
MAX_MESSAGE_ID_LENGTH = 255

encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
"""Encode what a column of JSON stores."""


def check_address_of(message: EmailMessage, address: str, where: str = "") -> None:
    """Raise ``CannotQueue``, which says ``where``, for what can be told to no server."""
    if len(address) <= 254 and COMMON_ADDRESS.fullmatch(address):
        return
    try:
        check_address(utf8_address_of(_djangos(), address, message.encoding))
    except InvalidAddress as error:
        raise CannotQueue(f"{where}{error}") from error
    except (ValueError, IndexError) as error:  # IndexError: Python 3.12.1 cannot parse "b@"
        raise CannotQueue(f"{where}{address!r} is no email address: {error}") from error


@lru_cache(maxsize=1)
def _djangos() -> Any:
    """Return a backend that knows how Django tells an address to a server. It is never opened."""
    return djangos.EmailBackend.__new__(djangos.EmailBackend)


def check_size(size: int) -> None:
    """Raise ``EmailTooLarge`` for more bytes than the setting allows."""
    if size > settings.mail_max_bytes:
        raise EmailTooLarge(
            f"The email has {size:,} bytes, and MAILRAIL['MAIL_MAX_BYTES'] allows {settings.mail_max_bytes:,}. "
            "Send a link to the file instead, or raise the limit if the server takes more."
        )


def check_text(value: Any, where: str) -> str:
    """Return a value as JSON. Raise ``CannotQueue`` for what no database stores: NUL, and halves of surrogate pairs.

    ``value``: what JSON holds. Nearly all of it is clean, and JSON's encoder finds that out much sooner than we would.
    """
    text = encode(value)
    if "\\u0000" in text or not (text.isascii() or text.isprintable()):
        _look_for_unstorable(value, where)
    return text


def _look_for_unstorable(value: Any, where: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise CannotQueue(
                f"{where} has a NUL character, which neither SMTP nor PostgreSQL can carry. Remove it."
            )
        if not value.isascii() and not value.isprintable() and _has_surrogate(value):
            raise CannotQueue(f"{where} has half of a surrogate pair, which is no character. Remove it.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _look_for_unstorable(key, where)
            _look_for_unstorable(item, where)
    elif isinstance(value, list | tuple):
        for item in value:
            _look_for_unstorable(item, where)


def check_message_id(message_id: str) -> None:
    if len(message_id) > MAX_MESSAGE_ID_LENGTH or not (message_id.isascii() and message_id.isprintable()):
        raise CannotQueue(
            f"The Message-ID {message_id[:60]!r}… must be at most {MAX_MESSAGE_ID_LENGTH} printable ASCII characters."
        )


def message_id_in(data: bytes) -> str:
    """Return the Message-ID that a finished message has, or an empty text."""
    return str(BytesHeaderParser().parsebytes(data).get("Message-ID") or "").strip()


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# -- by writing it ---------------------------------------------------------------------------------------------------


def size_composed(message: EmailMessage, message_id: str, date: datetime) -> int:
    """Compose it, and return its bytes. Raise what Django raises for headers and addresses, else ``CannotQueue``, which
    names the header, the alternative or the attachment. Raise what the class itself raises, where it writes its own
    message."""
    try:
        data = compose(message, message_id=message_id, date=date, smtputf8=True).data
    except InvalidDomain as error:  # of no recipient: of a Reply-To, or of another header
        raise CannotQueue(str(error)) from error
    except Exception as error:
        if writes_as_django(message):
            _tell_what_stands_against(message, error)
        raise
    check_size(len(data))
    if b"\0" in data:
        raise CannotQueue(
            "An address, an attached message or a header that is no text has a NUL character, which SMTP cannot carry. "
            "Remove it."
        )
    try:
        check_lines(data)
    except HeaderTooLong as error:
        raise CannotQueue(str(error)) from error
    return len(data)


def check_finished(data: bytes, message: EmailMessage) -> None:
    """Raise ``CannotQueue`` for what only the email's class can mend, as it has written the message itself."""
    _check_domains(data, message)
    _check_sender(data)


def _check_domains(data: bytes, message: EmailMessage) -> None:
    """Raise ``CannotQueue`` if its class has had Django encode a domain, for which ``faß.de`` is ``fass.de``."""
    head = data.partition(b"\r\n\r\n")[0].lower()
    for _, address in getaddresses([str(recipient) for recipient in message.recipients()]):
        domain = address.rpartition("@")[2]
        if domain.isascii():
            continue
        right, changed = ascii_domain(domain), punycode(domain)
        if f"@{changed}".lower().encode() in head and f"@{right}".lower().encode() not in head:
            raise CannotQueue(
                f"The email's class writes the domain {domain!r} as {changed!r}, which is another one. Give it the "
                f"address with {right!r}."
            )


def _check_sender(data: bytes) -> None:
    """Raise ``CannotQueue`` if its class writes several authors and no Sender (RFC 5322 3.6.2): only it can add one."""
    headers = BytesHeaderParser().parsebytes(data)
    authors = mailboxes("".join(str(headers.get("From", "")).splitlines()))
    if len(authors) > 1 and "Sender" not in headers:
        raise CannotQueue(
            f"from_email: the email's class writes {len(authors)} authors into From and no Sender. Have it write a "
            f"header Sender with one mailbox, such as {authors[0]!r}, or give the email one author."
        )


def _tell_what_stands_against(message: EmailMessage, error: Exception) -> None:
    """Raise ``CannotQueue``, unless Django's own error says it: those of headers and addresses do."""
    for where, write in _parts(message):
        try:
            write()
        except (ValueError, MessageError) as cause:
            if where.startswith("The header"):
                return
            raise _cannot(where, cause) from error
        except Exception as cause:
            raise _cannot(where, cause) from error
    if not isinstance(error, ValueError | MessageError):
        raise _cannot("The email", error) from error


def _cannot(where: str, error: Exception) -> CannotQueue:
    return CannotQueue(
        f"{where} cannot be written: {type(error).__name__}: {error}. Give text for text, str(…) of what is a number "
        "or is translated late, bytes for files, and types such as 'text/html'."
    )


def _parts(message: EmailMessage) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each part of an email by the name that its sender knows, with the attempt to write it alone."""
    for name, value in message.extra_headers.items():
        yield f"The header {name!r}", _attempt(extra_headers={name: value})
    yield "The body", _attempt(body=message.body)
    for n, entry in enumerate(getattr(message, "alternatives", ())):
        yield f"alternatives[{n}]", _attempt(alternatives=[entry])
    for n, entry in enumerate(message.attachments):
        name = f" ({entry[0]})" if isinstance(entry, tuple) and entry else ""
        yield f"attachments[{n}]{name}", _attempt(attachments=[entry])


def _attempt(**fields: Any) -> Callable[[], object]:
    probe = EmailMultiAlternatives(from_email=ANYBODY, to=[ANYBODY])
    vars(probe).update(fields)
    return lambda: compose(probe, smtputf8=True)


# -- without writing it -----------------------------------------------------------------------------------------------


def size_of_fields(message: EmailMessage, content: Mapping[str, Any], files: Mapping[str, bytes]) -> int:
    """Return about how many bytes a service is told: fields as JSON, and files in Base64. Raise ``CannotQueue``.

    ``content``, ``files``: what ``content.dump`` returns of the message.
    """
    for name, value in (("Subject", message.subject), *message.extra_headers.items()):
        _check_one_line(f"The header {str(name)!r}", f"{name}{value}")
    for name in ("to", "cc", "bcc", "reply_to"):
        for address in getattr(message, name):
            _check_one_line(name, str(address))
    _check_one_line("from_email", str(message.from_email))
    size = len(json.dumps(content, ensure_ascii=False)) + sum(
        -(-len(data) // 3) * 4 for data in files.values()
    )
    check_size(size)
    return size


def addresses_in(from_email: str) -> list[str]:
    """Return the addresses of the authors: a service may accept several, or none where its template has one."""
    return [address for _, address in getaddresses([from_email])] if from_email else []


def _check_one_line(where: str, text: str) -> None:
    """Raise for a line end, which ends a header and begins another. Nobody else may look."""
    if "\n" in text or "\r" in text:
        raise CannotQueue(f"{where} has a newline: {text[:60]!r}. Remove it.")
