"""Replies: read however they come, and judged by their codes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailrail.mail.smtp.replies import (
    MAX_LINE_OCTETS,
    MAX_LINES,
    Garbled,
    Kind,
    Reply,
    ReplyReader,
    Stage,
    classify,
)


def read(received: bytes) -> list[Reply]:
    reader = ReplyReader()
    reader.feed(received)
    if reader.garbled is not None:
        raise reader.garbled
    return [*reader.replies]


@pytest.mark.parametrize(
    ("received", "replies"),
    [
        (b"250 2.1.0 Ok\r\n", [Reply(250, "Ok", "2.1.0")]),
        (b"250 Ok\n", [Reply(250, "Ok")]),  # a bare LF is forgiven when it is read
        (b"250\r\n", [Reply(250, "")]),
        (b"354 \r\n", [Reply(354, "")]),
        (b"250 2.0.0\r\n", [Reply(250, "", "2.0.0")]),
        (b"550-5.1.1 No such\r\n550 5.1.1 user\r\n", [Reply(550, "No such\nuser", "5.1.1")]),
        (b"250-host\r\n250-SIZE 10\r\n250 HELP\r\n", [Reply(250, "host\nSIZE 10\nHELP")]),
        (b"250 2.1.0 a\r\n421 4.3.2 b\r\n", [Reply(250, "a", "2.1.0"), Reply(421, "b", "4.3.2")]),
        (b"550 4.7.1 They disagree\r\n", [Reply(550, "4.7.1 They disagree")]),  # RFC 2034 4
        (b"250 2.1.0x no status\r\n", [Reply(250, "2.1.0x no status")]),
        (b"550 \xfcber\r\n", [Reply(550, "\ufffdber")]),
        (b"250 2.1", []),
        (b"250-more\r\n", []),
    ],
)
def test_reading(received: bytes, replies: list[Reply]) -> None:
    assert read(received) == replies


@pytest.mark.parametrize(
    "received",
    [
        b"\x16\x03\x01\r\n",
        b"\r\n",
        b"25 Ok\r\n",
        b"2500 Ok\r\n",
        b"250Ok\r\n",
        b"199 Ok\r\n",
        b"600 Ok\r\n",
        b"\xb2\xb55 Ok\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250-one\r\n251 two\r\n",
        b"x" * MAX_LINE_OCTETS,
        b"250-x\r\n" * MAX_LINES,
    ],
)
def test_what_is_no_reply(received: bytes) -> None:
    with pytest.raises(Garbled):
        read(received)


@pytest.mark.parametrize("begin", [b"", b"what\r\n"])
def test_a_flood_is_not_kept(begin: bytes) -> None:
    reader = ReplyReader()
    reader.feed(begin + b"250 Ok\r\n" * 100_000)
    with pytest.raises(Garbled, match="nobody asked for"):
        reader.feed(b"250 Ok\r\n" * 100_000)


_STREAM = b"250-a\r\n250 2.1.0 b\r\n354 go\r\n550-5.1.1 x\r\n550 5.1.1 y\r\n421 bye\r\n"


@given(cuts=st.lists(st.integers(0, len(_STREAM))))
def test_segments_make_no_difference(cuts: list[int]) -> None:
    reader, found = ReplyReader(), list[Reply]()
    edges = [0, *sorted(cuts), len(_STREAM)]
    for begin, end in pairwise(edges):
        reader.feed(_STREAM[begin:end])
        found += reader.replies
        reader.replies.clear()
    assert found == read(_STREAM) and len(found) == 4
    assert not reader


A, T, P = Kind.ACCEPTED, Kind.TRANSIENT, Kind.PERMANENT
SUPPRESS, SLOW, CONNECTION = "suppress", "slow_down", "connection"
OUT, SENDER = "mailer_out", "sender"


@pytest.mark.parametrize(
    ("stage", "said", "kind", "follows", "source"),
    [
        ("RCPT", "250 2.1.5 Ok", A, (), "RFC 5321 4.2.1"),
        ("RCPT", "251 User not local; will forward", A, (), "RFC 5321 3.4"),
        ("DOT", "250 2.0.0 queued", A, (), "RFC 5321 4.2.1"),
        # the address does not exist
        ("RCPT", "550 5.1.1 No such user", P, (SUPPRESS,), "RFC 3463 3.2, X.1.1"),
        ("RCPT", "553 5.1.3 Bad syntax", P, (SUPPRESS,), "RFC 3463 3.2, X.1.3"),
        ("RCPT", "551 5.1.6 Has moved", P, (SUPPRESS,), "RFC 3463 3.2, X.1.6"),
        ("RCPT", "556 5.1.10 Recipient address has null MX", P, (SUPPRESS,), "RFC 7505 4.2"),
        ("DOT", "550 5.1.1 No such user", P, (SUPPRESS,), "RFC 5321 4.2.5: one recipient, so it is that one"),
        # it may exist, or come back
        (
            "RCPT",
            "550 5.1.2 Host not found",
            P,
            (),
            "RFC 3463 3.2, X.1.2: about the domain, or the relay's DNS",
        ),
        ("RCPT", "550 5.2.1 Disabled", P, (), "RFC 3463 3.3, X.2.1"),
        ("RCPT", "550 User unknown", P, (), "RFC 5321 4.2.3: 550 may be policy, text is for people"),
        ("RCPT", "450 4.1.1 Unverified address", T, (), "Postfix, unverified_recipient_reject_code"),
        # the sender is not allowed
        ("MAIL", "550 5.1.1 Bad sender", T, (SENDER, CONNECTION), "no recipient was named yet"),
        ("MAIL", "550 Not your address", T, (SENDER, CONNECTION), "RFC 5321 3.3"),
        (
            "MAIL",
            "553 5.7.1 Not owned by user",
            T,
            (SENDER, CONNECTION),
            "Postfix, reject_sender_login_mismatch",
        ),
        ("MAIL", "554 5.7.1 Rejected", T, (SENDER, CONNECTION), "RFC 5321 3.3"),
        ("MAIL", "550 5.1.8 Domain of sender does not exist", T, (SENDER, CONNECTION), "RFC 3463 3.2, X.1.8"),
        ("MAIL", "501 Bad address syntax", P, (), "RFC 5321 4.2.2: syntax"),
        ("MAIL", "553 5.1.7 Bad sender syntax", P, (), "RFC 3463 3.2, X.1.7"),
        ("MAIL", "555 Unknown parameter", P, (), "RFC 5321 4.1.1.11"),
        ("MAIL", "552 Too much", P, (), "RFC 1870 6.1"),
        ("MAIL", "554 5.6.7 No SMTPUTF8", P, (), "RFC 6531 3.5"),
        ("MAIL", "554 5.5.4 Parameter", P, (), "RFC 3463 3.6, X.5.4"),
        ("DATA", "550 5.7.1 Not from you", P, (), "after a recipient was named"),
        ("DATA", "550 5.1.1 No", P, (), "RFC 5321 4.1.1.4: not about one recipient"),
        # policy
        ("RCPT", "550 5.7.1 Relaying denied", P, (), "RFC 3463 3.8"),
        ("DOT", "554 5.7.1 Spam", P, (), "RFC 3463 3.8"),
        ("DOT", "550 5.7.26 Unauthenticated", P, (), "RFC 7372 3.2"),
        ("RCPT", "550 5.7.1 5.1.1 in the text", P, (), "the status alone decides"),
        ("RCPT", "550 4.1.1 They disagree", P, (), "RFC 2034 4: class and code must agree"),
        # full, or too many
        ("RCPT", "452 4.2.2 Mailbox full", T, (), "RFC 3463 3.3, X.2.2"),
        ("RCPT", "552 5.2.2 Mailbox full", T, (), "RFC 3463 3.3, X.2.2: a persistent transient failure"),
        ("DOT", "552 5.2.2 Mailbox full", T, (), "RFC 3463 3.3, X.2.2"),
        ("RCPT", "452 4.5.3 Too many recipients", T, (), "RFC 5321 4.5.3.1.10"),
        ("RCPT", "552 Too many recipients", T, (), "RFC 5321 4.5.3.1.10: be prepared for 552"),
        ("RCPT", "554 5.5.3 Too many recipients", T, (), "RFC 3463 3.6, X.5.3"),
        ("MAIL", "552 5.3.4 Too big", P, (), "RFC 1870 6.1"),
        ("DOT", "552 Exceeded storage", P, (), "RFC 5321 4.2.3"),
        ("DOT", "554 5.6.0 Contains NUL", P, (), "RFC 3463 3.7"),
        # permanent by their class, transient by their subject
        ("DOT", "550 5.4.5 Daily user sending limit exceeded", T, (SLOW,), "RFC 3463 3.5, X.4.5"),
        ("MAIL", "550 5.4.5 Daily limit", T, (SLOW,), "RFC 3463 3.5, X.4.5"),
        ("RCPT", "550 5.4.5 Daily limit", T, (SLOW,), "RFC 3463 3.5, X.4.5"),
        ("DOT", "552 5.3.1 Mail system full", T, (SLOW,), "RFC 3463 3.4, X.3.1"),
        ("DOT", "554 5.4.2 Bad connection", T, (), "RFC 3463 3.5, X.4.2"),
        ("RCPT", "550 5.4.3 Directory server failure", T, (), "RFC 3463 3.5, X.4.3"),
        ("RCPT", "550 5.4.1 Recipient address rejected: Access denied", P, (), "Exchange Online: unknown"),
        ("DOT", "554 5.4.6 Routing loop", P, (), "RFC 3463 3.5, X.4.6: permanent or transient"),
        # slower, please
        ("RCPT", "450 4.2.0 Greylisted", T, (), "RFC 6647: come back later, nothing about pace"),
        ("RCPT", "450 Mailbox busy", T, (), "RFC 5321 4.2.3"),
        ("RCPT", "451 4.7.1 Too much mail from you", T, (SLOW,), "RFC 3463 3.8"),
        ("DOT", "451 4.7.500 Server busy", T, (SLOW,), "RFC 3463 3.8"),
        ("MAIL", "451 Local error", T, (SLOW,), "RFC 5321 4.2.3: before any mailbox was named"),
        ("DOT", "450 Try later", T, (SLOW,), "the same"),
        ("MAIL", "452 4.3.1 Disk full", T, (SLOW,), "RFC 3463 3.4, X.3.1"),
        ("RCPT", "451 4.3.0 Queue file write error", T, (), "RFC 3463 3.4, X.3.0"),
        # not about this email
        ("MAIL", "421 4.3.2 Shutting down", T, (SLOW, CONNECTION), "RFC 5321 3.8"),
        ("DOT", "421 4.7.28 Unusual rate", T, (SLOW, CONNECTION), "RFC 5321 3.8"),
        ("GREETING", "554 5.7.1 Go away", T, (CONNECTION,), "RFC 5321 3.1"),
        ("GREETING", "521 Takes no mail", T, (CONNECTION,), "RFC 7504 3"),
        ("AUTH", "535 5.7.8 Wrong password", T, (CONNECTION, OUT), "RFC 4954 6"),
        ("AUTH", "454 4.7.0 Temporarily", T, (SLOW, CONNECTION), "RFC 4954 6"),
        ("STARTTLS", "454 4.3.0 TLS not available", T, (CONNECTION,), "RFC 3207 4"),
        ("MAIL", "530 5.7.0 Authentication required", T, (CONNECTION, OUT), "RFC 4954 6"),
        ("RCPT", "530 5.7.0 Must issue STARTTLS", T, (CONNECTION, OUT), "RFC 3207 4"),
        ("DATA", "535 5.7.8 Log in", T, (CONNECTION, OUT), "RFC 4954 6"),
        ("MAIL", "503 5.5.1 Nested MAIL", T, (CONNECTION,), "RFC 5321 4.1.4"),
        ("RCPT", "500 5.5.2 What?", T, (CONNECTION,), "RFC 5321 4.2.2"),
        ("MAIL", "501 5.1.7 Bad sender syntax", P, (), "RFC 3463 3.2, X.1.7"),
    ],
)
def test_what_follows_from_a_reply(stage: str, said: str, kind: Kind, follows: tuple, source: str) -> None:
    [reply] = read(said.encode() + b"\r\n")
    verdict = classify(reply, Stage[stage])
    assert verdict.kind is kind, source
    assert {name for name in (SUPPRESS, SLOW, CONNECTION, OUT, SENDER) if getattr(verdict, name)} == set(
        follows
    ), source


@pytest.mark.parametrize("stage", [Stage.DOT, Stage.BACKEND])
def test_a_reply_about_several_recipients_speaks_against_none(stage: Stage) -> None:
    reply = Reply(550, "No such user", "5.1.1")
    assert classify(reply, stage, recipients=1).suppress
    assert not classify(reply, stage, recipients=2).suppress


@given(
    code=st.integers(200, 599),
    status=st.from_regex(r"[245]\.7\.[0-9]{1,3}", fullmatch=True),
    stage=st.sampled_from(Stage),
)
def test_policy_never_suppresses(code: int, status: str, stage: Stage) -> None:
    assert not classify(Reply(code, "", status), stage).suppress
