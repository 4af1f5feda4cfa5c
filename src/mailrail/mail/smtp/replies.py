"""What an SMTP server says, and what follows from it (RFC 5321 4.2, RFC 3463, RFC 2034).

``ReplyReader`` makes replies of bytes, ``classify`` says what one means for the mail, the address and the pace.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from mailrail.storable import storable

MAX_LINE_OCTETS = 8192
"""Octets of one line. RFC 5321 4.5.3.1.5 allows 512; real servers send more, smtplib reads as much as this."""
MAX_LINES = 512
"""Lines of one reply."""
MAX_TEXT_LENGTH = 500
"""Characters of a broken reply that an error has."""
MAX_UNREAD_BYTES = 1024 * 1024
"""Octets that may wait: replies to a thousand commands fit several times."""


class Stage(StrEnum):
    """Name how far a connection, and an email on it, had come."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    BODY = "body"
    DOT = "final dot"
    BACKEND = "backend"
    """Django's backends, which tell no stages: the email was handed to one."""
    RSET = "RSET"
    NOOP = "NOOP"
    QUIT = "QUIT"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. ``enhanced``: its status of RFC 3463, such as ``"5.1.1"``, or empty; ``text``: the rest."""

    code: int
    text: str
    enhanced: str = ""
    positive: bool = field(init=False, repr=False, compare=False)
    refusal: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positive", 200 <= self.code < 300)
        object.__setattr__(self, "refusal", 400 <= self.code < 600)

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text)))


class Garbled(ValueError):
    """Report that the server said something that is no SMTP reply."""


_TOO_LONG = f"a line of more than {MAX_LINE_OCTETS} octets"
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]?)(.*)", re.DOTALL)
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")


class ReplyReader:
    """Take in bytes as they come, split or merged in any way, and make ``replies`` of them.

    ``garbled``: why nothing behind these replies can be read.
    """

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.garbled: Garbled | None = None
        self._octets = 0  # that have come since the last one was used
        self._rest = b""  # the beginning of a line
        self._lines: list[tuple[int, str]] = []  # of a reply whose last line has not come

    def __bool__(self) -> bool:
        """Tell whether anything is there, be it half a line."""
        return bool(self.replies or self._rest or self._lines or self.garbled)

    @property
    def unfinished(self) -> str:
        """Return the lines so far of a reply whose last line has not come."""
        return " / ".join(f"{code}-{text}" for code, text in self._lines)[:MAX_TEXT_LENGTH]

    def feed(self, received: bytes) -> None:
        """Take in what has come. Raises ``Garbled`` if that is too much."""
        if not self.replies and self.garbled is None:
            self._octets = 0
        self._octets += len(received)
        if self._octets > MAX_UNREAD_BYTES:
            raise Garbled(f"more than {MAX_UNREAD_BYTES} octets that nobody asked for")
        if self.garbled is not None:
            return
        *lines, self._rest = (self._rest + received).split(b"\n")
        try:
            for line in lines:
                if self._lines or line[3:4] == b"-":
                    self._take(line)
                else:
                    self.replies.append(_whole(line))
            if len(self._rest) >= MAX_LINE_OCTETS:
                raise Garbled(_TOO_LONG)
        except Garbled as error:
            self.garbled = error

    def _take(self, line: bytes) -> None:
        """Take one line of a reply of several."""
        code, more, text = _parts(line)
        if self._lines and self._lines[0][0] != code:
            continued = repr(f"{self.unfinished} / {code} {text}")
            raise Garbled(
                f"a reply that begins with {self._lines[0][0]} and goes on with {code}: {continued}"
            )
        self._lines.append((code, text))
        if not more:
            self.replies.append(_reply(code, [text for _, text in self._lines]))
            self._lines = []
        elif len(self._lines) >= MAX_LINES:
            raise Garbled(f"a reply of more than {MAX_LINES} lines")


@lru_cache(maxsize=256)
def _whole(line: bytes) -> Reply:
    """Return a reply of one line, cached: most have one line, and most servers repeat the same ones."""
    code, _, text = _parts(line)
    return _reply(code, [text])


def _parts(line: bytes) -> tuple[int, bool, str]:
    """Return the code, whether more lines follow, and the text."""
    if len(line) >= MAX_LINE_OCTETS:
        raise Garbled(_TOO_LONG)
    line = line.rstrip(b"\r")
    match = _LINE.fullmatch(line)
    if match is None or not (match[2] or not match[3]):
        raise Garbled(repr(line[:100].decode("utf-8", "replace")))
    return int(match[1]), match[2] == b"-", storable(match[3].decode("utf-8", "replace"))


def reply_of(code: int, text: str) -> Reply:
    """Return a reply that somebody else has read, its lines without their code."""
    return _reply(code, storable(text).split("\n"))


def _reply(code: int, lines: list[str]) -> Reply:
    """Return a reply. The status stands on every line (RFC 2034 4) and is kept once."""
    enhanced = _ENHANCED.match(lines[0])
    if (
        enhanced is None or int(enhanced[1][0]) != code // 100
    ):  # they must agree (RFC 2034 4); the code decides
        return Reply(code, "\n".join(lines).strip())
    return Reply(code, "\n".join(_ENHANCED.sub("", line, count=1) for line in lines).strip(), enhanced[1])


class Kind(StrEnum):
    ACCEPTED = "accepted"
    TRANSIENT = "transient"
    """The same may be accepted later: retry."""
    PERMANENT = "permanent"
    """The same will be refused again: failed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a reply.

    ``suppress``: no mail can ever reach this address, so write to it no more. ``slow_down``: the server wants less
    mail per minute. ``connection``: the reply is about the connection, the account or the server, and says nothing
    against this email: its attempts are not used up. ``mailer_out``: the next email would be refused as well, until
    somebody changes a setting or an account. ``sender``: so would be the next email of this sender.
    """

    kind: Kind
    suppress: bool = False
    slow_down: bool = False
    connection: bool = False
    mailer_out: bool = False
    sender: bool = False


class Meaning(StrEnum):
    """Name what a rule says of the replies that it matches."""

    LATER = "later"
    SLOW_DOWN = "slow down"
    OUT = "out"
    SENDER = "sender"
    FAILED = "failed"


@dataclass(frozen=True)
class ReplyRule:
    """What a provider means by a reply that the RFCs leave open.

    ``code``, ``enhanced`` (such as ``"5.1.90"``) and ``text`` must all match, where they are given. ``text`` is looked
    for anywhere in the reply's text, with line ends and runs of white space as one space each.
    """

    means: Meaning
    code: int | None = None
    enhanced: str | None = None
    text: re.Pattern[str] | None = None

    def matches(self, reply: Reply) -> bool:
        """Tell whether the rule is about this reply."""
        if self.code not in (None, reply.code) or self.enhanced not in (None, reply.enhanced):
            return False
        return self.text is None or self.text.search(" ".join(reply.text.split())) is not None


NO_SUCH_ADDRESS = frozenset({"5.1.1", "5.1.3", "5.1.6", "5.1.10"})
"""Codes that speak against the address itself:

