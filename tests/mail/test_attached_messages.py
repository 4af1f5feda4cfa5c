"""An attached message arrives as it was: signatures, and people who look for traces, depend on each octet."""

from __future__ import annotations

import email
from collections.abc import Callable
from email import policy
from email.message import EmailMessage as Part
from email.mime.message import MIMEMessage
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage

from mailrail.mail.compose import compose
from mailrail.mail.queueing.serialize import dump, load
from mailrail.testing import drain
from tests.smtp_server import ScriptedServer

MODERN = django.VERSION >= (6, 0)
LEAF = "Content-Type: text/plain\n\nhello"


def _multipart(
    boundary: str, *parts: str, closed: bool = True, preamble: str = "", epilogue: str = "", end: str = "\n"
) -> str:
    head = f'Content-Type: multipart/mixed; boundary="{boundary}"\n\n{preamble}'
    body = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return head + body + (f"--{boundary}--{end}{epilogue}" if closed else "")


SOURCES = {
    "trailing space in a folded header": "Subject: a \n b\t\n  c\nTo: x@y.de\n\nbody\n",
    "long header on one line": f"Subject: {'word ' * 60}end\nReferences: <{'x' * 200}@y.de>\n\nbody\n",
    "odd white space in a header": "Subject: a  b\tc   d\nX-Y: \n z\n\nbody\n",
    "encoded words": "Subject: =?iso-8859-1?Q?Gr=F6=DFe?=\n =?utf-8?b?w7Y=?=\n\nbody\n",
    "header in raw Latin-1": "Subject: Gr\xf6\xdfe\n und\n\nbody\n",
    "body in raw Latin-1": "Content-Type: text/plain; charset=iso-8859-1\n\nGr\xf6\xdfe \n \nFrom me\n.\n",
    "base64 in odd lines": "Content-Type: a/b\nContent-Transfer-Encoding: base64\n\nAAAA\nAA==\n",
    "not closed": _multipart("a", LEAF, LEAF, closed=False),
    "preamble and epilogue": _multipart("a", LEAF, preamble="pre\n", epilogue="\nepilogue\n\n"),
    "nested, no empty line behind it": _multipart("a", _multipart("b", LEAF, LEAF, end=""), LEAF),
    "nested, an empty line behind it": _multipart("a", _multipart("b", LEAF, LEAF), LEAF),
    "nested, two empty lines behind it": _multipart("a", _multipart("b", LEAF) + "\n", LEAF),
    "nested, not closed": _multipart("a", _multipart("b", LEAF, closed=False)[:-1], LEAF),
    "nested, neither closed": _multipart("a", _multipart("b", LEAF, closed=False)[:-1], closed=False),
    "nested, closed in one that is not": _multipart("a", _multipart("b", LEAF, end=""), closed=False),
    "attached to an attached one": "Content-Type: message/rfc822\n\nSubject: x \n y\n\n" + "line\n" * 3,
    "multipart in an attached one": _multipart(
        "a", "Content-Type: message/rfc822\n\n" + _multipart("b", LEAF, end=""), LEAF
    ),
    "no boundary": "Content-Type: multipart/mixed\n\ntext\n",
    "boundary that does not come": 'Content-Type: multipart/mixed; boundary="zz"\n\ntext\n',
    "nothing in it": "Subject: x\n\n",
}
AS_BYTES_ONLY = {
    "no white space behind a colon": "Subject:x\nTo:   y@z.de\nX-Y:\n folded\n\nbody\n",
    "white space behind a boundary": "Content-Type: multipart/mixed; boundary=q\n\n--q  \n"
    + LEAF
    + "\n--q--  \n",
    "an empty part": _multipart("a", ""),
    "no headers": "body only\n",
    "nothing but headers": "Subject: x\n",
}


def _message(body: str = "See below.") -> EmailMessage:
    return EmailMessage("Look  here", body, "me@example.com", ["you@example.com"])


def _as_bytes(source: bytes) -> EmailMessage:
    message = _message()
    message.attach("a.eml", source, "message/rfc822")
    return message


def _parsed(source: bytes) -> EmailMessage:
    message = _message()
    message.attach("a.eml", email.message_from_bytes(source), "message/rfc822")
    return message


def _parsed_by_the_newer_api(source: bytes) -> EmailMessage:
    message = _message()
    message.attach("a.eml", email.message_from_bytes(source, policy=policy.default), "message/rfc822")
    return message


def _in_a_part(source: bytes) -> EmailMessage:
    message = _message()
    if MODERN:
        part: Any = Part()
        part.set_content(email.message_from_bytes(source, policy=policy.default))
    else:
        part = MIMEMessage(email.message_from_bytes(source))
    message.attach(part)
    return message


FORMS: list[Callable[[bytes], EmailMessage]] = [_as_bytes, _parsed, _parsed_by_the_newer_api, _in_a_part]


def _stored(message: EmailMessage) -> EmailMessage:
    content, files = dump(message)
    return load(content, dict(files))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SOURCES)
def test_an_attached_message_is_kept_octet_for_octet(
    name: str, form: Callable[[bytes], EmailMessage]
) -> None:
    source = SOURCES[name].encode("latin-1")
    wanted = b"\r\n\r\n" + source.replace(b"\n", b"\r\n") + b"\r\n--"
    message = form(source)
    assert wanted in compose(message).data
    assert wanted in compose(_stored(message)).data
    if source.isascii() and "boundary" not in name:  # Python reads one line more of a multipart without parts
        message.body = "Größe"
        data = compose(_stored(message), eight_bit=False).data
        assert data.isascii() and wanted in data


@pytest.mark.parametrize("name", AS_BYTES_ONLY)
def test_one_that_is_attached_as_bytes_is_not_even_parsed(name: str) -> None:
    source = AS_BYTES_ONLY[name].encode()
    wanted = b"\r\n\r\n" + source.replace(b"\n", b"\r\n") + b"\r\n--"
    assert wanted in compose(_stored(_as_bytes(source))).data


def test_the_parts_of_a_signed_one_stay_as_they_were() -> None:
    source = (
        b'Content-Type: multipart/signed; boundary="s"\n\n--s\nContent-Type: text/plain;\n  charset="utf-8" \n'
        b"X-Y: a \n b\n\nsigned \n--s\nContent-Type: application/pgp-signature\n\nx\n--s--\n"
    )
    part: Any = email.message_from_bytes(source, policy=policy.default if MODERN else policy.compat32)
    inner = source.partition(b"--s\n")[2].replace(b"\n", b"\r\n")
    message = _parsed(source)
    assert inner in compose(_stored(message)).data
    if MODERN:
        message = _message()
        message.attach(part)
        assert inner in compose(_stored(message)).data


def test_without_8bitmime_only_what_is_not_ascii_changes() -> None:
    source = "Subject:x \n y\nContent-Type: text/plain; charset=utf-8\n\nGröße\n".encode()
    data = compose(_as_bytes(source), eight_bit=False).data
    assert data.isascii()
    assert b"\r\n\r\nSubject:x \r\n y\r\nContent-Type: text/plain; charset=" in data
    assert b"R3LDtsOfZQ" in data


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("form", FORMS)
def test_it_arrives_so(form: Callable[[bytes], EmailMessage], queueing: Callable[..., None]) -> None:
    source = SOURCES["trailing space in a folded header"] + "--not closed\n"
    with ScriptedServer() as server:
        queueing(server.port)
        form(source.encode()).send()
        drain("mailrail.mail")
        [arrived] = server.mails
    assert b"\r\n\r\n" + source.replace("\n", "\r\n").encode() + b"\r\n--" in arrived.content
