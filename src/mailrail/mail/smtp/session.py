"""From nothing to a session that takes email: connect, greeting, EHLO, TLS, login.

Generators of steps (link.py): they say what to wait for next and get its result.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Generator, Mapping
from hmac import HMAC
from typing import Any

from .errors import (
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
    TlsFailed,
)
from .link import Connect, Handshake, Link, Read, Step, Write, resolve
from .replies import Reply, Stage
from .server import GREETING_TIMEOUT_S, SmtpServer

Extensions = Mapping[str, str]
"""What EHLO offers: keyword in capitals -> its parameters."""
Steps = Generator[Step, Any, Any]


def command(link: Link, line: bytes, stage: Stage, timeout: float) -> Generator[Step, Any, Reply]:
    """Send one command and wait for its reply."""
    yield Write(link, [line + b"\r\n"], stage, timeout)
    return (yield Read(link, stage, timeout))  # type: ignore[no-any-return]


def open_session(link: Link, server: SmtpServer) -> Generator[Step, Any, Extensions]:
    """Connect the link and log in. Returns what the server offers. The link is closed if it raises."""
    try:
        yield from _connect(link, server)
        if server.tls == "implicit":
            yield _handshake(link, server, Stage.CONNECT)
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


def _connect(link: Link, server: SmtpServer) -> Steps:
    """Connect to the first address of the host that answers. Each has its time, as one may lead nowhere."""
    name, timeout = f"{server.host}:{server.port}", server.timeouts.connect
    *others, last = resolve(server.host, server.port)
    for address in others:
        try:
            yield Connect(link, name, address, timeout)
            return
        except CannotConnect:
            link.close()
    yield Connect(link, name, last, timeout)


def _handshake(link: Link, server: SmtpServer, stage: Stage) -> Handshake:
    return Handshake(link, server.tls_context(), server.host, server.timeouts.greeting, stage)


def _greeting(link: Link, server: SmtpServer) -> Steps:
    reply = yield from _first_reply(link, server)
    if reply.refusal:
        raise ServerRefused("The server turned us away", Stage.GREETING, reply)
    if reply.code != 220:
        raise ProtocolError("The server greets in a way that is not SMTP's", Stage.GREETING, reply)


def _first_reply(link: Link, server: SmtpServer) -> Generator[Step, Any, Reply]:
    """Wait for it as long as RFC 5321 4.5.3.2.1 says, unless the port tells that nothing will come without TLS."""
    timeout = server.timeouts.greeting
    if server.tls == "implicit" or not server.port_advice:
        return (yield Read(link, Stage.GREETING, timeout))  # type: ignore[no-any-return]
    try:
        return (yield Read(link, Stage.GREETING, min(timeout, GREETING_TIMEOUT_S)))  # type: ignore[no-any-return]
    except ConnectionLost as error:
        error_text = f"{server.host}:{server.port} does not greet us: {error.what}"
        raise type(error)(error_text, Stage.GREETING, advice=server.port_advice) from error


def _ehlo(link: Link, server: SmtpServer) -> Generator[Step, Any, Extensions]:
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


def _start_tls(link: Link, server: SmtpServer, offered: Extensions) -> Generator[Step, Any, Extensions]:
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
    yield _handshake(link, server, Stage.STARTTLS)
    return (yield from _first_after_tls(_ehlo(link, server)))  # type: ignore[no-any-return]


def _first_after_tls(steps: Steps) -> Steps:
    """Read the first reply. A server that misses our certificate may close without a word, now that it looked for
    one."""
    try:
        return (yield from steps)
    except ConnectionLost as error:
        if type(error) is not ConnectionLost or error.reply is not None:
            raise
        raise ConnectionLost(error.what, error.stage, advice=CLIENT_CERTIFICATE) from error


def _log_in(link: Link, server: SmtpServer, offered: Extensions) -> Steps:
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
    return ["PLAIN", "LOGIN", "CRAM-MD5"] if link.secure else ["CRAM-MD5", "PLAIN", "LOGIN"]


def _no(reply: Reply, error: SmtpError) -> SmtpError:
    """Return the error for a reply. 421 closes the connection, whatever it answers (RFC 5321 3.8)."""
    if reply.code == 421:
        return ConnectionLost("The server closes the connection", error.stage, reply)
    return error if reply.refusal else ProtocolError("An unexpected reply", error.stage, reply)


# -- mechanisms -------------------------------------------------------------------------------------------------


def _auth(link: Link, server: SmtpServer, line: bytes) -> Generator[Step, Any, Reply]:
    return (yield from command(link, line, Stage.AUTH, server.timeouts.command))


def _plain(link: Link, server: SmtpServer) -> Generator[Step, Any, Reply]:
    """Log in by PLAIN (RFC 4616)."""
    secret = f"\0{server.username}\0{server.password}".encode()
    return (yield from _auth(link, server, b"AUTH PLAIN " + b64encode(secret)))


def _login(link: Link, server: SmtpServer) -> Generator[Step, Any, Reply]:
    """Never standardized: draft-murchison-sasl-login."""
    reply = yield from _auth(link, server, b"AUTH LOGIN")
    for word in (server.username, server.password):
        if reply.code != 334:
            break
        reply = yield from _auth(link, server, b64encode(word.encode()))
    return reply


def _cram_md5(link: Link, server: SmtpServer) -> Generator[Step, Any, Reply]:
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


def _xoauth2(link: Link, server: SmtpServer) -> Generator[Step, Any, Reply]:
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
