"""Emails over one open session: MAIL, RCPT, DATA, the content, the final dot, and who learns what.

With PIPELINING (RFC 2920) the commands of an email go out together. Those of the next email follow behind the final dot
of this one, so each email takes one round trip. RFC 2920 3.1 allows that: "the actual transfer of message content is
explicitly allowed to be the first command in a group". The next one's content waits for the reply to this dot and for
the caller's leave.

    we      MAIL RCPT DATA           content 1 . MAIL RCPT DATA           content 2 . MAIL RCPT DATA
    server                250 250 354                     250 250 250 354
    caller                           commit(1)                 ended(1)   commit(2)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from .envelope import DeliveryOutcome, Envelope, EnvelopeSource, Fate
from .errors import (
    ConnectionLost,
    EightBitNotOffered,
    NotCommitted,
    PipeliningRefused,
    ProtocolError,
    SmtpError,
    TooLarge,
    Unsendable,
    Utf8NotOffered,
)
from .link import CommitPoint, Link, Read, Step, Write
from .replies import Reply, Stage, names_too_many
from .server import Timeouts
from .session import Extensions, command

MAX_JOINED_BYTES = 64 * 1024
"""Octets that are copied into one write; larger contents are written as they are."""


class Transaction:
    """One envelope on one connection. ``behind_dot``: its commands were sent behind the final dot of another email."""

    __slots__ = ("asked", "behind_dot", "commands", "envelope", "full", "refused", "reply", "stage", "write")

    def __init__(self, envelope: Envelope, commands: list[bytes]) -> None:
        self.envelope = envelope
        self.commands = commands
        self.behind_dot = False
        self.stage = Stage.MAIL
        self.reply: Reply | None = None  # the refusal of the whole
        self.refused: dict[str, Reply] = {}
        self.asked = 0  # recipients
        self.full: Reply | None = None  # by which the server said that it takes no more recipients
        self.write: Write | None = None  # of the content

    @property
    def hopeless(self) -> bool:
        """Tell whether nobody is left to send it to."""
        if self.reply is not None:
            return True
        return bool(self.refused) and len(self.refused) >= len(set(self.envelope.recipients))

    @property
    def is_ambiguous(self) -> bool:
        """Tell whether the server may have accepted it."""
        return self.write is not None and self.write.dot_sent and not self.hopeless

    def refusal(self) -> DeliveryOutcome:
        return DeliveryOutcome(Fate.REFUSED, self.stage, self.reply, self.refused)


class Dialogue:
    """``again``: envelopes to begin with, and in the end those that were announced but never at fault.

    ``most``: envelopes to take. ``behind_dot``: may the next email's commands go out with the end of this one's
    content, where the server offers PIPELINING? ``unsent``: the transaction at which the connection failed, if that was
    certainly not accepted.
    """

    def __init__(
        self,
        link: Link,
        extensions: Extensions,
        timeouts: Timeouts,
        source: EnvelopeSource,
        again: deque[Envelope],
        most: int,
        behind_dot: bool = True,
    ) -> None:
        self._link = link
        self._extensions = extensions
        self._timeouts = timeouts
        self._source = source
        self._again = again
        self._most = most
        self._pipelining = "PIPELINING" in extensions
        self._behind_dot = behind_dot and self._pipelining
        self._current: Transaction | None = None
        self._following: Transaction | None = None
        self._open_transaction = False
        self.taken = 0
        self.unsent: Transaction | None = None
        self.decided = 0
        """Envelopes over whose fate the server has decided."""

    def deliver(self) -> Generator[Step, Any, None]:
        """Deliver until no envelope waits, or ``most`` were taken. Raise ``SmtpError`` if the connection is of no more
        use."""
        try:
            yield from self._begin()
            while self._current is not None:
                yield from self._carry(self._current)
            if self._open_transaction:
                yield from self._reset()
        except SmtpError as error:
            self._fail(error)
            raise

    # -- one email --------------------------------------------------------------------------------------------------

    def _begin(self) -> Generator[Step, Any, None]:
        self._current = self._take()
        if self._current is not None and self._pipelining:
            commands = b"".join(self._current.commands)
            yield Write(self._link, [commands], Stage.MAIL, self._timeouts.command)

    def _carry(self, transaction: Transaction) -> Generator[Step, Any, None]:
        data: Reply | None
        if self._pipelining:
            data = yield from self._replies(transaction)
        else:
            data = yield from self._one_by_one(transaction)
        if data is not None and data.code == 354:
            yield from self._transfer(transaction)
        else:
            if data is not None and not transaction.hopeless:
                transaction.stage, transaction.reply = Stage.DATA, data
            self._end(transaction, transaction.refusal())
        self._current, self._following = self._following, None
        if self._current is None:
            yield from self._begin()

    def _transfer(self, transaction: Transaction) -> Generator[Step, Any, None]:
        """Send the content, the final dot and the next one's commands; then read the reply to the dot.

        With DATA accepted for no recipient at all, the dot alone (RFC 2920 3.1), whatever the reply to it.
        """
        content = b""
        if not transaction.hopeless:
            transaction.stage = Stage.BODY
            if not (yield CommitPoint(self._link, transaction.envelope)):
                raise NotCommitted("The final dot was withheld", Stage.BODY)
            content = transaction.envelope.content
        self._open_transaction = False  # the dot ends it, whatever the reply (RFC 5321 4.1.1.4)
        if self._behind_dot:
            self._following = self._take()
        if self._following is not None:
            self._following.behind_dot = True
        write = transaction.write = self._content(
            content, self._following.commands if self._following else []
        )
        yield write
        reply = yield Read(self._link, Stage.DOT, self._timeouts.dot)
        self._apply_reply(transaction, write, reply)

    def _apply_reply(self, transaction: Transaction, write: Write, reply: Reply) -> None:
        """Apply what the reply to the dot means."""
        hasty = write.early or not write.dot_sent
        if transaction.hopeless:
            self._end(transaction, transaction.refusal())
        elif reply.code == 421:
            transaction.write = None  # it answers the dot, so nothing is ambiguous
        elif reply.refusal:
            transaction.stage, transaction.reply = Stage.DOT, reply
            self._end(transaction, transaction.refusal())
        elif hasty or not reply.positive:
            raise ProtocolError("The content was answered in a way that means nothing", Stage.DOT, reply)
        else:
            self._end(transaction, DeliveryOutcome(Fate.ACCEPTED, Stage.DOT, reply, transaction.refused))
        if reply.code == 421:
            raise ConnectionLost("The server closes the connection", Stage.DOT, reply)
        if hasty:
            raise ConnectionLost("The server answered before all was sent", Stage.BODY, reply)

    def _end(self, transaction: Transaction, outcome: DeliveryOutcome) -> None:
        self.decided += 1
        self._current = None
        self._source.ended(transaction.envelope, outcome)

    # -- commands and replies -----------------------------------------------------------------------------------

    def _replies(self, transaction: Transaction) -> Generator[Step, Any, Reply]:
        """Read the replies to the commands that were written together, in order. Return that to DATA."""
        if transaction.commands[0] == _RSET:
            yield from self._answer(Stage.RSET)
        self._take_mail(transaction, (yield from self._answer(Stage.MAIL)))
        for recipient in transaction.envelope.recipients:
            self._take_rcpt(transaction, recipient, (yield from self._answer(Stage.RCPT)))
        return (yield from self._answer(Stage.DATA))

    def _one_by_one(self, transaction: Transaction) -> Generator[Step, Any, Reply | None]:
        """Write a command, wait for its reply. Returns DATA's, or None if it came to nothing before."""
        lines = iter(transaction.commands)
        if transaction.commands[0] == _RSET:
            yield from self._say(next(lines), Stage.RSET)
        self._take_mail(transaction, (yield from self._say(next(lines), Stage.MAIL)))
        if transaction.hopeless:
            return None
        for recipient in transaction.envelope.recipients:
            line = next(lines)
            if transaction.full is not None:  # each would cost a round trip
                transaction.refused[recipient] = transaction.full
            else:
                self._take_rcpt(transaction, recipient, (yield from self._say(line, Stage.RCPT)))
        if transaction.hopeless:
            return None
        return (yield from self._say(next(lines), Stage.DATA))

    def _say(self, line: bytes, stage: Stage) -> Generator[Step, Any, Reply]:
        self._link.check_quiet(stage)  # what is there already is no answer to this
        yield Write(self._link, [line], stage, self._timeouts.command)
        return (yield from self._answer(stage))

    def _answer(self, stage: Stage) -> Generator[Step, Any, Reply]:
        reply = self._link.reply(stage)  # those to commands that were written together come together
        if reply is None:
            timeout = self._timeouts.data if stage is Stage.DATA else self._timeouts.command
            reply = yield Read(self._link, stage, timeout)
        if reply.code == 421:
            raise ConnectionLost("The server closes the connection", stage, reply)
        expected = reply.code == 354 if stage is Stage.DATA else reply.positive
        if not expected and not reply.refusal:
            raise ProtocolError(f"An unexpected reply to {stage}", stage, reply)
        return reply

    def _take_mail(self, transaction: Transaction, reply: Reply) -> None:
        self._open_transaction = reply.positive
        if reply.code == 503 and transaction.behind_dot:
            raise PipeliningRefused("The server takes no commands behind the final dot", Stage.MAIL, reply)
        if reply.code == 503:
            raise ProtocolError("The server holds MAIL to be out of turn", Stage.MAIL, reply)
        if reply.refusal:
            transaction.reply = reply

    def _take_rcpt(self, transaction: Transaction, recipient: str, reply: Reply) -> None:
        if transaction.reply is None:  # else MAIL was refused, and that is the reason
            transaction.stage = Stage.RCPT
            transaction.asked += 1
            if reply.refusal:
                transaction.refused[recipient] = reply
                if transaction.asked > len(transaction.refused) and names_too_many(reply):
                    transaction.full = reply

    def _reset(self) -> Generator[Step, Any, None]:
        """Leave no transaction open to whoever uses the connection next."""
        reply = yield from command(self._link, b"RSET", Stage.RSET, self._timeouts.command)
        if not reply.positive:
            raise ProtocolError("The server refused RSET", Stage.RSET, reply)
        self._open_transaction = False

    # -- what is written ----------------------------------------------------------------------------------------

    def _content(self, content: bytes, behind: list[bytes]) -> Write:
        """Return the content with dots stuffed (RFC 5321 4.5.2), the final dot, and what is pipelined behind it."""
        if content.startswith(b"."):
            content = b"." + content
        if b"\r\n." in content:
            content = content.replace(b"\r\n.", b"\r\n..")
        dot = b".\r\n" if not content or content.endswith(b"\r\n") else b"\r\n.\r\n"
        chunks = [content, dot + b"".join(behind)]
        dot_at = len(content) + len(dot)
        if dot_at <= MAX_JOINED_BYTES:
            chunks = [b"".join(chunks)]
        return Write(self._link, chunks, Stage.BODY, self._timeouts.block, dot_at)

    def _take(self) -> Transaction | None:
        """Return the next envelope that this server can take. The others end here."""
        while self.taken < self._most:
            envelope = self._again.popleft() if self._again else self._source.next()
            if envelope is None:
                return None
            try:
                transaction = Transaction(envelope, self._commands(envelope))
            except Unsendable as error:
                self._source.ended(envelope, DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=error))
            else:
                self.taken += 1
                self._open_transaction = False  # there is a RSET now, if there had to be
                return transaction
        return None

    def _commands(self, envelope: Envelope) -> list[bytes]:
        mail = b"MAIL FROM:<%b>%b\r\n" % (envelope.mail_from.encode(), self._parameters(envelope))
        rcpts = [b"RCPT TO:<%b>\r\n" % recipient.encode() for recipient in envelope.recipients]
        return [*([_RSET] if self._open_transaction else []), mail, *rcpts, b"DATA\r\n"]

    def _parameters(self, envelope: Envelope) -> bytes:
        offered = self._extensions
        parameters = b""
        if "SIZE" in offered:
            _check_size(envelope, offered["SIZE"])
            parameters += b" SIZE=%d" % envelope.size
        if envelope.needs_8bit:
            if "8BITMIME" not in offered:
                raise EightBitNotOffered(
                    "The content has octets above 127, and the server does not offer 8BITMIME."
                )
            parameters += b" BODY=8BITMIME"
        if envelope.needs_smtputf8:
            if "SMTPUTF8" not in offered:
                raise Utf8NotOffered(
                    "An address or a header is not ASCII, and the server does not offer SMTPUTF8."
                )
            parameters += b" SMTPUTF8"
        return parameters

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _fail(self, error: SmtpError) -> None:
        """Say what became of the envelope in hand, as the connection is over. The one behind it is unharmed.

        Where replies and commands may be out of step, a refusal may be another one's.
        """
        if self._following is not None:
            self._again.appendleft(self._following.envelope)
        transaction, self._current = self._current, None
        if transaction is None:
            return
        if transaction.is_ambiguous:
            self._source.ended(
                transaction.envelope,
                DeliveryOutcome(Fate.AMBIGUOUS, Stage.DOT, None, transaction.refused, error),
            )
        elif transaction.hopeless and not isinstance(error, ProtocolError):
            self.decided += 1
            self._source.ended(transaction.envelope, transaction.refusal())
        else:
            self.unsent = transaction


_RSET = b"RSET\r\n"


def _check_size(envelope: Envelope, limit: str) -> None:
    """Check the size: no number, or 0, is no limit; 20 digits at most (RFC 1870 4)."""
    most = int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0
    if 0 < most < envelope.size:
        raise TooLarge(f"The email has {envelope.size} octets, the server takes {most} at most.")
