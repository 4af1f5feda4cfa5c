"""Hypothesis strategies for Django email messages: ``common`` ones, which must be written fast, and ``any_message``."""

from __future__ import annotations

from typing import Any

from django.core.mail import EmailMessage, EmailMultiAlternatives
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy


def _each(text: str) -> list[str]:
    return text.split()


WORDS = _each(
    "Hello invitation Größe naïve Ünïcödé 漢字 日本語テスト مرحبا שלום Здравствуйте 👍 👩‍👩‍👧 e\u0301te\u0301 "
    "ı İ ß ﬁ = _ ? a=b =20 a_b what?! 100% #1 don't `x` {y} ~ ^ | $5 & * + - / . x.y"
)
NAMES = _each("Ann Bob Müller Łukasz 王小明 José O'Neil 👍 שלום van-der e\u0301 J. Dr. x&y")
DOMAINS = _each("example.com mail.example.org localhost xn--exmple-cua.com exämple.com 例え.jp müller.de")
LOCALS = _each("ann bob.b x+tag o'neil _a 1 a-b n{o} %")


def words(most: int = 30, of: list[str] = WORDS) -> SearchStrategy[str]:
    """Single spaces between words, of which some are long."""
    word = st.sampled_from(of) | st.text("aéß漢👍", min_size=1, max_size=40)
    return st.lists(word, min_size=1, max_size=most).map(" ".join)


common_names = words(6, NAMES) | words(6, NAMES).map('"{}"'.format) | st.just('"Firm, Inc. (x) @ <y>; z:"')
bare = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
common_addresses = bare | st.builds("{} <{}>".format, common_names, bare)

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
short_lines = [*_each(". .. = -- --x"), "From me", "trailing ", "\t", ""]
long_lines = ["x" * 77, "x" * 78, "x" * 79, "x" * 998, "x" * 999, "é" * 39, "é" * 40, "é" * 499, "é" * 500]
longer_lines = ["漢" * 400, "long " * 250, "=" * 1000, "a b\t" * 250 + " "]
line = st.text(characters, max_size=60) | st.sampled_from([*short_lines, *long_lines, *longer_lines])
body = st.builds(
    lambda lines, end: end.join(lines), st.lists(line, max_size=12), st.sampled_from(["\n", "\r\n", "\r"])
) | st.text(characters, max_size=300)

extra_names = st.sampled_from(
    ["X-One", "List-Unsubscribe", "In-Reply-To", "X-A-Rather-Long-Header-Name", "Auto-Submitted"]
)
common_headers = st.fixed_dictionaries(
    {},
    optional={
        "From": common_addresses,
        "To": common_addresses,
        "Cc": common_addresses,
        "Reply-To": common_addresses,
        "Date": st.just("Tue, 24 Nov 2026 15:05:52 +0100"),
        "Message-ID": st.just("<one.two@example.com>"),
        "X-Words": words(),
        "List-Unsubscribe": st.just("<https://example.com/" + "u" * 100 + ">"),
        "In-Reply-To": st.just("<one@example.com>"),
        "X-A-Rather-Long-Header-Name": words(),
    },
)

filenames = st.none() | st.sampled_from(
    ["a.txt", "two words.pdf", "résumé.pdf", "漢字" * 30 + ".doc", "x" * 45, "x" * 60, "x" * 200, "a;b'%20.c"]
)
common_attachments = st.one_of(
    st.tuples(filenames, body, st.sampled_from(["text/plain", "text/csv", "text/html"])),
    st.tuples(
        filenames, st.binary(max_size=300), st.sampled_from(["application/pdf", "image/png", "x-y/z.a+b"])
    ),
    st.tuples(filenames, st.just('{"a": 1}\r\n'), st.just("application/json")),
)


