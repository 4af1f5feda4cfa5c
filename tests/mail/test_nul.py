"""Texts with a NUL arrive: whoever sends a request chooses its path, and error mail about it must not be lost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.test import RequestFactory
from django.utils.log import AdminEmailHandler

from mailrail.mail import Email
from mailrail.mail.compose import compose
from mailrail.mail.queueing.serialize import dump, load
from mailrail.testing import drain
from tests.smtp_server import ScriptedServer

from .reading import check_wire

PATH = "/a\0b/" + "long/" * 30


def _error() -> logging.LogRecord:
    try:
        raise ValueError("no such file: 'a\0b'")
    except ValueError:
        record = logging.LogRecord("django", logging.ERROR, __file__, 1, "Error: %s", (PATH,), sys.exc_info())
    request = RequestFactory().get("/")
    request.path_info = request.path = PATH
    vars(record)["request"] = request
    return record


@pytest.mark.parametrize("include_html", [False, True])
def test_error_mail_for_a_path_and_an_exception_with_a_nul_arrives(
    include_html: bool, on: str, queueing: Callable[..., None], settings: Any
) -> None:
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    with ScriptedServer() as server:
        queueing(server.port)
        AdminEmailHandler(include_html=include_html).emit(_error())
        assert "\N{REPLACEMENT CHARACTER}" in Email.objects.get().subject
        drain("mailrail.mail")
        [arrived] = server.mails
    assert b"\0" not in arrived.content
    parsed = message_from_bytes(arrived.content, policy=policy.compat32)
    assert str(make_header(decode_header(parsed["Subject"]))).endswith(f"Error: {PATH}")
    texts = [part.get_payload(decode=True) for part in parsed.walk() if not part.is_multipart()]
    assert len(texts) == 1 + include_html and b"no such file: 'a\0b'" in texts[0]


TEXTS = ["a\0b", "\0", "é\0\n=\0\n", "漢\0" * 100, "\0 \n" + "x" * 60 + "\0"]


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_a_nul_in_any_text_is_read_as_it_was_written(text: str, eight_bit: bool) -> None:
    message = EmailMultiAlternatives("s", text, "me@example.com", ["you@example.com"])
    message.attach_alternative(f"<p>{text}", "text/html")
    message.attach("a.txt", f"{text}.", "text/plain")
    content, files = dump(message)
    data = compose(load(content, dict(files)), eight_bit=eight_bit).data
    check_wire(data)
    texts: list[Any] = [
        part.get_payload(decode=True) for part in message_from_bytes(data).walk() if not part.is_multipart()
    ]
    found = [each.decode().replace("\r\n", "\n").rstrip("\n") for each in texts]
    assert found == [each.rstrip("\n") for each in (text, f"<p>{text}", f"{text}.")]


@pytest.mark.parametrize("name", ["Subject", "X-Path", "Comments"])
@pytest.mark.parametrize("text", ["a\0b", "é\0", "word " * 40 + "\0 end"])
def test_a_nul_in_a_header_for_people_is_an_encoded_word(name: str, text: str) -> None:
    message = EmailMessage("s", "b", "me@example.com", ["you@example.com"])
    if name == "Subject":
        message.subject = text
    else:
        message.extra_headers = {name: text}
    content, files = dump(message)
    data = compose(load(content, dict(files))).data
    check_wire(data)
    assert str(make_header(decode_header(message_from_bytes(data)[name]))) == text
