"""Composing, rule by rule."""

from __future__ import annotations

import email
from binascii import b2a_base64, b2a_qp
from datetime import UTC, datetime, timedelta, timezone
from email import policy
from email.message import EmailMessage as MimeMessage
from email.mime.text import MIMEText
from itertools import pairwise
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.test import override_settings
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from mailrail.mail.compose import compose
from mailrail.mail.compose.common import new_message_id, write
from mailrail.mail.compose.headers import Uncommon

from .reading import by_django, check_wire, expected, read

MODERN = django.VERSION >= (6, 0)


def mail(subject: Any = "Hi", body: Any = "Hello", to: Any = "ann@example.com", **more: Any) -> EmailMessage:
    to = [to] if isinstance(to, str) else to
    return EmailMultiAlternatives(subject, body, more.pop("sender", "shop@example.com"), to, **more)


def attached(*attachment: Any, **more: Any) -> EmailMessage:
    message = mail(**more)
    message.attachments = [*attachment]
    return message


def changed(**attributes: Any) -> EmailMessage:
    message = mail()
    vars(message).update(attributes)
    return message


class WithTags(EmailMultiAlternatives):
    """As Anymail's: more attributes, the same message."""

    def __init__(self, *args: Any, tags: list[str] | None = None, **kwargs: Any) -> None:
        self.tags = tags
        super().__init__(*args, **kwargs)


class Signed(EmailMessage):
    def message(self, **kwargs: Any) -> Any:
        mime = super().message(**kwargs)
        mime["X-Signature"] = "abc"
        return mime


FAST = {
    "text": lambda: mail(),
    "of the base class": lambda: EmailMessage("Hi", "Hello", "shop@example.com", ["ann@example.com"]),
    "of a class with more attributes": lambda: WithTags(
        "Hi", "Hello", "shop@example.com", ["a@b.de"], tags=["x"]
    ),
    "to nobody": lambda: mail(to=[]),
    "to many": lambda: mail(to=[f"guest-{n}@example.com" for n in range(100)]),
    "with everybody": lambda: mail(cc=["c@d.de"], bcc=["secret@d.de"], reply_to=["r@d.de", "s@d.de"]),
    "HTML and text": lambda: mail(alternatives=[("<p>Hello</p>", "text/html")]),
    "HTML only": lambda: mail(body="", alternatives=[("<p>Hello</p>", "text/html")]),
    "content_subtype html": lambda: changed(content_subtype="html"),
    "two alternatives": lambda: mail(alternatives=[("<p>", "text/x-amp-html"), ("<p>", "text/html")]),
    "nothing at all": lambda: mail("", "", []),
    "subject, not ASCII": lambda: mail("Größe 漢字 👩‍👩‍👧 e\u0301 שלום"),
    "subject, long": lambda: mail("word " * 300 + "end"),
    "subject, lazy": lambda: mail(gettext_lazy("Hi")),
    "body, not ASCII": lambda: mail(body="Größe 漢字\n👍"),
    "body, safe string": lambda: mail(body=mark_safe("Hello")),
    "body, long lines": lambda: mail(body="x" * 5000 + "\né" + "漢" * 5000),
    "body, CR and LF": lambda: mail(body="a\rb\r\nc\n\r\n"),
    "body, dots, From, spaces": lambda: mail(body=".\n..\nFrom me \n\t\n "),
    "name": lambda: mail(to="Ann Example <ann@example.com>"),
    "name with a dot": lambda: mail(to="Dr. Ann <ann@example.com>"),
    "name in quotes": lambda: mail(to='"Firm, Inc. <x@y>; (z)" <ann@example.com>'),
    "name, not ASCII": lambda: mail(
        to="Łukasz 王小明 <ann@example.com>", sender='"Größe, AG" <a@example.com>'
    ),
    "name, long": lambda: mail(to="Name " * 40 + "<ann@example.com>"),
    "name, long, not ASCII": lambda: mail(to="Größe " * 40 + "<ann@example.com>"),
    "domain, not ASCII": lambda: mail(to=["ann@exämple.com", "Ann <ann@例え.jp>"]),
    "header": lambda: mail(headers={"X-One": "two", "List-Unsubscribe": "<https://example.com/>"}),
    "header, not ASCII": lambda: mail(headers={"X-One": "Größe"}),
    "own From": lambda: mail(headers={"From": "Other <other@example.com>"}),
    "own Date and Message-ID": lambda: mail(
        headers={"Date": "Tue, 24 Nov 2026 15:05:52 -0000", "Message-ID": "<a.b@c.de>"}
    ),
    "text attached": lambda: attached(("a.txt", "text", "text/plain")),
    "bytes attached": lambda: attached(("a.pdf", b"\0\r\n\xff" * 999, "application/pdf")),
    "JSON attached": lambda: attached(("a.json", "{}", "application/json")),
    "calendar attached": lambda: attached(("a.ics", "BEGIN:VCALENDAR", "text/calendar")),
    "filename, not ASCII": lambda: attached(("Größe.pdf", b"x", "application/pdf")),
    "filename, long": lambda: attached(("x" * 200 + ".pdf", b"x", "application/pdf")),
    "no filename": lambda: attached((None, b"x", "application/pdf")),
    "two of one name": lambda: attached(("a.txt", "1", "text/plain"), ("a.txt", "2", "text/plain")),
    "nothing but an attachment": lambda: attached(("a.txt", "", "text/plain"), body=""),
    "everything": lambda: attached(
        ("a.txt", "text", "text/plain"), ("é.pdf", b"x", "a/b"), alternatives=[("<p>", "text/html")]
    ),
}