@st.composite
def common(draw: DrawFn) -> EmailMessage:
    message = EmailMultiAlternatives(
        subject=draw(words() | st.just("")),
        body=draw(body),
        from_email=draw(common_addresses),
        to=draw(st.lists(common_addresses, max_size=8)),
        bcc=draw(st.lists(common_addresses, max_size=2)),
        cc=draw(st.lists(common_addresses, max_size=3)),
        reply_to=draw(st.lists(common_addresses, max_size=3)),
        headers=draw(common_headers),
        alternatives=draw(
            st.lists(st.tuples(body, st.sampled_from(["text/html", "text/x-amp-html"])), max_size=3)
        ),
        attachments=draw(st.lists(common_attachments, max_size=3)),
    )
    message.content_subtype = draw(st.sampled_from(["plain", "html"]))
    message.encoding = draw(st.sampled_from([None, "utf-8"]))
    return message


anything = st.text(max_size=40)
odd_text = st.one_of(
    anything,
    words(),
    st.text('ab é\n\r\t=?_"\\,;:<>@()\0\x85\u2028\ud800', max_size=20),
    st.sampled_from(
        ["", " ", "a  b", " a", "a ", "=?utf-8?q?x?=", "a\nBcc: x@y", "a\r\n b", "\udcff", "a\u00a0b"]
    ),
    st.sampled_from(["x" * 79, "x" * 998, "x" * 1200, "é" * 500, ("word " * 300).strip()]),
)
odd_addresses = st.one_of(
    common_addresses,
    odd_text,
    st.builds("{} <{}>".format, odd_text, bare),
    st.builds('"{}" <{}>'.format, odd_text, bare),
    st.builds("{}@{}".format, odd_text, odd_text),
    st.sampled_from(
        ["webmaster", "a@b, c@d", "<a@b>", "G: a@b;", "ü@x.de", "a@[1.2.3.4]", '"a b"@c.d', "a@b (note)"]
    ),
)
odd_headers = common_headers | st.dictionaries(
    st.sampled_from(
        _each(
            "X-A x-a Subject from to TO Date date Message-Id message-id Bcc Sender Content-Type MIME-Version X_Y"
        )
    )
    | odd_text,
    odd_text | odd_addresses,
    max_size=3,
)
odd_attachments = common_attachments | st.tuples(
    filenames | odd_text,
    body | st.binary(max_size=30) | odd_text,
    st.sampled_from(
        ["text/plain", "text/calendar; method=REQUEST", "application/octet-stream", "message/rfc822"]
    )
    | st.sampled_from(["Image/PNG", "multipart/mixed", "text/", "a/b\nX: y"]),
)
charsets = [None, "utf-8", "iso-8859-1", "us-ascii", "utf-16", "koi8-r", "no-such"]


@st.composite
def any_message(draw: DrawFn) -> EmailMessage:
    """Of two classes, with anything odd in at most a few places, so that oddities do not hide each other."""
    odd = draw(st.sets(st.sampled_from(_each("subject body address headers attachments rest")), max_size=2))

    def pick(part: str, strange: SearchStrategy[Any], usual: SearchStrategy[Any]) -> Any:
        return draw(strange if part in odd else usual)

    address = odd_addresses if "address" in odd else common_addresses
    arguments: dict[str, Any] = {
        "subject": pick("subject", odd_text, words()),
        "body": pick("body", odd_text, body),
        "from_email": draw(address),
        "to": draw(st.lists(address, max_size=3)),
        "cc": draw(st.lists(address, max_size=1)),
        "reply_to": draw(st.lists(address, max_size=1)),
        "headers": pick("headers", odd_headers, common_headers),
        "attachments": pick(
            "attachments", st.lists(odd_attachments, max_size=2), st.lists(common_attachments, max_size=1)
        ),
    }
    if draw(st.booleans()):
        message = EmailMessage(**arguments)
    else:
        kinds = ["text/html", "text/plain", "application/x-y", "text/calendar; method=REQUEST"]
        parts = st.lists(st.tuples(body, st.sampled_from(kinds)), max_size=2)
        message = EmailMultiAlternatives(**arguments, alternatives=draw(parts))
    message.encoding = pick("rest", st.sampled_from(charsets), st.none())
    message.content_subtype = pick("rest", st.sampled_from(["html", "x y", "a\nB: c"]), st.just("plain"))
    return message
