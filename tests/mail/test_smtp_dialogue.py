"""Envelopes, replies and faults: what every one of them makes of an email."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailrail.mail.smtp import (
    Connection,
    DeliveryOutcome,
    Envelope,
    Fate,
    SmtpServer,
    Timeouts,
    send_all,
    session,
)
from mailrail.mail.smtp.driver import drive
from mailrail.mail.smtp.errors import (
    BareNewline,
    EightBitNotOffered,
    InvalidAddress,
    NotCommitted,
    TimedOut,
    TooLarge,
    Utf8NotOffered,
)
from mailrail.mail.smtp.link import Link, Work
from mailrail.mail.smtp.replies import Kind, Stage, Verdict
from tests.processes import until
from tests.smtp_server import Fault, ScriptedServer

TIMEOUTS = Timeouts().capped(30)
HASTE = Timeouts().capped(1)


class Bag:
    """A source that checks the crash rule on the way: one intent at a time, its outcome before the next one's."""

    def __init__(self, envelopes: Sequence[Envelope]) -> None:
        self._waiting = list(envelopes)
        self.outcomes: list[tuple[Envelope, DeliveryOutcome]] = []
        self.groups: list[list[Envelope]] = []
        self.committed: list[Envelope] = []
        self.denied: set[Envelope] = set()
        self.is_stopped = False

    def __len__(self) -> int:
        return 0 if self.is_stopped else len(self._waiting)

    def next(self) -> Envelope | None:
        return self._waiting.pop(0) if len(self) else None

    def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
        self.groups.append(list(envelopes))
        self.committed += envelopes
        return [envelope not in self.denied for envelope in envelopes]

    def ended(self, envelope: Envelope, outcome: DeliveryOutcome) -> None:
        self.outcomes.append((envelope, outcome))

    def stop(self) -> None:
        self.is_stopped = True

    @property
    def fates(self) -> dict[str, Fate]:
        """By ref. Fails if an envelope ended twice."""
        fates = {envelope.ref: outcome.fate for envelope, outcome in self.outcomes}
        assert len(fates) == len(self.outcomes)
        return fates

    def outcome_of(self, ref: str) -> DeliveryOutcome:
        [found] = [outcome for envelope, outcome in self.outcomes if envelope.ref == ref]
        return found


def envelope(ref: str, *recipients: str, content: bytes = b"") -> Envelope:
    text = content or b"Subject: %b\r\n\r\n.a line\r\n..\r\nthe end" % ref.encode()
    return Envelope("from@example.com", recipients or ("to@example.com",), text, ref=ref)


def batch(count: int = 4) -> list[Envelope]:
    return [envelope(f"mail {n}") for n in range(count)]


def deliver(server: ScriptedServer, bag: Bag, timeouts: Timeouts = TIMEOUTS, connections: int = 1) -> list:
    used = [Connection(SmtpServer("127.0.0.1", server.port, timeouts=timeouts)) for _ in range(connections)]
    try:
        return send_all(used, bag)
    finally:
        for connection in used:
            connection.close()


def accepted(server: ScriptedServer) -> Counter[bytes]:
    return Counter(mail.content for mail in server.mails)


def on_arrival(sent: Envelope) -> bytes:
    return sent.content if sent.content.endswith(b"\r\n") else sent.content + b"\r\n"


def check_account(server: ScriptedServer, bag: Bag, envelopes: Sequence[Envelope]) -> None:
    """Nothing lost, nothing twice, nothing called accepted that was not, and the reverse."""
    fates, arrived = bag.fates, accepted(server)
    for each in envelopes:
        copies = arrived[on_arrival(each)]
        if each.ref not in fates:
            assert copies == 0 and each in bag._waiting
        elif fates[each.ref] is Fate.ACCEPTED:
            assert copies == 1, each.ref
        elif fates[each.ref] is Fate.AMBIGUOUS:
            assert copies <= 1
        else:
            assert copies == 0, each.ref
    assert set(arrived) <= {on_arrival(each) for each in envelopes}


# -- the matrix -------------------------------------------------------------------------------------------------------