@pytest.mark.parametrize("name", FAST)
def test_this_is_common_and_reads_as_what_django_sends(name: str) -> None:
    message = FAST[name]()
    data = write(message, None, None)
    assert read(data) == expected(message)
    check_wire(data)


inner = mail("Inner", "Inside")


def _part() -> MimeMessage:
    part = MimeMessage()
    part.set_content(b"\x89PNG", "image", "png", cid="<logo>", disposition="inline")
    return part


UNCOMMON = {
    "own message()": lambda: Signed("Hi", "Hello", "shop@example.com", ["a@b.de"]),
    "instance's own message()": lambda: changed(message=inner.message),
    "iso-8859-1": lambda: changed(encoding="iso-8859-1", body="Größe"),
    "part, or one of another API": lambda: attached(_part() if MODERN else MIMEText("text")),
    "message/rfc822": lambda: attached((None, inner, "message/rfc822")),
    "alternative of bytes": lambda: mail(alternatives=[(b"\0", "application/x-y")]),
    "type with parameters": lambda: mail(alternatives=[("BEGIN", "text/calendar; method=REQUEST")]),
    "bytes as text": lambda: attached(("a.bin", bytearray(b"x"), "application/x-y")),
    "two in one entry": lambda: mail(to="ann@example.com, bob@example.com"),
    "comment": lambda: mail(to="ann@example.com (Ann)"),
    "quote in a name": lambda: mail(to='"Ann \\"A\\" Example" <ann@example.com>'),
    "quoted local part": lambda: mail(to='"ann b"@example.com'),
    "address literal": lambda: mail(to="ann@[127.0.0.1]"),
    "no domain": lambda: mail(sender="webmaster"),
    "group": lambda: mail(to="Friends: ann@example.com;"),
    "encoded word": lambda: mail("=?utf-8?q?H=C3=A9?="),
    "encoded word as a name": lambda: mail(to="=?utf-8?q?H=C3=A9?= <ann@example.com>"),
    "spaces": lambda: mail("a  b"),
    "tab": lambda: mail("a\tb"),
    "no-break space": lambda: mail("a\u00a0b"),
    "NUL in the body": lambda: mail(body="a\0b"),
    "sender": lambda: mail(headers={"Sender": "ann@example.com"}),
    "number as a header": lambda: mail(headers={"X-Priority": "1", "x-b": gettext_lazy("lazy")}),
    "lower case from": lambda: mail(headers={"from": "ann@example.com"}),
    "date in another form": lambda: mail(headers={"Date": "24 Nov 2026 15:05 GMT"}),
    "quote in a filename": lambda: attached(('a"b.txt', "x", "text/plain")),
    "bytes of text": lambda: attached(("a.json", '{"a": "é"}', "application/json")),
    "multipart attached": lambda: attached(("a", b"x", "multipart/x-y")),
}


