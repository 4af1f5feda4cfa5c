"""What a reader finds in a mail, so that two mails can be compared; and what is wrong with one on the wire."""

from __future__ import annotations

import email
import re
from binascii import a2b_base64, a2b_qp
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage as ParsedMessage
from email.message import Message, MIMEPart
from email.utils import getaddresses
from itertools import pairwise
from typing import Any

import django
from django.core.mail import EmailMessage

ADDRESSES = {"from", "to", "cc", "reply-to", "sender"}
MADE_ANEW = {"date", "message-id"}


def by_django(message: EmailMessage) -> bytes:
    """What Django's SMTP backend gives to smtplib, with the last line ended as smtplib does it."""
    if django.VERSION >= (6, 0):
        data = message.message(policy=policy.SMTP).as_bytes()
    else:
        data = message.message().as_bytes(linesep="\r\n")  # type: ignore[call-arg, unused-ignore]
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def expected(message: EmailMessage) -> dict[str, Any]:
    """What a reader should find: what is read from Django's bytes, but for header values of Django 6.

    Those are the ones that Django gave to Python's email package, which in folding a long header of 3.13.0 loses
    spaces between encoded words and even breaks them.
    """
    data = by_django(message)
    if django.VERSION < (6, 0):
        return read(data)
    built = message.message(policy=policy.SMTP)
    found = read(data, values=False)
    if "=?" not in data.decode("latin-1").partition("\r\n\r\n")[0]:
        assert read(data)["values"] == [_as_built(built, name) for name in found["names"]]
    return {**found, "values": [_as_built(built, name) for name in found["names"]]}


def _as_built(built: ParsedMessage, name: str) -> Any:
    if name.lower() in MADE_ANEW:
        return "…"
    if name.lower() in ADDRESSES:
        return [
            (each.display_name, each.addr_spec)
            for value in built.get_all(name, [])
            for each in value.addresses
        ]
    return [str(value).strip() for value in built.get_all(name, [])]


def read(data: bytes, *, values: bool = True) -> dict[str, Any]:
    """Of Date and Message-ID it only matters that they are there."""
    parsed = email.message_from_bytes(data, policy=policy.default)
    raw = email.message_from_bytes(data, policy=policy.compat32)
    names = [name for name in raw if not _is_about_content(name)]
    return {
        "names": names,
        "values": [_value(raw, parsed, name) for name in names] if values else [],
        "content": _part(parsed),
    }


def _is_about_content(name: str) -> bool:
    return name.lower() == "mime-version" or name.lower().startswith("content-")


def _value(raw: Message, parsed: ParsedMessage, name: str) -> Any:
    if name.lower() in MADE_ANEW:
        return "…"
    if name.lower() in ADDRESSES:
        # Before 3.14 policy.default keeps the space between two encoded words of one name.
        unfolded = re.sub(r"\r?\n", "", ", ".join(map(str, raw.get_all(name) or ())))
        return [
            (str(make_header(decode_header(display))), address)
            for display, address in getaddresses([unfolded])
        ]
    return [str(value).strip() for value in parsed.get_all(name) or ()]


def _part(part: MIMEPart) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": part.get_content_type(),
        "charset": part.get_content_charset(),
        "disposition": part.get_content_disposition(),
        "filename": part.get_filename(),
        "id": part["Content-ID"],
    }
    if part.get_content_type() == "message/rfc822":
        found["message"] = [read(each.as_bytes(policy=policy.SMTP)) for each in part.iter_parts()]
    elif part.is_multipart():
        found["parts"] = [_part(each) for each in part.iter_parts()]
    else:
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found["content"] = (
            content.replace(b"\r\n", b"\n") if part.get_content_maintype() == "text" else content
        )
    return found


def check_wire(data: bytes) -> None:
    """RFC 5321 4.5.3.1.6, RFC 5322 2.1.1 and 2.2.3, RFC 2047 2 and 5, RFC 2045 6.7."""
    assert data.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    head = data.partition(b"\r\n\r\n")[0].decode("ascii")
    for line, following in pairwise([*head.split("\r\n"), ""]):
        if re.fullmatch(r"[A-Za-z0-9-]+: ", line) and not following.startswith(" "):
            continue  # a value may be empty
        assert re.fullmatch(r"(?:[A-Za-z0-9-]+:)? [!-~](?:.*[!-~])?", line), line
        assert len(line) <= 78 or " " not in line.strip().partition(": ")[2], line
    # Django 6.1 forgets it where there are alternatives or attachments, but no body.
    assert head.count("MIME-Version: 1.0") == 1
    for word in re.findall(r"=\?\S*", head):
        _check_encoded_word(word)
    for part in email.message_from_bytes(data, policy=policy.default).walk():
        _check_encoding(part)


def _check_encoded_word(word: str) -> None:
    assert len(word) <= 75
    match = re.fullmatch(r"=\?utf-8\?([qb])\?([^?\s]+)\?=,?", word)
    assert match, word
    if match[1] == "q":
        assert re.fullmatch(r"(?:[A-Za-z0-9!*+/_-]|=[0-9A-F]{2})+", match[2]), word  # RFC 2047 5 (3)
        a2b_qp(match[2], header=True).decode()
    else:
        a2b_base64(match[2]).decode()


def _check_encoding(part: Message) -> None:
    assert not part.defects
    if part.is_multipart():
        return
    encoding, body = part["Content-Transfer-Encoding"], part.get_payload()
    assert isinstance(body, str)
    if encoding == "quoted-printable":
        for line in body.splitlines():
            assert len(line) <= 76 and re.fullmatch(r"(?:[\t !-<>-~]|=[0-9A-F]{2})*=?", line), line
            assert not line.endswith((" ", "\t")), line
    elif encoding == "base64":
        assert re.fullmatch(r"(?:[A-Za-z0-9+/=]{1,76}\n?)*", body.replace("\r\n", "\n"))
    else:
        assert encoding == ("7bit" if body.isascii() else "8bit")
