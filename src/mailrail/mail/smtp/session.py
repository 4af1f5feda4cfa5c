"""From nothing to a session that takes email: connect, greeting, EHLO, TLS, login.

Work on a link (link.py): generators that yield it where they have to wait.
"""

from __future__ import annotations

import re
import socket
import ssl
from base64 import b64decode, b64encode
from collections.abc import Mapping
from errno import EINPROGRESS
from hmac import HMAC
from os import strerror
from typing import Any

from .errors import (
    CERTIFICATE,
    CLIENT_CERTIFICATE,
    REFUSED_STARTTLS,
    SLIPPED_IN,
    AuthenticationRefused,
    CannotBegin,
    CannotConnect,
    ConnectionLost,
    ProtocolError,
    ServerRefused,
    SmtpError,
    TimedOut,
    TlsFailed,
)
from .link import IN, OUT, Link, T, Work, is_alert
from .replies import Reply, Stage
from .server import GREETING_TIMEOUT_S, USE_TLS, SmtpServer

Extensions = Mapping[str, str]
"""What EHLO offers: keyword in capitals -> its parameters."""
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""What OpenSSL calls it when a server answers TLS by plain text."""
Address = tuple[int, tuple[Any, ...]]
"""Its family, and what sockets of that family take."""


def command(link: Link, line: bytes, stage: Stage, timeout: float) -> Work[Reply]:
    """Send one command and wait for its reply."""
    yield from link.write([line + b"\r\n"], stage, timeout)
    return (yield from link.hear(stage, timeout))


def open_session(link: Link, server: SmtpServer) -> Work[Extensions]:
    """Connect the link and log in. Returns what the server offers. The link is closed if it raises."""
    try:
        yield from _connect(link, server)
        if server.tls == "implicit":
            yield from _handshake(link, server, Stage.CONNECT)
            yield from _first_after_tls(_greeting(link, server))
        else:
            yield from _greeting(link, server)
        extensions = yield from _ehlo(link, server)
        if server.tls == "starttls":
            extensions = yield from _start_tls(link, server, extensions)
        if server.username and (server.password or server.token):
            yield from _log_in(link, server, extensions)
        return extensions
    except BaseException as error:
        link.close()
        if isinstance(error, Exception) and not isinstance(error, SmtpError):
            raise CannotBegin(f"{type(error).__name__}: {error}", Stage.CONNECT) from error
        raise


def _connect(link: Link, server: SmtpServer) -> Work[None]:
    """Connect to the first address of the host that answers. Each has its time, as one may lead nowhere."""
    *others, last = resolve(server.host, server.port)
    for address in others:
        try:
            yield from _connect_to(address, link, server)
            return
        except CannotConnect:
            link.close()
    yield from _connect_to(last, link, server)


def resolve(host: str, port: int) -> list[Address]:
    """Return all addresses of the host, in the order in which they are to be tried."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host name at all
        raise CannotConnect(f"The name of {host}:{port} is not known: {error}", Stage.CONNECT) from error
    return [(family, address) for family, _, _, _, address in addresses]


def _connect_to(address: Address, link: Link, server: SmtpServer) -> Work[None]:
    name, timeout = f"{server.host}:{server.port}", server.timeouts.connect
    try:
        connecting = link.socket = socket.socket(address[0], socket.SOCK_STREAM)
        connecting.setblocking(False)
        code = connecting.connect_ex(address[1])
        if code == EINPROGRESS:
            yield link.awaiting(OUT, Stage.CONNECT, timeout)
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, strerror(code))  # the subclass that fits, such as ConnectionRefusedError
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimedOut:
        error_text = f"{name} did not answer within {timeout:g} s"
        raise CannotConnect(error_text, Stage.CONNECT) from TimeoutError("timed out")
    except OSError as error:  # no socket at all, too: a family that this machine lacks, no file left to open
        raise CannotConnect(f"{name} cannot be reached: {error.strerror}", Stage.CONNECT) from error


def _handshake(link: Link, server: SmtpServer, stage: Stage) -> Work[None]:
    """Begin TLS."""
    context = server.tls_context()
    assert link.socket is not None
    try:
        link.socket = link.tls = tls = context.wrap_socket(
            link.socket, server_hostname=server.host, do_handshake_on_connect=False
        )
        link.awaiting(IN, stage, server.timeouts.greeting)
        while True:
            try:
                tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                link.events = IN
            except ssl.SSLWantWriteError:
                link.events = OUT
            yield link
    except (OSError, ValueError) as error:  # ValueError: no valid host name
        advice = _tls_advice(error, stage)
        raise TlsFailed(f"No TLS with {server.host}: {error}", stage, advice=advice) from error


