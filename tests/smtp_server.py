"""A real SMTP server that misbehaves where a test tells it to, and keeps an account of what it accepted."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hmac import HMAC

from .ports import free_port

EXTENSIONS = ("SIZE 10000000", "8BITMIME", "SMTPUTF8")
USER, PASSWORD = "someone", "p\xe4ss word"
CHALLENGE = b"<1896.697170952@server.example.com>"


@dataclass(frozen=True)
class Fault:
    """What happens at the ``nth`` (from 0, over all connections) time the stage is reached.

    ``stage``: CONNECT, EHLO, STARTTLS, HANDSHAKE, AUTH, MAIL, RCPT, DATA, BODY (content has begun to come), DOT, NOOP,
    RSET. ``what``: ``disconnect``, ``silence``, ``garbage``, ``accept-disconnect`` (DOT only: keep the email, then
    close), or the reply to give, without CRLF; after 421 the connection is closed.
    """

    stage: str
    what: str
    nth: int = 0


@dataclass(frozen=True)
class Mail:
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    at: float = field(default_factory=time.monotonic, compare=False)
    """When it was accepted."""


@dataclass
class _Transaction:
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    turned_away: int = 0


class _Over(Exception):
    """This connection ends."""


class ScriptedServer:
    """``with ScriptedServer(…) as server:`` listens at 127.0.0.1, ``server.port``, until the block ends.

    ``refused``: recipients that are refused, with their replies; ``refused_senders``: senders, likewise.
    ``eager_data``: 354 for DATA although nobody was accepted. ``byte_by_byte``: every byte of a reply in a segment of
    its own. ``strict_dot``: commands that come with a final dot are dropped, and so many 503 said for so many lines.
    ``room``: recipients that a transaction takes; those behind are told ``full``, so many (``overshoot``) before 421.
    ``tls``: STARTTLS is offered; ``injected``: octets sent behind the reply to it.
    """

    def __init__(
        self,
        faults: Iterable[Fault] = (),
        *,
        pipelining: bool = True,
        extensions: Sequence[str] = EXTENSIONS,
        refused: dict[str, str] | None = None,
        refused_senders: dict[str, str] | None = None,
        eager_data: bool = False,
        byte_by_byte: bool = False,
        strict_dot: Callable[[int], int] | None = None,
        room: int | None = None,
        full: str = "452 4.5.3 Too many recipients",
        overshoot: int | None = None,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        injected: bytes = b"",
        password: str = PASSWORD,
        token: str = "tok",
        port: int | None = None,
    ) -> None:
        self._faults = {(fault.stage, fault.nth): fault.what for fault in faults}
        self._offers = [*extensions, *(["PIPELINING"] if pipelining else [])]
        self._refused = refused or {}
        self._refused_senders = refused_senders or {}
        self._eager_data = eager_data
        self._byte_by_byte = byte_by_byte
        self._strict_dot = strict_dot
        self._room = room
        self._full = full
        self._overshoot = overshoot
        self.turned_away = 0
        """Recipients for whom there was no room."""
        self.behind_dot = 0
        """Emails whose final dot had commands behind it."""
        self._tls = tls
        self._implicit_tls = implicit_tls
        self._injected = injected
        self._password = password
        self.token = token
        """The one that is good now."""
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._mails: list[Mail] = []
        self.most_connections = 0
        """So many were open at once, for the client."""
        self._conversations: set[_Conversation] = set()
        self.lines: list[bytes] = []
        """Every command, in order."""
        self.segments: list[bytes] = []
        """Everything that was read, as it came."""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = port or free_port()
        self._listening = socket.create_server(("127.0.0.1", self.port))

    def __enter__(self) -> ScriptedServer:
        accepting = threading.Thread(target=self._accept, name="scripted smtp", daemon=True)
        self._threads.append(accepting)
        accepting.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join(20)
        self.drop_all()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    @property
    def mails(self) -> list[Mail]:
        """What was accepted, in order."""
        with self._lock:
            return list(self._mails)

    @property
    def connections(self) -> int:
        return self._seen["CONNECT"]

    @property
    def open_connections(self) -> int:
        return sum(thread.is_alive() for thread in self._threads[1:])

    def count(self, stage: str) -> int:
        return self._seen[stage]

    def limit(self, room: int, *faults: Fault) -> None:
        """From now on a transaction takes so many recipients, and these things happen."""
        self._room = room
        self._faults.update({(fault.stage, fault.nth): fault.what for fault in faults})

    def drop_all(self) -> None:
        """Close every connection, as a server does that restarts."""
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    # -- for the threads --------------------------------------------------------------------------------------------

    def fault_at(self, stage: str) -> str | None:
        with self._lock:
            nth = self._seen[stage]
            self._seen[stage] += 1
            return self._faults.get((stage, nth))

    def began(self, conversation: _Conversation) -> None:
        """Count those that are open. A client may have closed some whose threads have not come to notice it."""
        with self._lock:
            self._conversations.add(conversation)
            now_open = sum(each.is_open() for each in self._conversations)
            self.most_connections = max(self.most_connections, now_open)

    def ended(self, conversation: _Conversation) -> None:
        with self._lock:
            self._conversations.remove(conversation)

    def keep(self, mail: Mail) -> None:
        with self._lock:
            self._mails.append(mail)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                with self._lock:
                    self._sockets.append(client)
                thread = threading.Thread(target=_Conversation(self, client).run, daemon=True)
                self._threads.append(thread)
                thread.start()


class _Conversation:
    """One connection, in a thread of its own."""

    def __init__(self, server: ScriptedServer, client: socket.socket) -> None:
        self._server = server
        self._socket = client
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._transaction = _Transaction()
        self._in_content = False

    def run(self) -> None:
        self._server.began(self)
        try:
            self._converse()
        finally:
            self._server.ended(self)

    def is_open(self) -> bool:
        """Ask the kernel: once the client has closed it, the state is no longer TCP_ESTABLISHED (tcp(7), TCP_INFO)."""
        try:
            return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"
        except OSError:  # closed by us
            return False

    def _converse(self) -> None:
        with suppress(_Over, OSError):
            if self._server._implicit_tls:
                self._secure()
            self._reply("CONNECT", "220 scripted ESMTP")
            while True:
                self._command(self._line())
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # -- reading and writing ----------------------------------------------------------------------------------------

    def _more(self) -> None:
        received = self._socket.recv(65536)
        if not received:
            raise _Over
        self._server.segments.append(received)
        self._unread += received

    def _line(self) -> bytes:
        while b"\r\n" not in self._unread:
            self._more()
        line, _, self._unread = self._unread.partition(b"\r\n")
        self._server.lines.append(line)
        return line

    def _reply(self, stage: str, usual: str) -> str:
        """Say what is usual here, or do what the script says instead. Returns what was said."""
        return self._act(self._server.fault_at(stage), usual)

    def _act(self, what: str | None, usual: str) -> str:
        if what == "disconnect":
            raise _Over
        if what == "silence":
            self._wait_for_the_end()
        if what == "garbage":
            what = "\0\xff this is no reply"
        self._say(what or usual)
        return what or usual

    def _say(self, text: str) -> None:
        octets = text.encode() + b"\r\n"
        if self._server._byte_by_byte:
            for n in range(len(octets)):
                self._socket.sendall(octets[n : n + 1])
        else:
            self._socket.sendall(octets)
        if text.startswith("421"):
            raise _Over

    def _wait_for_the_end(self) -> None:
        while True:
            self._more()
            self._unread = b""

    def _secure(self) -> None:
        if what := self._server.fault_at("HANDSHAKE"):
            self._act(what, "")
        assert self._server._tls is not None
        self._socket = self._server._tls.wrap_socket(self._socket, server_side=True)
        with self._server._lock:
            self._server._sockets.append(self._socket)

    # -- commands ---------------------------------------------------------------------------------------------------

    def _command(self, line: bytes) -> None:
        verb = line.split(b" ")[0].upper().decode("ascii", "replace")
        command = getattr(self, f"_do_{verb.lower()}", None)
        if command is None:
            self._say("500 5.5.1 What?")
        else:
            command(line)

    def _do_ehlo(self, line: bytes) -> None:
        offers = list(self._server._offers)
        if self._server._tls is not None and not isinstance(self._socket, ssl.SSLSocket):
            offers.append("STARTTLS")
        lines = ["scripted", *offers]
        self._reply("EHLO", "\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]))

    def _do_starttls(self, line: bytes) -> None:
        if not self._reply("STARTTLS", "220 2.0.0 Go ahead").startswith("220"):
            return
        if self._server._injected:
            self._socket.sendall(self._server._injected)
        self._secure()

    def _do_auth(self, line: bytes) -> None:
        mechanism, *initial = line.split(b" ")[1:]
        password = self._server._password
        secret = f"{USER}\0{password}".encode()
        match mechanism:
            case b"PLAIN":
                right = b64decode(initial[0]) == b"\0" + secret
            case b"LOGIN":
                right = b"\0".join([self._ask(b"Username:"), self._ask(b"Password:")]) == secret
            case b"CRAM-MD5":
                digest = HMAC(password.encode(), CHALLENGE, "md5").hexdigest()
                right = self._ask(CHALLENGE) == f"{USER} {digest}".encode()
            case b"XOAUTH2":
                right = b64decode(initial[0]) == f"user={USER}\1auth=Bearer {self._server.token}\1\1".encode()
                if not right:
                    assert self._ask(b'{"status":"401"}') == b""
            case _:
                raise AssertionError(mechanism)
        self._reply("AUTH", "235 2.7.0 Welcome" if right else "535 5.7.8 Wrong")

    def _ask(self, challenge: bytes) -> bytes:
        self._say(f"334 {b64encode(challenge).decode()}")
        return b64decode(self._line())

    def _do_mail(self, line: bytes) -> None:
        if self._transaction.sender is not None:
            self._say("503 5.5.1 Nested MAIL")
        elif self._reply("MAIL", self._server._refused_senders.get(_path(line), "250 2.1.0 Ok")).startswith(
            "2"
        ):
            self._transaction.sender = _path(line)

    def _do_rcpt(self, line: bytes) -> None:
        recipient = _path(line)
        if self._transaction.sender is None:
            self._say("503 5.5.1 MAIL first")
        elif len(self._transaction.recipients) == self._server._room:
            self._turn_away()
        elif self._reply("RCPT", self._server._refused.get(recipient, "250 2.1.5 Ok")).startswith("2"):
            self._transaction.recipients.append(recipient)

    def _turn_away(self) -> None:
        self._transaction.turned_away += 1
        with self._server._lock:
            self._server.turned_away += 1
        is_enough = self._transaction.turned_away == self._server._overshoot
        self._say("421 4.7.0 Too many errors" if is_enough else self._server._full)

    def _do_data(self, line: bytes) -> None:
        if not self._transaction.recipients and not self._server._eager_data:
            self._say("554 5.5.1 No valid recipients")
        elif self._reply("DATA", "354 Go ahead").startswith("354"):
            self._content()

    def _content(self) -> None:
        while not self._unread:
            self._more()
        if what := self._server.fault_at("BODY"):
            self._act(what, "")
            raise _Over  # a hasty answer, and gone
        while not (self._unread.startswith(b".\r\n") or b"\r\n.\r\n" in self._unread):
            self._more()
        if self._unread.startswith(b".\r\n"):
            content, self._unread = b"", self._unread[3:]
        else:
            content, _, self._unread = self._unread.partition(b"\r\n.\r\n")
            content += b"\r\n"
        done, self._transaction = self._transaction, _Transaction()
        self._judge(done, content)
        if self._unread:
            self._server.behind_dot += 1
        if self._unread and self._server._strict_dot is not None:
            lines, self._unread = self._unread.count(b"\n"), b""
            for _ in range(self._server._strict_dot(lines)):
                self._say("503 Bad sequence of commands - pipelined after end of data")

    def _judge(self, done: _Transaction, stuffed: bytes) -> None:
        lines = stuffed.split(b"\r\n")
        content = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
        mail = Mail(done.sender or "", tuple(done.recipients), content)
        what = self._server.fault_at("DOT")
        if mail.recipients and (what is None or what.startswith(("2", "accept"))):
            self._server.keep(mail)
        if what == "accept-disconnect":
            raise _Over
        self._act(what, "250 2.0.0 Ok: queued" if mail.recipients else "554 5.5.1 No valid recipients")

    def _do_rset(self, line: bytes) -> None:
        self._transaction = _Transaction()
        self._reply("RSET", "250 2.0.0 Ok")

    def _do_noop(self, line: bytes) -> None:
        self._reply("NOOP", "250 2.0.0 Ok")

    def _do_quit(self, line: bytes) -> None:
        self._reply("QUIT", "221 2.0.0 Bye")
        raise _Over


def _path(line: bytes) -> str:
    return line[line.index(b"<") + 1 : line.index(b">")].decode()