REPLIES = {code: f"{code} {code[0]}.9.9 scripted" for code in ("450", "451", "452", "550", "552", "554")}
BREAKS = ("disconnect", "garbage", "421 4.3.2 going down")
MAIL_STAGES = {"MAIL": Stage.MAIL, "RCPT": Stage.RCPT, "DATA": Stage.DATA, "DOT": Stage.DOT}
PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])


@PIPELINING
@pytest.mark.parametrize("nth", [0, 1, 3], ids=["first", "second", "last"])
@pytest.mark.parametrize("code", REPLIES)
@pytest.mark.parametrize("stage", MAIL_STAGES)
def test_a_refusal_ends_one_email_and_no_other(stage: str, code: str, nth: int, pipelining: bool) -> None:
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault(stage, REPLIES[code], nth)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        assert server.connections == 1
    outcome = bag.outcome_of(f"mail {nth}")
    reply = outcome.reply_for("to@example.com")
    assert (outcome.fate, outcome.stage, outcome.certain) == (Fate.REFUSED, MAIL_STAGES[stage], True)
    assert reply is not None and (reply.code, reply.enhanced) == (int(code), f"{code[0]}.9.9")
    assert Counter(bag.fates.values()) == {Fate.REFUSED: 1, Fate.ACCEPTED: 3}
    check_account(server, bag, envelopes)


@PIPELINING
@pytest.mark.parametrize("nth", [0, 1, 3], ids=["first", "second", "last"])
@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_a_connection_that_breaks_before_the_content_leaves_no_doubt(
    stage: str, what: str, nth: int, pipelining: bool
) -> None:
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault(stage, what, nth)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        assert server.connections == (2 if nth < 3 else 1)
    outcome = bag.outcome_of(f"mail {nth}")
    assert (outcome.fate, outcome.certain) == (Fate.UNSENT, True)
    assert outcome.error is not None and outcome.stage == MAIL_STAGES[stage]
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 3}
    check_account(server, bag, envelopes)


@PIPELINING
@pytest.mark.parametrize("nth", [0, 1, 3], ids=["first", "second", "last"])
@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("BODY", "disconnect"),
        ("DOT", "disconnect"),
        ("DOT", "accept-disconnect"),
        ("DOT", "garbage"),
        ("DOT", "354 go on"),
    ],
)
def test_no_reply_to_the_final_dot_is_a_doubt_about_one_email(
    stage: str, what: str, nth: int, pipelining: bool
) -> None:
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault(stage, what, nth)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of(f"mail {nth}")
    assert (outcome.fate, outcome.certain, outcome.stage) == (Fate.AMBIGUOUS, False, Stage.DOT)
    assert Counter(bag.fates.values()) == {Fate.AMBIGUOUS: 1, Fate.ACCEPTED: 3}
    assert accepted(server)[on_arrival(envelopes[nth])] == (what == "accept-disconnect")
    check_account(server, bag, envelopes)


@PIPELINING
@pytest.mark.parametrize(
    ("stage", "what", "unsent"),
    [
        ("MAIL", "250 2.1.0 Ok", 1),
        ("RCPT", "250 2.1.5 Ok", 1),
        ("DATA", "354 Go ahead", 1),
        ("DOT", "250 2.0.0 Ok", 2),
    ],
)
def test_a_reply_too_many_is_never_taken_for_an_acceptance(
    stage: str, what: str, unsent: int, pipelining: bool
) -> None:
    """After it, replies and commands are out of step."""
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault(stage, f"{what}\r\n250 2.0.0 Ok", 1)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        check_account(server, bag, envelopes)
    assert bag.outcome_of(f"mail {unsent}").fate is Fate.UNSENT
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 3}