def _tls_advice(error: Exception, stage: Stage) -> str | None:
    """Return what to do, where the error tells it."""
    if getattr(error, "reason", None) in NO_TLS and stage is Stage.CONNECT:
        return USE_TLS
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE
    return CLIENT_CERTIFICATE if is_alert(error) else None


def _greeting(link: Link, server: SmtpServer) -> Work[None]:
    reply = yield from _first_reply(link, server)
    if reply.refusal:
        raise ServerRefused("The server turned us away", Stage.GREETING, reply)
    if reply.code != 220:
        raise ProtocolError("The server greets in a way that is not SMTP's", Stage.GREETING, reply)


def _first_reply(link: Link, server: SmtpServer) -> Work[Reply]:
    """Wait for it as long as RFC 5321 4.5.3.2.1 says, unless the port tells that nothing will come without TLS."""
    timeout = server.timeouts.greeting
    if server.tls == "implicit" or not server.port_advice:
        return (yield from link.hear(Stage.GREETING, timeout))
    try:
        return (yield from link.hear(Stage.GREETING, min(timeout, GREETING_TIMEOUT_S)))
    except ConnectionLost as error:
        error_text = f"{server.host}:{server.port} does not greet us: {error.what}"
        raise type(error)(error_text, Stage.GREETING, advice=server.port_advice) from error


def _ehlo(link: Link, server: SmtpServer) -> Work[Extensions]:
    name = server.local_hostname.encode("ascii", "replace")
    reply = yield from command(link, b"EHLO " + name, Stage.EHLO, server.timeouts.command)
    if reply.code in (500, 502):  # a server from before 1995: RFC 5321 3.2
        reply = yield from command(link, b"HELO " + name, Stage.EHLO, server.timeouts.command)
    if reply.code != 250:
        raise _no(reply, ServerRefused("The server refused our EHLO", Stage.EHLO, reply))
    extensions: dict[str, str] = {}
    for line in reply.text.split("\n")[1:]:
        first, _, others = line.partition(" ")
        keyword, _, parameter = first.partition("=")  # AUTH=LOGIN: an old custom
        if keyword.upper() in server.ignored_extensions:
            continue
        known = extensions.get(keyword.upper(), "")
        extensions[keyword.upper()] = " ".join(filter(None, (known, parameter, others)))
    return extensions


def _start_tls(link: Link, server: SmtpServer, offered: Extensions) -> Work[Extensions]:
    """Start TLS (RFC 3207). What was offered before no longer counts, as it could be forged (4.2)."""
    if "STARTTLS" not in offered:
        raise TlsFailed("The server does not offer STARTTLS", Stage.STARTTLS)
    reply = yield from command(link, b"STARTTLS", Stage.STARTTLS, server.timeouts.command)
    if reply.code != 220:
        raise _no(
            reply, TlsFailed("The server refused STARTTLS", Stage.STARTTLS, reply, advice=REFUSED_STARTTLS)
        )
    if link.reader:  # somebody on the way slipped in replies that would be read as if they came through TLS
        raise TlsFailed("Something came between STARTTLS and TLS", Stage.STARTTLS, advice=SLIPPED_IN)
    yield from _handshake(link, server, Stage.STARTTLS)
    return (yield from _first_after_tls(_ehlo(link, server)))


def _first_after_tls(work: Work[T]) -> Work[T]:
    """Read the first reply. A server that misses our certificate may close without a word, now that it looked for
    one."""
    try:
        return (yield from work)
    except ConnectionLost as error:
        if type(error) is not ConnectionLost or error.reply is not None:
            raise
        raise ConnectionLost(error.what, error.stage, advice=CLIENT_CERTIFICATE) from error