5.1.1: there is no such mailbox. 5.1.3: the syntax is invalid. 5.1.6: it has moved without a forwarding address. All
three are of RFC 3463 3.2. 5.1.10 (RFC 7505 4.2): the domain declares that it takes no mail. Not 5.1.2, "bad
destination system": the domain comes back when its DNS is mended, and a relay without DNS says it of everybody. Not
5.2.1, "disabled": mailboxes are enabled again. A 550 without such a code may be about policy just as well (RFC 5321
4.2.3).
"""
_OVERLOAD = frozenset({"4.3.1", "4.3.2", "4.4.5", "5.3.1", "5.4.5"})
"""The server's disk is full, it takes nothing just now, it is congested (RFC 3463 3.4 and 3.5). Gmail says 5.4.5 when
an account has reached its daily limit."""
_PERSISTENT_TRANSIENT = frozenset({"5.2.2", "5.3.1", "5.4.2", "5.4.3", "5.4.5"})
"""Statuses that are transient whatever their class. RFC 3463 calls X.3.1 (3.4), X.4.2, X.4.3 and X.4.5 (3.5) "useful
only as a persistent transient error". It says the same of X.2.2 (3.3), as a full mailbox can be emptied.

It says so of X.4.1, "no answer from host", too. But Exchange Online refuses unknown recipients with 550 5.4.1, so that
5.4.1 stays permanent.
"""
_GREYLISTED = re.compile(r"gr[ea]y[- ]?list", re.IGNORECASE)
_NOT_THE_MAIL = frozenset({500, 502, 503, 521})
"""Commands that are unknown or out of sequence (RFC 5321 4.2.2), and a host that takes no mail at all (RFC 7504). The
next command on a fresh connection may succeed."""
_NOT_LOGGED_IN = frozenset({530, 534, 535, 538})
"""Logging in or TLS is asked for (RFC 4954 6, RFC 3207 4): every email is refused until a setting is mended."""
_SESSION = frozenset(
    {
        Stage.CONNECT,
        Stage.GREETING,
        Stage.EHLO,
        Stage.STARTTLS,
        Stage.AUTH,
        Stage.RSET,
        Stage.NOOP,
        Stage.QUIT,
    }
)


def classify(reply: Reply, stage: Stage, recipients: int = 1, rules: Sequence[ReplyRule] = ()) -> Verdict:
    """Return what the reply at that stage means.

    ``recipients``: how many it speaks about. ``rules``: what the mailer's provider means; the first match counts.
    """
    if reply.positive:
        return Verdict(Kind.ACCEPTED)
    for rule in rules:
        if rule.matches(reply):
            return _MEANT[rule.means]
    slow_down = _asks_for_less(reply, stage)
    if reply.code in _NOT_LOGGED_IN:
        return Verdict(Kind.TRANSIENT, slow_down=slow_down, connection=True, mailer_out=True)
    if reply.code == 421 or stage in _SESSION or reply.code in _NOT_THE_MAIL:
        return Verdict(Kind.TRANSIENT, slow_down=slow_down, connection=True)
    if reply.code < 500 or _means_later(reply, stage):
        return Verdict(Kind.TRANSIENT, slow_down=slow_down)
    if stage is Stage.MAIL and not _is_about_the_email(reply):
        return _MEANT[Meaning.SENDER]
    about_one = stage == Stage.RCPT or (stage in (Stage.DOT, Stage.BACKEND) and recipients == 1)
    return Verdict(Kind.PERMANENT, suppress=about_one and reply.enhanced in NO_SUCH_ADDRESS)


_MEANT = {
    Meaning.LATER: Verdict(Kind.TRANSIENT),
    Meaning.SLOW_DOWN: Verdict(Kind.TRANSIENT, slow_down=True),
    Meaning.OUT: Verdict(Kind.TRANSIENT, connection=True, mailer_out=True),
    Meaning.SENDER: Verdict(Kind.TRANSIENT, connection=True, sender=True),
    Meaning.FAILED: Verdict(Kind.PERMANENT),
}
_OF_THE_EMAIL = frozenset({501, 552, 555})
"""Replies to MAIL that are about the email: its sender's syntax, its size, a parameter (RFC 5321 4.2.2 and 4.2.3)."""
_OF_THE_EMAIL_ENHANCED = frozenset({"5.1.7", "5.2.3", "5.3.3", "5.3.4", "5.5.2", "5.5.4"})
"""The same by their status: sender's syntax, too long for the mailbox, features, too big, syntax, parameters (RFC 3463
3.2 to 3.6). Any 5.6.x is about content, too."""