@PIPELINING
@pytest.mark.parametrize(
    ("fault", "refused"),
    [
        (
            Fault("MAIL", "250 2.1.0 Ok\r\n250 2.1.0 Ok"),
            set(),
        ),  # a reply too many: "b" gets the one that is "a"'s
        (Fault("RCPT", "421 4.7.0 Too many errors", 1), {"a@example.com"}),
        (Fault("RCPT", "disconnect", 1), {"a@example.com"}),
    ],
)
def test_a_refusal_before_the_connection_broke_is_blamed_on_nobody_else(
    fault: Fault, refused: set[str], pipelining: bool
) -> None:
    bag = Bag([envelope("it", "a@example.com", "b@example.com", "c@example.com")])
    with ScriptedServer([fault], refused={"a@example.com": "550 5.1.1 no"}, pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of("it")
    assert (outcome.fate, set(outcome.refused)) == (Fate.UNSENT, refused)


@PIPELINING
def test_a_refusal_too_many_is_not_the_next_emails(pipelining: bool) -> None:
    """As from a server that answers the final dot for each recipient, like one of LMTP (RFC 2033 4.2)."""
    envelopes = batch()
    bag = Bag(envelopes)
    fault = Fault("DOT", "250 2.0.0 Ok\r\n550 5.1.1 no such user", 1)
    with ScriptedServer([fault], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        check_account(server, bag, envelopes)
    assert bag.outcome_of("mail 2").fate is Fate.UNSENT
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 3}


@PIPELINING
def test_replies_before_garbage_count(pipelining: bool) -> None:
    """They come in one segment."""
    bag = Bag(envelopes := batch())
    with ScriptedServer([Fault("DOT", "250 2.0.0 Ok\r\nwhat", 1)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        check_account(server, bag, envelopes)
    assert [*bag.fates.values()] == [Fate.ACCEPTED, Fate.ACCEPTED, Fate.UNSENT, Fate.ACCEPTED]
    assert "The server sent 'what'" in str(bag.outcome_of("mail 2").error)


def test_a_server_that_left_before_the_dot_leaves_no_doubt() -> None:
    class Slow(Bag):
        def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
            if envelopes[0].ref == "mail 1":
                server.drop_all()
            return super().before_data_end(envelopes)

    envelopes = batch()
    bag = Slow(envelopes)
    with ScriptedServer() as server:
        assert deliver(server, bag) == []
        check_account(server, bag, envelopes)
    assert bag.outcome_of("mail 1").fate is Fate.UNSENT
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 3}


@PIPELINING
def test_421_in_reply_to_the_final_dot_is_no_doubt(pipelining: bool) -> None:
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault("DOT", "421 4.3.2 going down", 1)], pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of("mail 1")
    assert outcome.fate is Fate.UNSENT
    assert outcome.verdict_for("to@example.com", envelopes[1]) == Verdict(
        Kind.TRANSIENT, slow_down=True, connection=True
    )
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 3}
    check_account(server, bag, envelopes)


@PIPELINING
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "BODY", "DOT"])
def test_silence_ends_the_connection(stage: str, pipelining: bool) -> None:
    envelopes = batch()
    bag = Bag(envelopes)
    with ScriptedServer([Fault(stage, "silence", 1)], pipelining=pipelining) as server:
        assert deliver(server, bag, HASTE) == []
        assert server.connections == 2
    outcome = bag.outcome_of("mail 1")
    assert outcome.fate is (Fate.AMBIGUOUS if stage in ("BODY", "DOT") else Fate.UNSENT)
    assert isinstance(outcome.error, TimedOut)
    assert Counter(bag.fates.values())[Fate.ACCEPTED] == 3
    check_account(server, bag, envelopes)


@pytest.mark.parametrize(
    "what", ["disconnect", "silence", "garbage", "421 4.3.2 no", "554 5.3.2 no", "250 hm"]
)
@pytest.mark.parametrize("stage", ["CONNECT", "EHLO"])
def test_without_a_session_no_email_is_touched(stage: str, what: str) -> None:
    if (stage, what) == ("EHLO", "250 hm"):
        return  # that is a session
    bag = Bag(batch())
    with ScriptedServer([Fault(stage, what)]) as server:
        [error] = deliver(server, bag, HASTE)
        assert error.stage in (Stage.GREETING, Stage.EHLO)
        assert (len(bag), bag.outcomes, bag.committed) == (4, [], [])
        assert deliver(server, bag) == []
    assert set(bag.fates.values()) == {Fate.ACCEPTED}


def test_nobody_listens() -> None:
    with ScriptedServer() as server:
        pass
    bag = Bag(batch())
    [error] = deliver(server, bag)
    assert f"127.0.0.1:{server.port} cannot be reached: Connection refused. Check host and port" in str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert len(bag) == 4


