"""One TCP connection that never blocks, and the steps that can be waited for on it.

A step's ``attempt`` goes as far as it can. It returns 0 when it is done, else the events of ``select.poll`` that it
waits for. It raises an ``SmtpError`` when there is nothing left to wait for. Whoever drives it (driver.py) does the
waiting: for one connection or for many.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Sequence
from errno import EINPROGRESS
from os import strerror

from .envelope import Envelope
from .errors import (
    CERTIFICATE,
    CLIENT_CERTIFICATE,
    CannotConnect,
    ConnectionLost,
    ProtocolError,
    SmtpError,
    TimedOut,
    TlsFailed,
)
from .replies import Garbled, Reply, ReplyReader, Stage
from .server import USE_TLS

IN, OUT = select.POLLIN, select.POLLOUT
CHUNK_BYTES = 64 * 1024
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""What OpenSSL calls it when a server answers TLS by plain text."""


class Link:
    """Hold the socket, and the replies that have come out of it so far."""

    def __init__(self) -> None:
        self.socket: socket.socket | ssl.SSLSocket | None = None
        self.reader = ReplyReader()
        self.at_end = False
        """Has the server closed its side?"""
        self.is_quiet = False
        """Has a poll just said that nothing has come? It spares ``check_quiet`` a call."""

    @property
    def live(self) -> socket.socket | ssl.SSLSocket:
        assert self.socket is not None
        return self.socket

    def fileno(self) -> int:
        return self.socket.fileno() if self.socket is not None else -1

    @property
    def secure(self) -> bool:
        return isinstance(self.socket, ssl.SSLSocket)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    @property
    def has_pending(self) -> bool:
        """Tell whether TLS has taken in something from the network that no poll will tell of."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def receive(self, stage: Stage) -> int:
        """Take in what has come. Returns 0 if that was something, or the end, else the event to wait for."""
        try:
            received = self.live.recv(CHUNK_BYTES)
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            return IN
        except ssl.SSLWantWriteError:
            return OUT
        except OSError as error:
            advice = CLIENT_CERTIFICATE if _is_alert(error) else None
            raise ConnectionLost(f"The connection broke: {error}", stage, advice=advice) from error
        self.at_end = self.at_end or not received
        try:
            self.reader.feed(received)
        except Garbled as error:
            raise ProtocolError(f"The server sent {error}", stage) from error
        return 0

    def reply(self, stage: Stage) -> Reply | None:
        """Return the next reply, if all of it has come."""
        try:
            return self.reader.next()
        except Garbled as error:
            raise ProtocolError(f"The server sent {error}", stage) from error

    def check_quiet(self, stage: Stage) -> None:
        """Raise if the server has said something, or left, although no reply was due."""
        is_quiet, self.is_quiet = self.is_quiet, False
        if not self.reader and (is_quiet or self.receive(stage)):
            return
        if self.reader:
            reply = self.reply(stage)
            if reply is not None and reply.code == 421:
                raise ConnectionLost("The server closes the connection", stage, reply)
            raise ProtocolError("The server spoke out of turn", stage, reply)
        raise ConnectionLost("The server closed the connection", stage)


class Step:
    """``timeout``: seconds it may wait. ``progress`` grows when something moved and the time starts anew."""

    stage = Stage.CONNECT
    progress = 0

    def __init__(self, link: Link, timeout: float) -> None:
        self.link = link
        self.timeout = timeout

    def attempt(self) -> int:
        raise NotImplementedError

    result: object = None

    def too_late(self) -> SmtpError:
        return TimedOut(f"No answer within {self.timeout:g} s ({self.stage})", self.stage)


Address = tuple[int, tuple[object, ...]]
"""Its family, and what sockets of that family take."""


def resolve(host: str, port: int) -> list[Address]:
    """Return all addresses of the host, in the order in which they are to be tried."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
        raise CannotConnect(f"The name of {host}:{port} is not known: {error}", Stage.CONNECT) from error
    return [(family, address) for family, _, _, _, address in addresses]


class Connect(Step):
    """Connect to one address. ``name``: what it is an address of."""

    def __init__(self, link: Link, name: str, address: Address, timeout: float) -> None:
        super().__init__(link, timeout)
        self._name = name
        self._family, self._address = address

    def attempt(self) -> int:
        try:
            if self.link.socket is None:
                self.link.socket = socket.socket(self._family, socket.SOCK_STREAM)
                self.link.socket.setblocking(False)
                code = self.link.socket.connect_ex(self._address)
                if code == EINPROGRESS:
                    return OUT
            else:
                code = self.link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, strerror(code))  # the subclass that fits, such as ConnectionRefusedError
            self.link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (
            OSError
        ) as error:  # no socket at all, too: a family that this machine lacks, no file left to open
            raise CannotConnect(f"{self._name} cannot be reached: {error.strerror}", self.stage) from error
        return 0

    def too_late(self) -> SmtpError:
        error = CannotConnect(f"{self._name} did not answer within {self.timeout:g} s", self.stage)
        error.__cause__ = TimeoutError("timed out")
        return error