def _is_about_the_email(reply: Reply) -> bool:
    """Tell whether a permanent refusal of MAIL is about this email. Any other is about its sender."""
    enhanced = reply.enhanced
    return reply.code in _OF_THE_EMAIL or enhanced in _OF_THE_EMAIL_ENHANCED or enhanced.startswith("5.6.")


def _asks_for_less(reply: Reply, stage: Stage) -> bool:
    """Tell whether a reply asks for less mail. 421 closes the channel; 4.7.x is policy: too many, too fast.

    Without a status, 450 and 451 are about one mailbox when they answer RCPT, and about us otherwise. RFC 5321 4.3.2
    has no 454 for these commands, but Amazon sends it for too many emails. Greylisting wants us to come back, not to be
    slower (RFC 6647 2.1).
    """
    if reply.code == 421:
        return True
    if stage == Stage.RCPT and _GREYLISTED.search(reply.text):
        return False
    if reply.enhanced:
        return reply.enhanced.startswith("4.7.") or reply.enhanced in _OVERLOAD
    return reply.code in (450, 451, 454) and stage in (Stage.MAIL, Stage.DATA, Stage.DOT, Stage.BACKEND)


TOO_MANY = ".5.3"
"""Too many recipients (RFC 3463 3.6), whatever the class."""
_OF_RECIPIENTS = re.compile(r"recipients", re.IGNORECASE)


def is_too_many(reply: Reply) -> bool:
    """Tell whether a reply to RCPT, given after others were accepted, may mean "too many recipients".

    452 without a status is the code for that, and for other things; 552 was it until RFC 5321 (4.5.3.1.10).
    """
    return reply.refusal and (
        reply.enhanced.endswith(TOO_MANY) or (not reply.enhanced and reply.code in (452, 552))
    )


def names_too_many(reply: Reply) -> bool:
    """Tell whether that is all it can mean."""
    if reply.enhanced:
        return is_too_many(reply)
    return is_too_many(reply) and _OF_RECIPIENTS.search(reply.text) is not None


def _means_later(reply: Reply, stage: Stage) -> bool:
    """Permanent by their number, transient by their meaning.

    552 for a recipient too many is to be taken for 452 (RFC 5321 4.5.3.1.10); 5.5.3 is its status (RFC 3463 3.6).
    """
    if reply.enhanced in _PERSISTENT_TRANSIENT:
        return True
    return stage == Stage.RCPT and (reply.enhanced == "5.5.3" or (reply.code == 552 and not reply.enhanced))