_FAULTS = st.builds(
    Fault,
    st.sampled_from(["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BODY", "DOT", "RSET"]),
    st.sampled_from(
        [
            "disconnect",
            "garbage",
            "421 4.7.0 slow",
            "451 4.3.0 no",
            "550 5.7.1 no",
            "354 what",
            "accept-disconnect",
        ]
    ),
    st.integers(0, 12),
)


@settings(deadline=None, max_examples=150)
@given(
    faults=st.lists(_FAULTS, max_size=8),
    pipelining=st.booleans(),
    eager=st.booleans(),
    connections=st.integers(1, 3),
)
def test_the_account_is_right_whatever_goes_wrong(
    faults: list[Fault], pipelining: bool, eager: bool, connections: int
) -> None:
    envelopes = batch(10)
    bag = Bag(envelopes)
    with ScriptedServer(faults, pipelining=pipelining, eager_data=eager) as server:
        deliver(server, bag, connections=connections)
        check_account(server, bag, envelopes)
    fates = bag.fates
    assert len(fates) + len(bag) == 10
    assert all(each.ref not in fates or fates[each.ref] is not Fate.UNFIT for each in envelopes)


# -- several recipients -----------------------------------------------------------------------------------------------


@PIPELINING
@pytest.mark.parametrize("eager", [True, False])
def test_the_accepted_recipients_get_it_and_the_refused_are_named(eager: bool, pipelining: bool) -> None:
    refused = {"no@example.com": "550 5.1.1 Nobody here", "full@example.com": "452 4.2.2 Full"}
    envelopes = [
        envelope("one", "a@example.com", "no@example.com", "b@example.com"),
        envelope("two", "no@example.com", "full@example.com"),
        envelope("three", "full@example.com"),
        envelope("four", "b@example.com"),
    ]
    bag = Bag(envelopes)
    with ScriptedServer(refused=refused, pipelining=pipelining, eager_data=eager) as server:
        assert deliver(server, bag) == []
        assert server.connections == 1
    assert [mail.recipients for mail in server.mails] == [
        ("a@example.com", "b@example.com"),
        ("b@example.com",),
    ]
    one, two = bag.outcome_of("one"), bag.outcome_of("two")
    assert (one.fate, str(one.reply), list(one.refused)) == (
        Fate.ACCEPTED,
        "250 2.0.0 Ok: queued",
        ["no@example.com"],
    )
    assert str(one.reply_for("no@example.com")) == "550 5.1.1 Nobody here"
    assert one.reply_for("a@example.com") == one.reply
    assert (two.fate, two.stage) == (Fate.REFUSED, Stage.RCPT)
    assert {address: reply.code for address, reply in two.refused.items()} == {
        "no@example.com": 550,
        "full@example.com": 452,
    }
    assert bag.outcome_of("three").fate is Fate.REFUSED
    assert [each.ref for each in bag.committed] == ["one", "four"]
    verdicts = [one.verdict_for(address, envelopes[0]) for address in envelopes[0].recipients]
    assert [(v.kind, v.suppress) for v in verdicts if v] == [
        (Kind.ACCEPTED, False),
        (Kind.PERMANENT, True),
        (Kind.ACCEPTED, False),
    ]
    assert two.verdict_for("full@example.com", envelopes[1]) == Verdict(Kind.TRANSIENT)