@pytest.mark.parametrize("name", UNCOMMON)
def test_this_is_left_to_django(name: str) -> None:
    message = UNCOMMON[name]()
    with pytest.raises(Uncommon):
        write(message, None, None)
    try:
        sent = by_django(message)
    except Exception as failure:
        with pytest.raises(type(failure)):
            compose(message)
    else:
        assert read(compose(message).data) == read(sent)


@override_settings(DEFAULT_CHARSET="iso-8859-1")
def test_another_default_charset_is_left_to_django() -> None:
    message = mail(body="Größe")
    assert read(compose(message).data) == read(by_django(message))
    assert b'charset="iso-8859-1"' in compose(message).data


INJECTED = (
    "x\nBcc: victim@example.com",
    "x\rBcc: victim@example.com",
    "x\r\nBcc: victim@example.com",
    "x\r\n\r\nbody",
)
ONE_LINE = {
    "subject": lambda bad: mail(bad),
    "from": lambda bad: mail(sender=f"{bad} <ann@example.com>"),
    "from, address": lambda bad: mail(sender=f"ann@example.com{bad}"),
    "to": lambda bad: mail(to=f"{bad} <ann@example.com>"),
    "to, quoted": lambda bad: mail(to=f'"{bad}" <ann@example.com>'),
    "to, address": lambda bad: mail(to=f"ann@{bad}"),
    "to, second": lambda bad: mail(to=["ann@example.com", bad]),
    "cc": lambda bad: mail(cc=[bad]),
    "reply-to": lambda bad: mail(reply_to=[bad]),
    "header": lambda bad: mail(headers={"X-One": bad}),
    "header From": lambda bad: mail(headers={"From": bad}),
    "header To": lambda bad: mail(headers={"To": bad}),
    "header Date": lambda bad: mail(headers={"Date": bad}),
    "header Message-ID": lambda bad: mail(headers={"Message-ID": bad}),
}


@pytest.mark.parametrize("where", ONE_LINE)
@pytest.mark.parametrize("bad", INJECTED)
def test_a_line_break_in_a_header_is_refused_as_django_refuses_it(where: str, bad: str) -> None:
    message = ONE_LINE[where](bad)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (that is what Django 6 raises)
        by_django(message)
    with pytest.raises(type(refused.value)) as raised:
        compose(message)
    assert str(raised.value) == str(refused.value)


@pytest.mark.parametrize(
    "bad", [*INJECTED, "x\u2028Bcc: y", "x\x85Bcc: y", "x\x0bBcc: y", "x\x1cBcc: y", "\0"]
)
@pytest.mark.parametrize(
    "build",
    [
        lambda bad: attached((bad, "text", "text/plain")),
        lambda bad: attached(("a", b"x", f"a/{bad}")),
        lambda bad: attached(("a", "x", f"text/{bad}")),
        lambda bad: mail(alternatives=[("x", f"text/{bad}")]),
        lambda bad: changed(content_subtype=bad),
        lambda bad: changed(encoding=bad),
        lambda bad: mail(headers={bad: "x"}),
        lambda bad: mail(to=f"ann@example.com{bad}"),
        lambda bad: mail(bad),
    ],
)
def test_what_might_break_a_line_is_never_written_fast(build: Any, bad: str) -> None:
    with pytest.raises(Uncommon):
        write(build(bad), None, None)


