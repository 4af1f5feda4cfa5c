"""No link, id or address in a header becomes an encoded word or is cut, whatever else the message holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.header import decode_header, make_header
from email.message import EmailMessage as Part
from email.mime.base import MIMEBase
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailrail import mail
from mailrail.mail import CannotQueue
from mailrail.mail.compose import compose
from mailrail.mail.smtp import EmailBackend, close_pools
from mailrail.testing import drain
from tests.smtp_server import ScriptedServer

from .reading import read

MODERN = django.VERSION >= (6, 0)
thorough = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def _inline_image(message: EmailMessage) -> None:
    part: Any = Part() if MODERN else MIMEBase("image", "png")
    if MODERN:
        part.set_content(b"\x89PNG", "image", "png", cid="<logo>", disposition="inline")
    message.attach(part)


class Older(EmailMultiAlternatives):
    """As classes from before Django 6 are, whose ``message()`` knows no policy."""

    def message(self) -> Any:  # type: ignore[override, unused-ignore]
        return super().message()


TRIGGERS: dict[str, Callable[[Any], object]] = {
    "nothing": lambda message: None,
    "two spaces": lambda message: setattr(message, "subject", "News  of today"),
    "encoded word": lambda message: setattr(message, "subject", "=?utf-8?q?H=C3=A9?="),
    "Sender": lambda message: message.extra_headers.setdefault("Sender", "post@example.com"),
    "Resent-From": lambda message: message.extra_headers.setdefault("Resent-From", "Größe <o@example.com>"),
    "Content-Language": lambda message: message.extra_headers.setdefault("Content-Language", "de"),
    "underscore": lambda message: message.extra_headers.setdefault("X_Campaign", "7"),
    "inline image": _inline_image,
    "calendar": lambda message: message.attach_alternative(
        "BEGIN:VCALENDAR", "text/calendar; method=REQUEST"
    ),
    "attached message": lambda message: message.attach("a.eml", b"Subject: inner\r\n\r\nx", "message/rfc822"),
    "another charset": lambda message: setattr(message, "encoding", "iso-8859-1"),
    "own message()": lambda message: setattr(message, "__class__", Older),
}
PLAIN = "".join(map(chr, range(0x21, 0x7F)))
of_ids = st.sampled_from(
    ["References", "In-Reply-To", "Message-ID", "Resent-Message-ID", "Supersedes", "references", "List-ID"]
)
of_links = st.sampled_from(
    ["List-Unsubscribe", "List-Help", "List-Archive", "Archived-At", "Content-Location", "list-post"]
)
of_parameters = st.sampled_from(["DKIM-Signature", "Autocrypt", "Authentication-Results", "Received"])
of_addresses = st.sampled_from(["Sender", "Resent-Sender", "Disposition-Notification-To", "Return-Path"])
ids = st.builds(
    "<{}@{}.example>".format,
    st.text("abcXYZ019.-_+=", min_size=40, max_size=500)
    .filter(lambda text: ".." not in text)
    .map("x{}x".format),
    st.text("abcxyz", min_size=1, max_size=50),
)
links = st.text(PLAIN.translate(dict.fromkeys(map(ord, '<>",;'))), min_size=60, max_size=900).map(
    "<https://example.com/{}>".format
)
parameters = st.text("abcXYZ019+/=", min_size=79, max_size=900).map("b={}".format)
long_addresses = st.builds(
    "{}@{}.{}.example".format,
    st.text("abcxyz", min_size=50, max_size=64),
    st.text("abcxyz", min_size=1, max_size=63),
    st.text("abcxyz", min_size=1, max_size=63),
)


def _several(word: st.SearchStrategy[str], between: str, most: int) -> st.SearchStrategy[str]:
    return st.lists(word, min_size=1, max_size=most).map(between.join)


headers = st.one_of(
    st.tuples(of_ids, ids),
    st.tuples(st.sampled_from(["References", "In-Reply-To"]), _several(ids, " ", 4)),
    st.tuples(of_links, links),
    st.tuples(st.sampled_from(["List-Unsubscribe", "List-Post"]), _several(links, ", ", 3)),
    st.tuples(of_parameters, _several(parameters, "; ", 3)),
    st.tuples(of_addresses, long_addresses),
    st.tuples(of_addresses, long_addresses.map("Ann Example <{}>".format)),
    st.tuples(st.sampled_from(["X-Link", "Feedback-ID", "X-Data"]), parameters),
)


def _make(name: str, value: str, trigger: str) -> EmailMessage:
    message = EmailMultiAlternatives("News", "Hello", "shop@example.com", ["a@example.com"])
    message.extra_headers = {name: value}
    TRIGGERS[trigger](message)
    return message


def _lines(data: bytes, name: str) -> list[str]:
    head = data.partition(b"\r\n\r\n")[0].decode("ascii")
    found = re.search(rf"(?:^|\r\n){name}:((?:[^\r]|\r\n[ \t])*)", head)
    assert found, head
    return found[1].split("\r\n")


@thorough
@given(headers, st.sampled_from(sorted(TRIGGERS)), st.booleans())
def test_words_longer_than_a_line_stay_whole(header: tuple[str, str], trigger: str, eight_bit: bool) -> None:
    name, value = header
    data = compose(_make(name, value, trigger), eight_bit=eight_bit).data
    lines = _lines(data, name)
    assert "".join(lines)[1:] == value
    assert all(line.strip() for line in lines), "a line is empty"
    assert all(len(line) <= 998 for line in data.decode("ascii").split("\r\n"))


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_long_addresses_behind_names_that_are_not_ascii_stay_whole(trigger: str) -> None:
    address = "a" * 60 + "@" + "b" * 60 + ".example"
    message = _make("Resent-To", f"Größe Wörter <{address}>, Jürgen <{address}>", trigger)
    message.to = [f"Größe <{address}>"]
    data = compose(message).data
    assert " ".join(_lines(data, "Resent-To")).count(f"<{address}>") == 2
    assert f"<{address}>" in " ".join(_lines(data, "To"))


NOT_ASCII = {
    ("List-Unsubscribe", "<https://exämple.com/ü?q=ö%20>, <mailto:a@b.de?subject=grüße>"): (
        "<https://xn--exmple-cua.com/%C3%BC?q=%C3%B6%20>, <mailto:a@b.de?subject=gr%C3%BC%C3%9Fe>"
    ),
    ("List-Post", "NO (schöne Grüße)"): "NO (schöne Grüße)",
    ("List-ID", '"Größe, AG" <a.example.com>'): "Größe, AG <a.example.com>",
    ("Archived-At", "<https://example.com/ä>"): "<https://example.com/%C3%A4>",
    ("Content-Location", "https://example.com/ä"): "https://example.com/%C3%A4",
    ("Disposition-Notification-To", "Größe <a@exämple.com>"): "Größe <a@xn--exmple-cua.com>",
}


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize(("name", "value"), NOT_ASCII)
def test_a_link_that_is_not_ascii_becomes_its_uri_and_only_phrases_are_encoded(
    name: str, value: str, trigger: str
) -> None:
    if trigger == "Content-Language" and name.startswith("Content-"):
        trigger = "two spaces"
    lines = _lines(compose(_make(name, value, trigger)).data, name)
    written = "".join(lines)[1:]
    assert str(make_header(decode_header(written))) == NOT_ASCII[name, value]
    assert re.findall("<.*?>", written) == re.findall("<.*?>", NOT_ASCII[name, value])


MAILBOXES = {
    "z@faß.de": "z@xn--fa-hia.de",
    "<z@faß.de>": "<z@xn--fa-hia.de>",
    "z@faß.de (Größe)": "z@xn--fa-hia.de (Größe)",
    'Größe Wörter <z@faß.de>, y@faß.de, "Ä@ß, AG" <x@b.example>': (
        "Größe Wörter <z@xn--fa-hia.de>, y@xn--fa-hia.de, Ä@ß, AG <x@b.example>"
    ),
}
OF_MAILBOXES = [
    "Disposition-Notification-To",
    "Return-Path",
    "errors-to",
    "Return-Receipt-To",
    "Mail-Followup-To",
    "X-Confirm-Reading-To",
]


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("name", OF_MAILBOXES)
@pytest.mark.parametrize("value", MAILBOXES)
def test_addresses_in_headers_that_django_takes_for_text_have_their_domains_in_ascii(
    name: str, value: str, trigger: str
) -> None:
    written = "".join(_lines(compose(_make(name, value, trigger)).data, name))[1:]
    assert written.isascii() and str(make_header(decode_header(written))) == MAILBOXES[value]
    assert [word for word in written.split() if "z@" in word] == [
        word for word in MAILBOXES[value].split() if "z@" in word
    ]


@pytest.mark.parametrize("trigger", ["nothing", "two spaces"])
@pytest.mark.parametrize("name", OF_MAILBOXES)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("größe@example.com", "which is not ASCII before its @"),
        ("Ann <größe@example.com>", "which is not ASCII before its @"),
        ("ann@☃.example", "is no domain by IDNA 2008"),
    ],
)
def test_a_mailbox_without_a_form_in_ascii_is_refused(
    name: str, value: str, message: str, trigger: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compose(_make(name, value, trigger))


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("name", ["References", "In-Reply-To", "Resent-Message-ID"])
def test_an_id_that_is_not_ascii_is_refused_by_name(name: str, trigger: str) -> None:
    with pytest.raises(ValueError, match=f"The header '{name}' holds ids"):
        compose(_make(name, "<größe@example.com>", trigger))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("trigger", ["nothing", "two spaces", "attached message"])
@pytest.mark.parametrize("name", ["References", "List-Unsubscribe", "DKIM-Signature", "X-Data"])
def test_the_longest_words_that_smtp_carries_arrive_behind_a_name_on_a_line_of_its_own(
    name: str, trigger: str, queueing: Callable[..., None]
) -> None:
    fits, longest = f"<{'x' * (994 - len(name))}>", f"<{'x' * 995}>"
    with ScriptedServer() as server:
        queueing(server.port)
        for word in (fits, f"{fits[:-1]}x>", longest, f"{longest} <{'y' * 995}>"):
            _make(name, word, trigger).send()
            drain("mailrail.mail")
    found = [_lines(each.content, name) for each in server.mails]
    assert found[0] == [f" {fits}"]
    assert found[1:] == [
        ["", f" {fits[:-1]}x>"],
        ["", f" {longest}"],
        ["", f" {longest}", f" <{'y' * 995}>"],
    ]


@pytest.mark.parametrize("trigger", ["nothing", "two spaces", "attached message"])
@pytest.mark.parametrize("name", ["References", "List-Unsubscribe", "DKIM-Signature"])
def test_a_word_longer_than_smtp_carries_is_refused_by_name(name: str, trigger: str, db: None) -> None:
    message = _make(name, f"<{'x' * 996}>", trigger)
    with pytest.raises(CannotQueue, match=f"A line of the header '{name}' has"):
        mail.queue(message)
    with ScriptedServer() as server:
        options: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
        with pytest.raises(ValueError, match=f"A line of the header '{name}' has"):
            EmailBackend(host="127.0.0.1", port=server.port, **options).send_messages([message])
        assert server.mails == []
    close_pools()


@pytest.mark.skipif(not MODERN, reason="Django 5.2 leaves such a line as it is, and the queue refuses it")
@pytest.mark.parametrize("trigger", ["two spaces", "attached message"])
def test_text_for_people_that_is_longer_than_a_line_may_be_is_encoded(trigger: str) -> None:
    lines = _lines(compose(_make("X-Data", "x" * 1200, trigger)).data, "X-Data")
    assert all(len(line) <= 998 for line in lines)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("trigger", [name for name in TRIGGERS if name != "own message()"])
def test_the_link_arrives_whole_from_the_queue_and_from_the_backend(
    trigger: str, queueing: Callable[..., None]
) -> None:
    link = f"<https://example.com/{'aB3-_x9' * 30}>"
    with ScriptedServer() as server:
        queueing(server.port)
        _make("List-Unsubscribe", link, trigger).send()
        drain("mailrail.mail")
        options: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
        EmailBackend(host="127.0.0.1", port=server.port, **options).send_messages(
            [_make("List-Unsubscribe", link, trigger)]
        )
        close_pools()
        queued, sent = server.mails
        for arrived in (queued, sent):
            assert "".join(_lines(arrived.content, "List-Unsubscribe"))[1:] == link
    assert read(queued.content)["content"] == read(sent.content)["content"]