@pytest.mark.parametrize("eager", [True, False])
def test_mail_refused_with_more_pipelined_behind_it(eager: bool) -> None:
    bag = Bag(batch(3))
    with ScriptedServer([Fault("MAIL", "550 5.7.1 Not you", 1)], eager_data=eager) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of("mail 1")
    assert (outcome.fate, outcome.stage, str(outcome.reply)) == (
        Fate.REFUSED,
        Stage.MAIL,
        "550 5.7.1 Not you",
    )
    assert len(server.mails) == 2


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("replies", [lambda lines: lines, lambda lines: 1], ids=["503 to each", "one 503"])
def test_a_server_that_takes_nothing_behind_the_dot_is_sent_nothing_there_any_more(
    replies: Callable[[int], int], connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Haraka 3.3 answers 503. No email is put off; a connection is lost for each that was open, not for each email."""
    bag = Bag(envelopes := batch(30))
    with ScriptedServer(strict_dot=replies) as server, caplog.at_level("WARNING", "mailrail.mail"):
        assert deliver(server, bag, connections=connections) == []
        assert server.behind_dot <= connections and server.connections <= 2 * connections
        check_account(server, bag, envelopes)
        later = Bag(batch(5))
        assert deliver(server, later) == []
        assert server.behind_dot <= connections and set(later.fates.values()) == {Fate.ACCEPTED}
    assert set(bag.fates.values()) == {Fate.ACCEPTED} and len(bag.fates) == 30
    assert len([record for record in caplog.records if "behind the final dot" in record.getMessage()]) == 1


def test_503_to_the_first_mail_of_a_connection_is_no_matter_of_the_dot() -> None:
    bag = Bag(batch(3))
    with ScriptedServer([Fault("MAIL", "503 5.5.1 Not now", 0)]) as server:
        assert deliver(server, bag) == []
        assert server.behind_dot > 0
    assert Counter(bag.fates.values()) == {Fate.UNSENT: 1, Fate.ACCEPTED: 2}


@PIPELINING
def test_a_transaction_that_was_left_open_is_reset(pipelining: bool) -> None:
    bag = Bag(batch(3))
    faults = [Fault("DATA", "451 4.3.0 Try later", 0), Fault("DATA", "451 4.3.0 Try later", 2)]
    with ScriptedServer(faults, pipelining=pipelining) as server:
        assert deliver(server, bag) == []
        assert (server.connections, server.count("RSET")) == (1, 2)
    assert list(bag.fates.values()) == [Fate.REFUSED, Fate.ACCEPTED, Fate.REFUSED]


# -- the wire ---------------------------------------------------------------------------------------------------------


def test_one_round_trip_for_each_email() -> None:
    with ScriptedServer() as server:
        assert deliver(server, Bag(batch(3))) == []
    sent = b"".join(server.segments)
    assert sent.count(b"\r\n.\r\nMAIL FROM:<from@example.com> SIZE=") == 2
    groups = [segment for segment in server.segments if segment.startswith((b"MAIL", b"Subject"))]
    assert [group[:4] for group in groups] == [b"MAIL", b"Subj", b"Subj", b"Subj"]
    assert groups[0].endswith(b"DATA\r\n") and groups[1].endswith(b"DATA\r\n")
    assert groups[3].endswith(b"\r\n.\r\n")


def test_no_content_before_the_reply_to_the_last_dot_and_leave_for_this_one() -> None:
    seen: list[tuple[int, int]] = []

    class Watching(Bag):
        def before_data_end(self, envelopes: Sequence[Envelope]) -> list[bool]:
            seen.append((len(self.outcomes), server.count("BODY")))
            return super().before_data_end(envelopes)

    with ScriptedServer() as server:
        assert deliver(server, Watching(batch(5))) == []
    assert seen == [(n, n) for n in range(5)]


@PIPELINING
def test_replies_that_come_byte_by_byte(pipelining: bool) -> None:
    envelopes = batch(3)
    bag = Bag(envelopes)
    with ScriptedServer(byte_by_byte=True, pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    assert set(bag.fates.values()) == {Fate.ACCEPTED}
    check_account(server, bag, envelopes)


def test_a_large_content_and_a_thousand_recipients() -> None:
    lines = b"Subject: big\r\n\r\n" + b".0123456789" * 7 + b"\r\n"
    large = envelope("large", *(f"user{n}@example.com" for n in range(1000)), content=lines * 60_000)
    envelopes = [large, envelope("small")]
    bag = Bag(envelopes)
    with ScriptedServer(extensions=("8BITMIME",)) as server:
        assert deliver(server, bag) == []
    assert set(bag.fates.values()) == {Fate.ACCEPTED}
    check_account(server, bag, envelopes)


def test_a_connection_that_breaks_amid_a_large_content_leaves_no_doubt() -> None:
    envelopes = [envelope("large", content=b"0123456789\r\n" * 2_000_000), envelope("small")]
    bag = Bag(envelopes)
    with ScriptedServer([Fault("BODY", "disconnect")], extensions=()) as server:
        assert deliver(server, bag) == []
    assert bag.fates == {"large": Fate.UNSENT, "small": Fate.ACCEPTED}


@pytest.mark.parametrize(
    ("what", "fate"), [("552 5.3.4 Too big", Fate.REFUSED), ("250 2.0.0 Ok", Fate.UNSENT)]
)
def test_an_answer_amid_a_large_content(what: str, fate: Fate) -> None:
    envelopes = [envelope("large", content=b"0123456789\r\n" * 2_000_000), envelope("small")]
    bag = Bag(envelopes)
    with ScriptedServer([Fault("BODY", what)], extensions=()) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of("large")
    assert outcome.certain and outcome.fate in (fate, Fate.UNSENT)  # a reset may overtake the answer
    assert bag.outcome_of("small").fate is Fate.ACCEPTED
    assert len(server.mails) == 1


def test_a_server_that_wants_its_replies_read_first_does_not_stop_us() -> None:
    """RFC 2920 3.1: both sides writing, and none reading, would wait for each other for ever."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.setblocking(False)
    link = Link()
    link.socket = ours
    replies, content = b"250 2.1.5 Ok\r\n" * 50_000, b"x" * 1_000_000

    def serve() -> int:
        theirs.sendall(replies)
        return sum(iter(lambda: len(theirs.recv(65536)), 0))

    def talk() -> Work[None]:
        yield from link.write([content], Stage.RCPT, 30)
        for _ in range(50_000):
            if link.replies:
                link.replies.popleft()
            else:
                yield from link.hear(Stage.RCPT, 30)

    with ThreadPoolExecutor(1) as executor:
        received = executor.submit(serve)
        drive(talk())
        link.close()
        assert received.result() == len(content)
    theirs.close()


_CONTENT = st.lists(st.sampled_from([b".", b"..", b"\r\n", b"a", b"\xff", b"MAIL FROM:<x>", b"\0"])).map(
    b"".join
)


@settings(deadline=None, max_examples=200)
@given(contents=st.lists(_CONTENT, min_size=1, max_size=4), pipelining=st.booleans())
def test_every_content_arrives_as_it_is(contents: list[bytes], pipelining: bool) -> None:
    envelopes = [
        Envelope("from@example.com", ["to@example.com"], content, ref=n) for n, content in enumerate(contents)
    ]
    bag = Bag(envelopes)
    with ScriptedServer(pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    wanted = [on_arrival(each) if each.content else b"" for each in envelopes]
    assert [mail.content for mail in server.mails] == wanted


# -- what the server offers -------------------------------------------------------------------------------------------


def test_parameters_only_where_offered() -> None:
    eight_bit = envelope("eight", content="Subject: ü\r\n".encode())
    utf8 = envelope("utf8", "jürgen@example.com")
    with ScriptedServer() as server:
        bag = Bag([envelope("plain", content=b"x\r\n"), eight_bit, utf8])
        assert deliver(server, bag) == []
    mails = [line for line in server.lines if line.startswith(b"MAIL")]
    assert [line.partition(b"> ")[2] for line in mails] == [
        b"SIZE=3",
        b"SIZE=13 BODY=8BITMIME",
        b"SIZE=%d SMTPUTF8" % utf8.size,
    ]
    assert set(bag.fates.values()) == {Fate.ACCEPTED}
    with ScriptedServer(extensions=()) as server:
        bag = Bag([envelope("plain"), eight_bit, utf8, envelope("last")])
        assert deliver(server, bag) == []
        assert len(server.mails) == 2
    assert [line for line in server.lines if line.startswith(b"MAIL")] == [
        b"MAIL FROM:<from@example.com>"
    ] * 2
    assert isinstance(bag.outcome_of("eight").error, EightBitNotOffered)
    assert isinstance(bag.outcome_of("utf8").error, Utf8NotOffered)
    assert bag.outcome_of("utf8").fate is Fate.UNFIT


@pytest.mark.parametrize("limit", ["0", "", "big", "9" * 20, "9" * 5000], ids=lambda limit: limit[:5])
def test_a_size_that_limits_nothing(limit: str) -> None:
    bag = Bag(batch())
    with ScriptedServer(extensions=(f"SIZE {limit}",)) as server:
        assert deliver(server, bag) == []
    assert set(bag.fates.values()) == {Fate.ACCEPTED}


def test_an_email_over_the_size_is_not_even_begun() -> None:
    bag = Bag([envelope("large", content=b"x" * 1001), envelope("fits", content=b"x" * 998)])
    with ScriptedServer(extensions=("SIZE 1000",)) as server:
        assert deliver(server, bag) == []
    outcome = bag.outcome_of("large")
    assert isinstance(outcome.error, TooLarge)
    assert str(outcome.error) == "The email has 1003 octets, the server takes 1000 at most."
    assert bag.outcome_of("fits").fate is Fate.ACCEPTED and server.count("MAIL") == 1


# -- the commit point ------------------------------------------------------------------------------------------------


@PIPELINING
def test_what_is_not_committed_is_not_sent(pipelining: bool) -> None:
    envelopes = batch(6)
    bag = Bag(envelopes)
    bag.denied = {envelopes[1], envelopes[2], envelopes[3], envelopes[4]}
    with ScriptedServer(pipelining=pipelining) as server:
        assert deliver(server, bag) == []
    assert [mail.content for mail in server.mails] == [on_arrival(envelopes[0]), on_arrival(envelopes[5])]
    outcome = bag.outcome_of("mail 2")
    assert outcome.fate is Fate.UNSENT and isinstance(outcome.error, NotCommitted)


def test_a_commit_point_that_raises_brings_the_others_to_an_end_first() -> None:
    envelopes = batch(40)

    class Failing(Bag):
        def before_data_end(self, asked: Sequence[Envelope]) -> list[bool]:
            if len(self.committed) >= 10:
                raise RuntimeError("the database is gone")
            return super().before_data_end(asked)

    bag = Failing(envelopes)
    with ScriptedServer() as server:
        used = [Connection(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS)) for _ in range(4)]
        with pytest.raises(RuntimeError, match="the database is gone"):
            send_all(used, bag)
        check_account(server, bag, envelopes)
        assert len(server.mails) == len(bag.committed) == Counter(bag.fates.values())[Fate.ACCEPTED]
        assert Fate.AMBIGUOUS not in bag.fates.values()
        assert len(bag._waiting) >= 20  # nobody took more out of the bag
        for connection in used:
            connection.close()


def test_what_nobody_foresaw_on_one_connection_is_no_doubt_on_the_others() -> None:
    """Replies to final dots that are under way are read first."""
    envelopes = batch(400)  # connections that a busy machine starves come together late

    class Failing(Bag):
        """Raises at the second one of a group, when the first one's final dot has left and is not answered yet."""

        to_come = 0
        left: int | None = None

        def before_data_end(self, asked: Sequence[Envelope]) -> list[bool]:
            if len(asked) > 1:
                server._lock.acquire()
                self.to_come = 2
            return super().before_data_end(asked)

        def next(self) -> Envelope | None:
            self.to_come -= 1
            if self.to_come == 0:
                self.left = len(self)
                server._lock.release()
                raise RuntimeError("a mistake")
            return super().next()

    bag = Failing(envelopes)
    with ScriptedServer() as server:
        used = [Connection(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS)) for _ in range(4)]
        with pytest.raises(RuntimeError, match="a mistake"):
            send_all(used, bag)
        for connection in used:
            connection.close()
        until(lambda: server.open_connections == 0)
        known = Counter(on_arrival(each) for each, outcome in bag.outcomes if outcome.fate is Fate.ACCEPTED)
        assert accepted(server) == known
        assert len(bag._waiting) == bag.left  # nobody took more out of it


