"""A connection of a pool: opened when it is needed, checked before it is used again, replaced when it broke."""

from __future__ import annotations

import time
from collections import deque

from mailrail.log import logger_of

from .dialogue import Dialogue
from .envelope import DeliveryOutcome, Envelope, EnvelopeSource, Fate
from .errors import ConnectionLost, NotCommitted, PipeliningRefused, SmtpError
from .link import Link, Work
from .replies import Stage
from .server import SmtpServer
from .session import Extensions, command, open_session
from .transactions import learn_limits

logger = logger_of("mailrail.mail")

MAX_BREAKS = 3
"""Connections in a row that broke before the server had decided over a single email."""


_strict: set[SmtpServer] = set()
"""Servers that take no commands behind the final dot, such as Haraka 3.3: 503. RFC 2920 3.1 permits these commands, and
asks nobody to send them."""


class Connection:
    """Carry envelopes over at most one open link at a time, and over its successors."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self.extensions: Extensions = {}
        self._link = Link()
        self._carried = 0
        self._opened_at = self._used_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._link.socket is not None

    @property
    def is_worn(self) -> bool:
        """Tell whether it has carried or lived enough."""
        too_old = time.monotonic() - self._opened_at > self.server.max_age
        return self._carried >= self.server.max_messages or too_old

    def close(self) -> None:
        """Close it at once, without QUIT."""
        self._link.close()

    def open(self) -> Work[bool]:
        """Make it ready for email. Returns whether that took a new link. Raises ``SmtpError``."""
        if self.is_open and (yield from self._is_alive()):
            return False
        self.close()
        self._link = Link()
        self.extensions = yield from open_session(self._link, self.server)
        learn_limits(self.server, self.extensions.get("LIMITS", ""))
        self._opened_at = self._used_at = time.monotonic()
        self._carried = 0
        return True

    def quit(self) -> Work[None]:
        """Say goodbye, wait a moment for the answer, close."""
        try:
            yield from command(self._link, b"QUIT", Stage.QUIT, self.server.timeouts.quit)
        except SmtpError:
            pass  # gone already
        finally:
            self.close()

    def work(self, source: EnvelopeSource) -> Work[SmtpError | None]:
        """Deliver until no envelope waits. Returns why it gave up before, if it did."""
        again: deque[Envelope] = deque()
        breaks = 0
        while again or len(source):
            try:
                fresh = yield from self.open()
            except SmtpError as error:
                return self._give_up(source, again, error)
            dialogue = Dialogue(
                self._link,
                self.extensions,
                self.server.timeouts,
                source,
                again,
                most=self.server.max_messages - self._carried,
                behind_dot=self.server not in _strict,
            )
            try:
                yield from dialogue.deliver()
            except SmtpError as error:
                self.close()
                if isinstance(error, PipeliningRefused):
                    _learn(self.server, error)
                self._put_back(dialogue, fresh, source, again, error)
                innocent = dialogue.decided or not fresh or isinstance(error, NotCommitted)
                breaks = 0 if innocent else breaks + 1
                if breaks >= MAX_BREAKS:
                    return self._give_up(source, again, error)
            except BaseException:  # nobody knows what has been said
                self.close()
                raise
            else:
                self._used_at = time.monotonic()
                self._carried += dialogue.taken
                if self.is_worn:
                    yield from self.quit()
                elif not dialogue.taken:
                    break  # somebody else was quicker
        return None

    @staticmethod
    def _put_back(
        dialogue: Dialogue, fresh: bool, source: EnvelopeSource, again: deque[Envelope], error: SmtpError
    ) -> None:
        """Send an email again over a new link if the link came out of the pool and broke at this first email.

        So does one whose commands came too early for this server.

        Who was refused before it broke stays so, unless replies and commands may have been out of step.
        """
        if (unsent := dialogue.unsent) is None:
            return
        if isinstance(error, PipeliningRefused) or (not fresh and not dialogue.decided):
            again.appendleft(unsent.envelope)
        else:
            refused = unsent.refused if isinstance(error, ConnectionLost) else {}
            outcome = DeliveryOutcome(Fate.UNSENT, error.stage, error.reply, refused, error)
            source.ended(unsent.envelope, outcome)

    @staticmethod
    def _give_up(source: EnvelopeSource, again: deque[Envelope], error: SmtpError) -> SmtpError:
        for envelope in again:
            source.ended(envelope, DeliveryOutcome(Fate.UNSENT, error.stage, error.reply, error=error))
        again.clear()
        return error

    def _is_alive(self) -> Work[bool]:
        """Tell whether it can be used: nothing said out of turn, not too old, and NOOP answered after a long
        silence."""
        if self.is_worn:
            yield from self.quit()
            return False
        try:
            self._link.check_quiet(Stage.NOOP)
            if time.monotonic() - self._used_at > self.server.check_after:
                reply = yield from command(self._link, b"NOOP", Stage.NOOP, self.server.timeouts.command)
                return reply.positive
        except SmtpError:
            return False
        except BaseException:  # the reply is outstanding, and the pool may get this connection back
            self.close()
            raise
        return True


def _learn(server: SmtpServer, error: SmtpError) -> None:
    """Send this server no more commands behind a final dot, and tell so once."""
    if server not in _strict:
        _strict.add(server)
        text = (
            "%s:%s takes no commands behind the final dot; the next email now waits for the reply to it: %s"
        )
        logger.warning(text, server.host, server.port, error.reply)