@pytest.mark.parametrize("argument", ["<a\r\nBcc: x@y>", "<a@b.de>\nBcc: x"])
def test_a_line_break_in_the_given_message_id_is_refused(argument: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (that is what Django 6 raises)
        compose(mail(), message_id=argument)


@pytest.mark.parametrize("body", ["a\ud800", "\udcff"])
@pytest.mark.parametrize(
    "build", [lambda bad: mail(body=bad), lambda bad: mail(bad), lambda bad: mail(to=bad)]
)
def test_half_a_character_does_what_it_does_in_django(build: Any, body: str) -> None:
    message = build(body)
    with pytest.raises(Uncommon):
        write(message, None, None)
    try:
        sent = by_django(message)
    except Exception as failure:
        with pytest.raises(type(failure)):
            compose(message)
    else:
        assert read(compose(message).data) == read(sent)


def test_bcc_is_in_no_header() -> None:
    for message in (mail(bcc=["secret@example.com"]), Signed(to=["a@b.de"], bcc=["secret@example.com"])):
        assert b"secret" not in compose(message).data


def test_a_bcc_header_is_refused_from_django_6_1_on_and_left_out_before() -> None:
    message = mail(
        body="Bcc: in the body", headers={"bCC": "secret@example.com, " * 9 + "x@y.de", "X-One": "1"}
    )
    if django.VERSION >= (6, 1):
        with pytest.raises(ValueError, match="Bcc is not a valid email header"):
            compose(message)
    else:
        data = compose(message).data
        assert b"secret" not in data
        assert b"X-One: 1\r\n" in data
        assert data.endswith(b"\r\n\r\nBcc: in the body\r\n")


WHEN = datetime(2026, 11, 24, 15, 5, 52, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize("kind", [EmailMessage, Signed])
def test_message_id_and_date_may_be_given(kind: type[EmailMessage]) -> None:
    message = kind("Hi", "Hello", "shop@example.com", ["ann@example.com"], headers={"X-One": "1"})
    parsed = email.message_from_bytes(compose(message, message_id="<one@example.com>", date=WHEN).data)
    assert parsed.get_all("Message-ID") == ["<one@example.com>"]
    assert parsed.get_all("Date") == ["Tue, 24 Nov 2026 15:05:52 +0100"]
    assert parsed.keys()[-1] in ("X-One", "X-Signature")
    assert message.extra_headers == {"X-One": "1"}


@pytest.mark.parametrize("kind", [EmailMessage, Signed])
def test_the_messages_own_date_and_message_id_win(kind: type[EmailMessage]) -> None:
    own = {
        "dATE" if kind is Signed else "Date": "Tue, 24 Nov 2026 15:05:52 +0000",
        "Message-ID": "<own@a.de>",
    }
    parsed = email.message_from_bytes(
        compose(kind(headers=own), message_id="<one@example.com>", date=datetime.now(UTC)).data
    )
    assert parsed.get_all("Date") == ["Tue, 24 Nov 2026 15:05:52 +0000"]
    assert parsed.get_all("Message-ID") == ["<own@a.de>"]


@pytest.mark.parametrize("local", [False, True])
def test_a_new_date_is_as_django_makes_it(local: bool) -> None:
    with override_settings(EMAIL_USE_LOCALTIME=local, TIME_ZONE="Asia/Kolkata", USE_TZ=True):
        ours = email.message_from_bytes(write(mail(), None, None))["Date"]
        djangos = email.message_from_bytes(by_django(mail()))["Date"]
    assert ours[-6:] == djangos[-6:] == (" +0530" if local else " +0000" if MODERN else " -0000")
    apart = email.utils.parsedate_to_datetime(djangos) - email.utils.parsedate_to_datetime(ours)
    assert timedelta(0) <= apart < timedelta(minutes=1)


def test_one_moment_is_written_in_the_zone_it_is_told_in() -> None:
    moment = datetime(2026, 11, 25, 10, 0, 0, 250_000, UTC)
    zones = [UTC, timezone(timedelta(hours=5.5)), timezone(-timedelta(hours=3)), UTC]
    dates = [email.message_from_bytes(compose(mail(), date=moment.astimezone(z)).data)["Date"] for z in zones]
    assert dates == [
        "Wed, 25 Nov 2026 10:00:00 +0000",
        "Wed, 25 Nov 2026 15:30:00 +0530",
        "Wed, 25 Nov 2026 07:00:00 -0300",
        "Wed, 25 Nov 2026 10:00:00 +0000",
    ]


def test_new_message_ids_differ_and_name_this_host_as_django_does() -> None:
    first, second = (email.message_from_bytes(compose(mail()).data)["Message-ID"] for _ in range(2))
    djangos = email.message_from_bytes(by_django(mail()))["Message-ID"]
    assert first != second
    assert first.partition("@")[2] == djangos.partition("@")[2]


def test_message_ids_increase_so_that_their_index_grows_at_its_end() -> None:
    made = [new_message_id() for _ in range(100)]
    assert made == sorted(set(made))


def lines_of(message: EmailMessage, name: str) -> list[str]:
    head = compose(message).data.partition(b"\r\n\r\n")[0].decode()
    return (name + head.partition("\r\n" + name)[2]).replace("\r\n ", "\n ").partition("\r\n")[0].split("\n")


def test_a_long_subject_is_folded_between_words() -> None:
    assert lines_of(mail("word " * 30 + "end"), "Subject:") == [
        "Subject: " + " ".join(["word"] * 14),
        " " + " ".join(["word"] * 15),
        " word end",
    ]


def test_a_link_stays_whole_in_the_line_of_its_name() -> None:
    """Django 6.1 turns it into encoded words, in which no mail provider finds the link to unsubscribe."""
    link = "<https://example.com/" + "u" * 100 + ">"
    assert lines_of(mail(headers={"List-Unsubscribe": link}), "List-Unsub") == [f"List-Unsubscribe: {link}"]


def test_recipients_are_folded_after_commas() -> None:
    assert lines_of(mail(to=[f"Guest Number {n} <guest{n}@example.com>" for n in range(3)]), "To:") == [
        "To: Guest Number 0 <guest0@example.com>, Guest Number 1 <guest1@example.com>,",
        " Guest Number 2 <guest2@example.com>",
    ]


def test_a_word_longer_than_a_line_may_be_is_left_to_django() -> None:
    for message in (
        mail("x" * 1000),
        mail(headers={"X-One": "x" * 1000}),
        mail(to=f"{'x' * 990}@example.com"),
    ):
        with pytest.raises(Uncommon):
            write(message, None, None)


@pytest.mark.parametrize("text", ["漢" * 100, "é" * 100, "Größe " * 30 + "x", "👍" * 60])
def test_encoded_words_are_short_and_split_no_character(text: str) -> None:
    data = compose(mail(text, to=f"{text} <ann@example.com>")).data
    check_wire(data)
    assert email.message_from_bytes(data, policy=policy.default)["Subject"] == text


def test_latin_text_is_encoded_for_people_and_other_text_in_base64() -> None:
    assert lines_of(mail("Größe"), "Subject:") == ["Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?="]
    assert lines_of(mail("漢字"), "Subject:") == ["Subject: =?utf-8?b?5ryi5a2X?="]


def test_a_long_filename_comes_in_sections_that_split_no_character() -> None:
    data = write(attached(("é" * 40 + ".pdf", b"x", "application/pdf")), None, None)
    sections = [line for line in data.decode().split("\r\n") if line.startswith(" filename")]
    assert sections[0] == " filename*0*=utf-8''" + "%C3%A9" * 9 + ";"
    assert sections[-1].endswith(".pdf")
    assert max(map(len, sections)) <= 78


def _encodings(message: EmailMessage, **options: Any) -> tuple[str, str]:
    """Ours, and Django's."""
    ours, djangos = (
        email.message_from_bytes(data)["Content-Transfer-Encoding"]
        for data in (write(message, None, None, **options), by_django(message))
    )
    return ours, djangos


@pytest.mark.parametrize("lines", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("end", ["", "\n"])
def test_base64_and_quoted_printable_are_chosen_as_django_chooses_them(
    lines: int, padding: int, end: str
) -> None:
    """Among texts where the two are equally long to an octet, and such that begin otherwise than they go on."""

    def chosen(letters: int) -> str:
        body = "\n".join(["é" * letters + "x" * (1000 + padding), *["y" * 20 + "é"] * (lines - 1)]) + end
        ours, djangos = _encodings(mail(body=body))
        assert ours == djangos, letters
        return ours

    some = {letters: chosen(letters) for letters in range(0, 401, 8)}
    for letters in [after for before, after in pairwise(some) if some[before] != some[after]]:
        for near in range(max(0, letters - 24), letters + 16):  # every one around a change
            chosen(near)
    assert set(some.values()) == ({"base64", "quoted-printable"} if MODERN else {"quoted-printable"})


@pytest.mark.parametrize("body", ["漢" * 30, "é" * 38, "é=" * 20 + "x" * 41, "Größe " * 5])
def test_without_8bitmime_the_shorter_encoding_is_chosen_on_each_django(body: str) -> None:
    start = f"{body}\r\n".encode()
    shorter = "base64" if len(b2a_qp(start)) > len(b2a_base64(start)) else "quoted-printable"
    assert _encodings(mail(body=body), eight_bit=False)[0] == shorter


def test_leading_dots_are_not_doubled() -> None:
    assert compose(mail(body=".\n..x")).data.endswith(b"\r\n\r\n.\r\n..x\r\n")


@pytest.mark.parametrize(("body", "needed"), [("Hello", False), ("Größe", True)])
@pytest.mark.parametrize("kind", [EmailMessage, Signed])
def test_it_tells_whether_8bitmime_is_needed_and_can_do_without(
    kind: type[EmailMessage], body: str, needed: bool
) -> None:
    message = kind("Größe", body, "shop@example.com", ["ann@example.com"])
    composed = compose(message)
    without = compose(message, eight_bit=False)
    assert (composed.eight_bit, composed.data.isascii()) == (needed, not needed)
    assert (without.eight_bit, without.data.isascii()) == (False, True)
    assert read(without.data) == read(composed.data)


class FromAnOlderTime(EmailMessage):
    """Django's argument ``policy`` came in 6.0."""

    def message(self) -> Any:  # type: ignore[override, unused-ignore]
        return MIMEText("Größe", "plain", "utf-8")


class Careless(EmailMessage):
    def message(self, **kwargs: Any) -> Any:
        class Bytes(MimeMessage):
            def as_bytes(self, *args: Any, **kwargs: Any) -> bytes:
                return b"Subject: x\n\na\rb\r\r\nc"

        return Bytes()


@pytest.mark.skipif(not MODERN, reason="Django 5.2 calls it without arguments")
def test_a_message_method_from_before_django_6_is_called_as_it_was() -> None:
    assert (
        email.message_from_bytes(compose(FromAnOlderTime()).data).get_payload(decode=True) == "Größe".encode()
    )


def test_line_ends_are_made_whole_whatever_a_subclass_returns() -> None:
    assert compose(Careless()).data == b"Subject: x\r\n\r\na\r\nb\r\n\r\nc\r\n"


UTF8_ENTRIES = [
    ("größe@exämple.com", "größe@xn--exmple-cua.com"),
    ("Größe <jörg.x@example.com>", "=?utf-8?q?Gr=C3=B6=C3=9Fe?= <jörg.x@example.com>"),
    ('"Firm, Inc." <δοκιμή@example.com>', '"Firm, Inc." <δοκιμή@example.com>'),
]


@pytest.mark.parametrize(("entry", "written"), UTF8_ENTRIES)
def test_local_parts_that_are_not_ascii_go_as_they_are_where_the_server_offers_smtputf8(
    entry: str, written: str
) -> None:
    composed = compose(mail("Größe", "Hello", to=entry), smtputf8=True)
    assert (composed.smtputf8, composed.eight_bit) == (True, False)
    assert f"To: {written}\r\n".encode() in composed.data
    assert not compose(mail("Größe", to="ann@exämple.com"), smtputf8=True).smtputf8


@pytest.mark.skipif(not MODERN, reason="Django 5.2 makes encoded words of them, which no server knows")
def test_local_parts_that_are_not_ascii_in_an_uncommon_message() -> None:
    composed = compose(attached(_part(), to="größe@example.com"), smtputf8=True)
    assert composed.smtputf8 and "To: größe@example.com\r\n".encode() in composed.data


def test_boundaries_are_new_each_time_and_nested_ones_differ() -> None:
    message = FAST["everything"]()
    boundaries = [
        part.get_boundary()
        for _ in range(2)
        for part in email.message_from_bytes(write(message, None, None)).walk()
        if part.is_multipart()
    ]
    assert len(set(boundaries)) == len(boundaries) == 4


def test_composing_changes_nothing_in_the_message() -> None:
    for build in (*FAST.values(), UNCOMMON["comment"]):
        message = build()
        before = repr(vars(message))
        compose(message, message_id="<a@b.de>", date=WHEN)
        assert repr(vars(message)) == before