def test_connections_commit_in_groups() -> None:
    envelopes = batch(200)
    bag = Bag(envelopes)
    with ScriptedServer() as server:
        used = [Connection(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS)) for _ in range(8)]
        assert send_all(used, bag) == []
        check_account(server, bag, envelopes)
        for connection in used:
            connection.close()
    assert len(server.mails) == 200
    assert max(map(len, bag.groups)) <= 8 and len(bag.groups) < 200


# -- what cannot be sent ----------------------------------------------------------------------------------------------

BAD = [
    "a b@example.com",
    "a@b\r\nDATA",
    "a@b\n",
    "a@b\0",
    "<a@b>",
    "a@b>",
    "",
    "a\t@b",
    "\ud800@b",
    "a" * 255,
    "a\x7f@b",
]


@pytest.mark.parametrize("address", BAD)
def test_an_address_cannot_break_out_of_its_command(address: str) -> None:
    with pytest.raises(InvalidAddress, match="address"):
        Envelope("from@example.com", ["to@example.com", address], b"")
    if address:
        with pytest.raises(InvalidAddress, match="is no address for SMTP"):
            Envelope(address, ["to@example.com"], b"")


def test_recipients_are_a_list() -> None:
    wrong: list[Sequence[str]] = [[], "to@example.com"]
    for recipients in wrong:
        with pytest.raises(InvalidAddress, match="recipients must be a list"):
            Envelope("from@example.com", recipients, b"")