def _log_in(link: Link, server: SmtpServer, offered: Extensions) -> Work[None]:
    """Log in by the first mechanism that works: servers offer some for which they have no secrets.

    535 to one that sends the password ends it (RFC 4954 6: the credentials are invalid). The same password by another
    mechanism would be one more refused login, which lock-outs count.
    """
    mechanisms = [m for m in _preferred(link, server) if m in offered.get("AUTH", "").upper().split()]
    if not mechanisms:
        offer = f"AUTH {offered['AUTH']}" if "AUTH" in offered else "no AUTH"
        raise AuthenticationRefused(f"The server offers {offer}, nothing we can log in with", Stage.AUTH)
    for mechanism in mechanisms:
        reply = yield from _MECHANISMS[mechanism](link, server)
        if reply.positive:
            return
        if reply.code == 421 or (reply.code == 535 and mechanism in _SENDING_THE_PASSWORD):
            break
    raise _no(reply, AuthenticationRefused("The server refused our login", Stage.AUTH, reply))


def _preferred(link: Link, server: SmtpServer) -> list[str]:
    if server.token is not None:
        return ["XOAUTH2"]
    return ["PLAIN", "LOGIN", "CRAM-MD5"] if link.tls is not None else ["CRAM-MD5", "PLAIN", "LOGIN"]


def _no(reply: Reply, error: SmtpError) -> SmtpError:
    """Return the error for a reply. 421 closes the connection, whatever it answers (RFC 5321 3.8)."""
    if reply.code == 421:
        return ConnectionLost("The server closes the connection", error.stage, reply)
    return error if reply.refusal else ProtocolError("An unexpected reply", error.stage, reply)


# -- mechanisms -------------------------------------------------------------------------------------------------


def _auth(link: Link, server: SmtpServer, line: bytes) -> Work[Reply]:
    return (yield from command(link, line, Stage.AUTH, server.timeouts.command))


def _plain(link: Link, server: SmtpServer) -> Work[Reply]:
    """Log in by PLAIN (RFC 4616)."""
    secret = f"\0{server.username}\0{server.password}".encode()
    return (yield from _auth(link, server, b"AUTH PLAIN " + b64encode(secret)))


def _login(link: Link, server: SmtpServer) -> Work[Reply]:
    """Never standardized: draft-murchison-sasl-login."""
    reply = yield from _auth(link, server, b"AUTH LOGIN")
    for word in (server.username, server.password):
        if reply.code != 334:
            break
        reply = yield from _auth(link, server, b64encode(word.encode()))
    return reply


def _cram_md5(link: Link, server: SmtpServer) -> Work[Reply]:
    """Log in by CRAM-MD5 (RFC 2195)."""
    reply = yield from _auth(link, server, b"AUTH CRAM-MD5")
    if reply.code != 334:
        return reply
    try:
        challenge = b64decode(reply.text)
    except ValueError as error:
        raise ProtocolError("The challenge is not Base64", Stage.AUTH, reply) from error
    digest = HMAC(server.password.encode(), challenge, "md5").hexdigest()
    return (yield from _auth(link, server, b64encode(f"{server.username} {digest}".encode())))


def _xoauth2(link: Link, server: SmtpServer) -> Work[Reply]:
    """Log in by XOAUTH2 of Google and Microsoft. A refusal comes as a challenge first, to be answered with an empty
    line."""
    secret = f"user={server.username}\1auth=Bearer {_token(server)}\1\1".encode()
    reply = yield from _auth(link, server, b"AUTH XOAUTH2 " + b64encode(secret))
    if reply.code == 334:
        reply = yield from _auth(link, server, b"")
    return reply


def _token(server: SmtpServer) -> str:
    """Ask for it. Raises ``CannotBegin``, which never shows what should have been one."""
    assert server.token is not None
    try:
        token: object = server.token()
    except Exception as error:
        raise CannotBegin(f"token() raised {type(error).__name__}: {error}", Stage.AUTH) from error
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return token
    error_text = f"token() must return an access token, a string without spaces, not {_kind_of(token)}"
    raise CannotBegin(error_text, Stage.AUTH) from TypeError(error_text)


def _kind_of(token: object) -> str:
    if isinstance(token, str):
        return "one with characters that no token has" if token else "an empty one"
    return f"{type(token).__name__}"


_TOKEN = re.compile(r"[\x21-\x7e]+")
"""RFC 6750 2.1 allows fewer; what matters is that it stays inside of its field."""
_SENDING_THE_PASSWORD = frozenset({"PLAIN", "LOGIN"})
_MECHANISMS = {"PLAIN": _plain, "LOGIN": _login, "CRAM-MD5": _cram_md5, "XOAUTH2": _xoauth2}