class Handshake(Step):
    """Begin TLS."""

    def __init__(self, link: Link, context: ssl.SSLContext, host: str, timeout: float, stage: Stage) -> None:
        super().__init__(link, timeout)
        self.stage = stage
        self._context = context
        self._host = host

    def attempt(self) -> int:
        try:
            return self._shake()
        except ssl.SSLWantReadError:
            return IN
        except ssl.SSLWantWriteError:
            return OUT
        except (OSError, ValueError) as error:  # ValueError: no valid host name
            raise TlsFailed(
                f"No TLS with {self._host}: {error}", self.stage, advice=self._advice(error)
            ) from error

    def _advice(self, error: Exception) -> str | None:
        """Return what to do, where the error tells it."""
        if getattr(error, "reason", None) in NO_TLS and self.stage is Stage.CONNECT:
            return USE_TLS
        if isinstance(error, ssl.SSLCertVerificationError):
            return CERTIFICATE
        return CLIENT_CERTIFICATE if _is_alert(error) else None

    def _shake(self) -> int:
        if not isinstance(self.link.socket, ssl.SSLSocket):
            self.link.socket = self._context.wrap_socket(
                self.link.live, server_hostname=self._host, do_handshake_on_connect=False
            )
        assert isinstance(self.link.socket, ssl.SSLSocket)
        self.link.socket.do_handshake()
        return 0


class Read(Step):
    """Wait for the next reply. A poll tells when to look: a look before that is nearly always in vain."""

    def __init__(self, link: Link, stage: Stage, timeout: float) -> None:
        self.link, self.stage, self.timeout = link, stage, timeout
        self._is_told = False
        """Has something come, as far as a poll can tell?"""
        self.result: Reply | None = None

    def attempt(self) -> int:
        while (reply := self.link.reply(self.stage)) is None:
            if self.link.at_end:
                raise ConnectionLost(
                    f"The server closed the connection ({self.stage}){self._heard()}", self.stage
                )
            if not self._is_told and not self.link.has_pending:
                self._is_told = True
                return IN
            if events := self.link.receive(self.stage):
                return events
            self._is_told = False
        self.result = reply
        return 0

    def _heard(self) -> str:
        """Return what of the reply had come: a server that refuses everybody may say why, and not to its end."""
        return f" after saying {unfinished!r}" if (unfinished := self.link.reader.unfinished) else ""


class Write(Step):
    """Everything, reading meanwhile: a server that waits for its replies to be read takes nothing in.

    ``dot_at``: how many octets in, the final dot is complete. ``early``: the server answered before that.
    """

    def __init__(
        self, link: Link, chunks: Sequence[bytes], stage: Stage, timeout: float, dot_at: int | None = None
    ) -> None:
        self.link, self.stage, self.timeout = link, stage, timeout
        self._chunks: list[bytes | memoryview] = [*reversed(chunks)]
        self._dot_at = dot_at
        self.early = False

    @property
    def dot_sent(self) -> bool:
        """Tell whether the server may have the final dot."""
        return self._dot_at is not None and self.progress >= self._dot_at

    def attempt(self) -> int:
        if self._dot_at is not None and not self.progress:
            self.link.check_quiet(self.stage)
        while self._chunks:
            chunk = self._chunks[-1]
            try:
                sent = self.link.live.send(chunk)
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if self._listen():
                    return 0
                return IN | OUT
            except OSError as error:
                self._listen(error)
                return 0
            self.progress += sent
            if sent == len(chunk):
                self._chunks.pop()
            else:
                self._chunks[-1] = memoryview(chunk)[sent:]
        return 0

    def _listen(self, broken: OSError | None = None) -> bool:
        """Take in what comes. True: the server has answered, and gone; that answer is to be read."""
        lost = None
        if broken is not None:
            lost = ConnectionLost(f"The connection broke ({self.stage}): {broken}", self.stage)
        try:
            while not self.link.at_end and not self.link.receive(self.stage):
                self.early = self.early or not self.dot_sent
        except ConnectionLost as error:
            lost = lost or error
        if self.link.at_end:
            lost = lost or ConnectionLost(f"The server closed the connection ({self.stage})", self.stage)
        if lost is not None and not self.link.reader:
            raise lost from broken
        return lost is not None


class CommitPoint(Step):
    """Ask the caller whether the final dot may leave. ``driver`` answers it."""

    timeout = float("inf")

    def __init__(self, link: Link, envelope: Envelope) -> None:
        self.link = link
        self.envelope = envelope
        self.result = False
        """May it?"""


def _is_alert(error: Exception) -> bool:
    """Tell whether the server ended TLS, and said so (RFC 8446 6.2)."""
    return "ALERT" in str(getattr(error, "reason", ""))