@pytest.mark.parametrize("content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"a\r\n.\n\r\n", b"\r"])
def test_a_bare_newline_cannot_hide_a_second_email(content: bytes) -> None:
    with pytest.raises(BareNewline, match="every line must end with CRLF"):
        Envelope("from@example.com", ["to@example.com"], content)


def test_a_recipient_named_twice_gets_it_once() -> None:
    bag = Bag([envelope("x", "a@example.com", "b@example.com", "a@example.com")])
    with ScriptedServer() as server:
        assert deliver(server, bag, connections=5) == []
        assert (server.connections, server.count("RCPT")) == (1, 2)
    assert server.mails[0].recipients == ("a@example.com", "b@example.com")


def test_the_null_sender() -> None:
    bag = Bag([Envelope("", ["to@example.com"], b"x\r\n", ref="bounce")])
    with ScriptedServer() as server:
        assert deliver(server, bag) == []
    assert b"MAIL FROM:<> SIZE=3" in server.lines


def test_a_server_that_only_knows_helo() -> None:
    bag = Bag(batch(2))
    with ScriptedServer([Fault("EHLO", "502 5.5.1 Not implemented")]) as server:
        server_of = SmtpServer("127.0.0.1", server.port, timeouts=HASTE)
        connection = Connection(server_of)
        [error] = send_all([connection], bag)  # the scripted server does not know HELO either
        assert error.stage is Stage.EHLO and b"HELO localhost" in server.lines
        assert drive(connection.open()) is True
        connection.close()


class CountedSocket(socket.socket):
    """Count what is called of all such sockets, and as "in vain" where nothing is received."""

    calls: ClassVar[Counter[str]] = Counter()

    def send(self, *args: Any) -> int:
        self.calls["send"] += 1
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        self.calls["recv"] += 1
        try:
            return super().recv(*args)
        except BlockingIOError:
            self.calls["in vain"] += 1
            raise


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of the methods of all links' sockets."""
    CountedSocket.calls.clear()
    monkeypatch.setattr(session, "socket", SimpleNamespace(**vars(socket) | {"socket": CountedSocket}))
    return CountedSocket.calls


def test_an_email_takes_one_send_and_one_receive(calls: Counter[str]) -> None:
    """Beside those of the session, and of its first email's commands."""
    with ScriptedServer() as server:
        deliver(server, Bag(batch(1)))
        session = calls.copy()
        calls.clear()
        deliver(server, bag := Bag(batch(21)))
    assert set(bag.fates.values()) == {Fate.ACCEPTED}
    assert calls["send"] - session["send"] == 20
    assert calls["in vain"] <= 1  # before the first dot: has the server spoken?


def test_no_look_is_in_vain_when_replies_come_in_pieces(calls: Counter[str]) -> None:
    ours, theirs = socket.socketpair()
    link = Link()
    link.socket = CountedSocket(fileno=ours.detach())
    link.socket.setblocking(False)
    pieces, replies = [b"250-2.1.0", b" Ok\r\n", b"250 Ok\r\n", b"250 2.1.5 Ok\r\n"], []

    def listen() -> Work[None]:
        replies.append((yield from link.hear(Stage.RCPT, 30)))
        replies.append((yield from link.hear(Stage.RCPT, 30)))

    with theirs:
        for step in listen():
            assert step is link and link.events == select.POLLIN
            theirs.sendall(pieces.pop(0))
    link.close()
    assert [*map(str, replies)] == ["250 2.1.0 Ok\nOk", "250 2.1.5 Ok"]
    assert pieces == [] and (calls["recv"], calls["in vain"]) == (4, 0)
