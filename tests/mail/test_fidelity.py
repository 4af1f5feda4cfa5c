"""What arrives by the queue equals, for a reader, what Django's own SMTP backend would have sent."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage as Letter
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from mailrail.mail.smtp import close_pools
from mailrail.testing import drain

from ..smtp_server import Mail, ScriptedServer
from .reading import check_wire, expected, read

pytestmark = pytest.mark.django_db(transaction=True)

ME, YOU = "Me <me@example.com>", "you@example.com"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200


def plain(**more: Any) -> EmailMessage:
    return EmailMessage(**{"subject": "Hi", "body": "Text.\n", "from_email": ME, "to": [YOU], **more})


def html_only() -> EmailMessage:
    message = plain(body="<p>Grüße</p>")
    message.content_subtype = "html"
    return message


def alternatives() -> EmailMessage:
    message = EmailMultiAlternatives("Hi", "Text ✓", ME, [YOU])
    message.attach_alternative("<p>HTML ✓</p>", "text/html")
    message.attach_alternative("<html amp4email></html>", "text/x-amp-html")
    message.attach_alternative("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "text/calendar; method=REQUEST")
    message.attach("invite.ics", "BEGIN:VCALENDAR\nEND:VCALENDAR\n", "text/calendar")
    return message


def inline_image() -> EmailMessage:
    message = EmailMultiAlternatives("Hi", "Text", ME, [YOU])
    message.attach_alternative('<img src="cid:logo">', "text/html")
    if django.VERSION >= (6, 0):
        from email.message import MIMEPart

        image: Any = MIMEPart()
        image.set_content(PNG, "image", "png", disposition="inline", cid="<logo>")
    else:
        image = MIMEImage(PNG, "png")
        image.add_header("Content-ID", "<logo>")
        image.add_header("Content-Disposition", "inline", filename="logo.png")
    message.attach(image)
    return message


def same_names() -> EmailMessage:
    message = plain()
    for data in (b"one", b"two", PNG):
        message.attach("a.bin", data, "application/octet-stream")
    message.attach("Übersicht.txt", "Käse\n", "text/plain")
    message.attach("notes.unknownkind", b"\0\1\2")
    return message


def letter_inside() -> EmailMessage:
    letter = Letter()
    letter["Subject"], letter["From"], letter["To"] = "Inside", "a@example.com", "b@example.com"
    letter.set_content("Inside.\n")
    message = plain()
    message.attach("letter.eml", letter.as_bytes() if django.VERSION < (6, 0) else letter, "message/rfc822")
    return message


def mime_base() -> EmailMessage:
    part = MIMEBase("application", "x-own")
    part.set_payload("payload")
    part.add_header("Content-Disposition", "attachment", filename="own.bin")
    message = plain()
    message.attach(part)
    return message


class Signed(EmailMessage):
    """Writes its message in its own way."""

    def message(self, **kwargs: Any) -> Any:
        made = super().message(**kwargs)
        made["X-Signature"] = "0123"
        return made


CASES: dict[str, Callable[[], EmailMessage]] = {
    "plain": plain,
    "html only": html_only,
    "alternatives, calendar, AMP": alternatives,
    "an inline image": inline_image,
    "attachments of one name": same_names,
    "message/rfc822": letter_inside,
    "a subclass": lambda: Signed("Hi", "Text.\n", ME, [YOU]),
    "no ASCII": lambda: plain(
        subject=("Größe 漢字 " * 12).strip(), body="Käse 👍\n" * 200, from_email="Jörg <me@example.com>"
    ),
    "IDN": lambda: plain(to=["Ann <ann@exämple.com>"], from_email="me@müller.de"),
    "everybody": lambda: plain(
        to=["A <a@example.com>", "b@example.com"], cc=["c@example.com"], bcc=["secret@example.com"],
        reply_to=["r@example.com", "Ü <s@example.com>"],
        headers={"X-Own": "1", "Message-ID": "<own@example.com>", "Date": "Tue, 24 Nov 2026 15:05:52 +0100"},
    ),
    "dots": lambda: plain(body=".\n..\nFrom me\n.end"),
    "a long line": lambda: plain(body="x" * 3000),
}  # fmt: skip
if django.VERSION < (6, 0):  # deprecated there
    CASES["a MIMEBase"] = mime_base
if django.VERSION < (6, 1):
    CASES["an encoding"] = lambda: _encoded("iso-8859-1")


def _encoded(encoding: str) -> EmailMessage:
    message = plain(body="Grüße\n")
    message.encoding = encoding
    return message


@pytest.mark.parametrize("case", CASES)
def test_what_arrives_is_what_django_would_have_sent(
    queueing: Callable[..., None], settings: Any, case: str
) -> None:
    message = CASES[case]()
    would = _by_django(settings, CASES[case]())
    with ScriptedServer() as server:
        queueing(server.port)
        assert message.send() == 1
        drain("mailrail.mail")
        [arrived] = server.mails
        close_pools()
    if case != "a MIMEBase":  # which says nothing of its encoding
        check_wire(arrived.content)
    assert read(arrived.content) == expected(CASES[case]())
    assert (arrived.sender, arrived.recipients) == (would.sender, would.recipients)
    assert b"secret@" not in arrived.content


def _by_django(settings: Any, message: EmailMessage) -> Mail:
    """Its envelope, by Django's own backend."""
    smtp = "django.core.mail.backends.smtp.EmailBackend"
    with ScriptedServer() as server:
        if django.VERSION >= (6, 1):
            settings.MAILERS = {
                "default": {"BACKEND": smtp, "OPTIONS": {"host": "127.0.0.1", "port": server.port}}
            }
        else:
            settings.EMAIL_BACKEND, settings.EMAIL_HOST, settings.EMAIL_PORT = smtp, "127.0.0.1", server.port
        message.send()
        [mail] = server.mails
    return mail
