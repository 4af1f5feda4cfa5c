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
from .link import Link, Work
from .replies import Reply, Stage, names_too_many
from .server import Timeouts
from .session import Extensions, command

MAX_JOINED_BYTES = 64 * 1024
"""Octets that are copied into one write; larger contents are written as they are."""


Command = tuple[Stage, bytes, str]
"""What it begins, its line, and the recipient that it names."""


class Transaction:
    """One envelope on one connection. ``behind_dot``: its commands were sent behind the final dot of another email."""

    __slots__ = (
        "behind_dot",
        "commands",
        "envelope",
        "full",
        "is_hopeless",
        "is_written",
        "refused",
        "reply",
        "stage",
    )

    def __init__(self, envelope: Envelope, commands: list[Command], behind_dot: bool) -> None:
        self.envelope = envelope
        self.commands = commands
        self.behind_dot = behind_dot
        self.stage = Stage.MAIL  # of the last refusal
        self.reply: Reply | None = None  # the refusal of the whole
        self.refused: dict[str, Reply] = {}
        self.is_hopeless = False  # nobody is left to send it to
        self.full: Reply | None = None  # by which the server said that it takes no more recipients
        self.is_written = False  # the content has begun to leave, and no reply says that it was refused

    @property
    def lines(self) -> bytes:
        return b"".join([line for _, line, _ in self.commands])

    def refuse(self, stage: Stage, reply: Reply, recipient: str = "") -> None:
        """Note the refusal of a recipient, or of the whole. One that comes when all is refused says nothing new."""
        if self.is_hopeless:
            return
        recipients = self.envelope.recipients
        self.stage = stage
        if recipient:
            self.refused[recipient] = reply
            if names_too_many(reply) and recipients.index(recipient) >= len(self.refused):
                self.full = reply
        else:
            self.reply = reply
        self.is_hopeless = self.reply is not None or len(self.refused) == len(recipients)

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
        self._size_limit = _size_limit(extensions)
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

    def deliver(self) -> Work[None]:
        """Deliver until no envelope waits, or ``most`` were taken. Raise ``SmtpError`` if the connection is of no more
        use."""
        link, timeouts = self._link, self._timeouts
        try:
            yield from self._begin()
            while (transaction := self._current) is not None:
                reply = yield from self._announce(transaction)
                if reply is None or reply.code != 354:
                    self._end(transaction, transaction.refusal())
                else:
                    if not transaction.is_hopeless and not (yield transaction.envelope):
                        raise NotCommitted("The final dot was withheld", Stage.BODY)
                    chunks, dot_at = self._content(transaction)
                    transaction.is_written = True
                    yield from link.write(chunks, Stage.BODY, timeouts.block, dot_at)
                    reply = yield from link.hear(Stage.DOT, timeouts.dot)
                    self._apply_reply(transaction, reply)
                self._current, self._following = self._following, None
                if self._current is None:
                    yield from self._begin()
            if self._open_transaction:
                yield from self._reset()
        except SmtpError as error:
            self._fail(error)
            raise

    def _begin(self) -> Work[None]:
        """Take an email whose commands are not behind the dot of another one."""
        self._current = transaction = self._take(behind_dot=False)
        if transaction is not None and self._pipelining:
            yield from self._link.write([transaction.lines], Stage.MAIL, self._timeouts.command)

    def _take(self, behind_dot: bool) -> Transaction | None:
        """Return the next envelope that this server can take. The others end here."""
        while self.taken < self._most:
            envelope = self._again.popleft() if self._again else self._source.next()
            if envelope is None:
                return None
            try:
                transaction = Transaction(envelope, self._commands(envelope), behind_dot)
            except Unsendable as error:
                self._source.ended(envelope, DeliveryOutcome(Fate.UNFIT, Stage.MAIL, error=error))
            else:
                self.taken += 1
                self._open_transaction = False  # there is a RSET now, if there had to be
                return transaction
        return None

    def _commands(self, envelope: Envelope) -> list[Command]:
        offered, size = self._extensions, b""
        if "SIZE" in offered:
            size = b" SIZE=%d" % envelope.size
            if 0 < self._size_limit < envelope.size:
                raise TooLarge(
                    f"The email has {envelope.size} octets, the server takes {self._size_limit} at most."
                )
        if envelope.needs_8bit and "8BITMIME" not in offered:
            raise EightBitNotOffered(
                "The content has octets above 127, and the server does not offer 8BITMIME."
            )
        if envelope.needs_smtputf8 and "SMTPUTF8" not in offered:
            raise Utf8NotOffered(
                "An address or a header is not ASCII, and the server does not offer SMTPUTF8."
            )
        body = b" BODY=8BITMIME" if envelope.needs_8bit else b""
        utf8 = b" SMTPUTF8" if envelope.needs_smtputf8 else b""
        mail = b"MAIL FROM:<%b>%b%b%b\r\n" % (envelope.mail_from.encode(), size, body, utf8)
        return [
            *([(Stage.RSET, b"RSET\r\n", "")] if self._open_transaction else []),
            (Stage.MAIL, mail, ""),
            *[(Stage.RCPT, b"RCPT TO:<%b>\r\n" % it.encode(), it) for it in envelope.recipients],
            (Stage.DATA, b"DATA\r\n", ""),
        ]

    # -- commands and their replies -----------------------------------------------------------------------------------

    def _announce(self, transaction: Transaction) -> Work[Reply | None]:
        """Read the replies to the commands, in order: those that were written together come together.

        Without PIPELINING each command is written when the one before it is answered. Return the reply to DATA, or
        ``None`` if it came to nothing before.
        """
        link, replies, reply = self._link, self._link.replies, None
        for stage, line, recipient in transaction.commands:
            timeout = self._timeouts.data if stage is Stage.DATA else self._timeouts.command
            if not self._pipelining:
                if transaction.is_hopeless:
                    return None
                if recipient and transaction.full is not None:  # each would cost a round trip
                    transaction.refuse(stage, transaction.full, recipient)
                    continue
                link.check_quiet(stage)  # what is there already is no answer to this
                yield from link.write([line], stage, timeout)
            reply = replies.popleft() if replies else (yield from link.hear(stage, timeout))
            if stage is Stage.MAIL:
                self._open_transaction = reply.positive
            if not (reply.code == 354 if stage is Stage.DATA else reply.positive):
                self._apply_refusal(transaction, stage, reply, recipient)
        return reply

    @staticmethod
    def _apply_refusal(transaction: Transaction, stage: Stage, reply: Reply, recipient: str) -> None:
        """Apply what a reply to a command means that is not the one to be hoped for."""
        if reply.code == 421:
            raise ConnectionLost("The server closes the connection", stage, reply)
        if not reply.refusal:
            raise ProtocolError(f"An unexpected reply to {stage}", stage, reply)
        if stage is Stage.MAIL and reply.code == 503 and transaction.behind_dot:
            raise PipeliningRefused("The server takes no commands behind the final dot", stage, reply)
        if stage is Stage.MAIL and reply.code == 503:
            raise ProtocolError("The server holds MAIL to be out of turn", stage, reply)
        if stage is not Stage.RSET:
            transaction.refuse(stage, reply, recipient)

    def _reset(self) -> Work[None]:
        """Leave no transaction open to whoever uses the connection next."""
        reply = yield from command(self._link, b"RSET", Stage.RSET, self._timeouts.command)
        if not reply.positive:
            raise ProtocolError("The server refused RSET", Stage.RSET, reply)
        self._open_transaction = False

    # -- the content and the reply to its dot -------------------------------------------------------------------------

    def _content(self, transaction: Transaction) -> tuple[list[bytes], int]:
        """Return the content with dots stuffed (RFC 5321 4.5.2), the final dot, and the next one's commands.

        And how many octets in, the dot is complete. With DATA accepted for no recipient at all, the dot alone (RFC 2920
        3.1), whatever the reply to it.
        """
        content = b"" if transaction.is_hopeless else transaction.envelope.content
        if content.startswith(b"."):
            content = b"." + content
        if b"\r\n." in content:
            content = content.replace(b"\r\n.", b"\r\n..")
        dot = b".\r\n" if not content or content.endswith(b"\r\n") else b"\r\n.\r\n"
        self._open_transaction = False  # the dot ends it, whatever the reply (RFC 5321 4.1.1.4)
        if self._behind_dot:
            self._following = self._take(behind_dot=True)
        behind = self._following.lines if self._following is not None else b""
        dot_at = len(content) + len(dot)
        if dot_at <= MAX_JOINED_BYTES:
            return [content + dot + behind], dot_at
        return [content, dot + behind], dot_at

    def _apply_reply(self, transaction: Transaction, reply: Reply) -> None:
        """Apply what the reply to the dot means."""
        is_hasty = self._link.is_early or not self._link.is_dot_sent
        if transaction.is_hopeless:
            self._end(transaction, transaction.refusal())
        elif reply.code == 421:
            transaction.is_written = False  # it answers the dot, so nothing is ambiguous
        elif reply.refusal:
            transaction.refuse(Stage.DOT, reply)
            self._end(transaction, transaction.refusal())
        elif is_hasty or not reply.positive:
            raise ProtocolError("The content was answered in a way that means nothing", Stage.DOT, reply)
        else:
            self._end(transaction, DeliveryOutcome(Fate.ACCEPTED, Stage.DOT, reply, transaction.refused))
        if reply.code == 421:
            raise ConnectionLost("The server closes the connection", Stage.DOT, reply)
        if is_hasty:
            raise ConnectionLost("The server answered before all was sent", Stage.BODY, reply)

    def _end(self, transaction: Transaction, outcome: DeliveryOutcome) -> None:
        self.decided += 1
        self._current = None
        self._source.ended(transaction.envelope, outcome)

    def _fail(self, error: SmtpError) -> None:
        """Say what became of the envelope in hand, as the connection is over. The one behind it is unharmed.

        Where replies and commands may be out of step, a refusal may be another one's.
        """
        if self._following is not None:
            self._again.appendleft(self._following.envelope)
        transaction, self._current = self._current, None
        if transaction is None:
            return
        if transaction.is_hopeless and not isinstance(error, ProtocolError):
            self._end(transaction, transaction.refusal())
        elif transaction.is_written and self._link.is_dot_sent and not transaction.is_hopeless:
            self._source.ended(
                transaction.envelope,
                DeliveryOutcome(Fate.AMBIGUOUS, Stage.DOT, None, transaction.refused, error),
            )
        else:
            self.unsent = transaction


def _size_limit(offered: Extensions) -> int:
    """Return the most octets of an email; no number, or 0, is no limit; 20 digits at most (RFC 1870 4)."""
    limit = offered.get("SIZE", "")
    return int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0
