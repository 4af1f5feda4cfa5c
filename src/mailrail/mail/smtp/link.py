"""One TCP connection that never blocks: what is written to it, and the replies that come.

Work that has to wait yields its link, which says for what (``events``) and until when (``deadline``). Whoever drives it
(driver.py) waits for one link or for many. It goes on with the work then, or raises ``TimedOut`` in it.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from .envelope import Envelope
from .errors import CLIENT_CERTIFICATE, ConnectionLost, ProtocolError, SmtpError
from .replies import Garbled, Reply, ReplyReader, Stage

IN, OUT = select.POLLIN, select.POLLOUT
CHUNK_BYTES = 64 * 1024


class Link:
    """Hold the socket, the replies that nobody has used yet, and what is waited for."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.tls: ssl.SSLSocket | None = None
        """The same socket, once what goes through it is encrypted."""
        self.reader = ReplyReader()
        self.replies = self.reader.replies
        self.at_end = False
        """Has the server closed its side?"""
        self.is_quiet = False
        """Has a poll just said that nothing has come? It spares ``check_quiet`` a call."""
        self.is_dot_sent = False
        """May the server have the final dot of what was written last?"""
        self.is_early = False
        """Did it answer before that?"""
        self.events = 0
        self.stage = Stage.CONNECT
        self.timeout = self.deadline = float("inf")

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = self.tls = None

    def awaiting(self, events: int, stage: Stage, timeout: float) -> Link:
        """Return the link, to be yielded, with these seconds from now to wait for the events of ``select.poll``."""
        self.events, self.stage, self.timeout = events, stage, timeout
        self.deadline = time.monotonic() + timeout
        return self

    # -- reading ------------------------------------------------------------------------------------------------------

    def hear(self, stage: Stage, timeout: float) -> Work[Reply]:
        """Wait for the next reply. A poll tells when to look: a look before that is nearly always in vain."""
        self.awaiting(IN, stage, timeout)
        events = 0
        while not self.replies:
            if self.at_end or self.reader.garbled is not None:
                raise self._no_reply(stage)
            if events or self.tls is None or not self.tls.pending():  # of that, no poll tells
                self.events = events or IN
                yield self
            events = self.receive(stage)
        return self.replies.popleft()

    def receive(self, stage: Stage) -> int:
        """Take in what has come. Returns 0 if that was something, or the end, else the event to wait for."""
        assert self.socket is not None
        try:
            received = self.socket.recv(CHUNK_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return IN
        except ssl.SSLWantWriteError:
            return OUT
        except OSError as error:
            advice = CLIENT_CERTIFICATE if is_alert(error) else None
            raise ConnectionLost(f"The connection broke: {error}", stage, advice=advice) from error
        self.at_end = self.at_end or not received
        try:
            self.reader.feed(received)
        except Garbled as error:
            raise ProtocolError(f"The server sent {error}", stage) from error
        return 0

    def check_quiet(self, stage: Stage) -> None:
        """Raise if the server has said something, or left, although no reply was due."""
        is_quiet, self.is_quiet = self.is_quiet, False
        if not self.reader and (is_quiet or self.receive(stage)):
            return
        reply = self.replies.popleft() if self.replies else None
        if reply is None and self.reader.garbled is not None:
            raise self._no_reply(stage)
        if reply is None and not self.reader:
            raise ConnectionLost("The server closed the connection", stage)
        if reply is not None and reply.code == 421:
            raise ConnectionLost("The server closes the connection", stage, reply)
        raise ProtocolError("The server spoke out of turn", stage, reply)

    def _no_reply(self, stage: Stage) -> SmtpError:
        """Return why no reply can come any more."""
        if (garbled := self.reader.garbled) is not None:
            error: SmtpError = ProtocolError(f"The server sent {garbled}", stage)
            error.__cause__ = garbled
            return error
        unfinished = self.reader.unfinished  # a server that refuses everybody may say why, and not to its end
        heard = f" after saying {unfinished!r}" if unfinished else ""
        return ConnectionLost(f"The server closed the connection ({stage}){heard}", stage)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(
        self, chunks: Sequence[bytes], stage: Stage, timeout: float, dot_at: int | None = None
    ) -> Work[None]:
        """Write everything, reading meanwhile: a server that waits for its replies to be read takes nothing in.

        ``dot_at``: how many octets in, the final dot is complete. It ends before that if the server has answered and
        gone: the answer is to be read.
        """
        self.is_dot_sent = self.is_early = False
        sent, waited_at = 0, -1
        for chunk in chunks:
            left: bytes | memoryview = chunk
            while left:
                if dot_at is not None and not sent:
                    self.check_quiet(stage)
                assert self.socket is not None
                try:
                    taken = self.socket.send(left)
                except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if self._is_gone(stage):
                        return
                    if sent != waited_at:  # else nothing has moved, and the time goes on
                        self.awaiting(IN | OUT, stage, timeout)
                        waited_at = sent
                    yield self
                except OSError as error:
                    self._is_gone(stage, error)
                    return
                else:
                    sent += taken
                    self.is_dot_sent = dot_at is not None and sent >= dot_at
                    if taken == len(left):
                        break
                    left = memoryview(left)[taken:]

    def _is_gone(self, stage: Stage, broken: OSError | None = None) -> bool:
        """Take in what comes. True: the server has answered, and gone; that answer is to be read."""
        lost = None
        if broken is not None:
            lost = ConnectionLost(f"The connection broke ({stage}): {broken}", stage)
        try:
            while not self.at_end and not self.receive(stage):
                self.is_early = self.is_early or not self.is_dot_sent
        except ConnectionLost as error:
            lost = lost or error
        if self.at_end:
            lost = lost or ConnectionLost(f"The server closed the connection ({stage})", stage)
        if lost is not None and not self.reader:
            raise lost from broken
        return lost is not None


T = TypeVar("T")
Work = Generator[Link | Envelope, Any, T]
"""What is done over links. It yields a link to wait for, or an envelope, to be told whether its final dot may leave."""


def is_alert(error: Exception) -> bool:
    """Tell whether the server ended TLS, and said so (RFC 8446 6.2)."""
    return "ALERT" in str(getattr(error, "reason", ""))
