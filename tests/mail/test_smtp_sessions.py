"""Connecting, TLS and logging in: against a server that misbehaves, and against aiosmtpd."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from mailrail.mail.smtp import Connection, SmtpServer, Timeouts, send_all
from mailrail.mail.smtp.driver import drive
from mailrail.mail.smtp.errors import (
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
from mailrail.mail.smtp.replies import Stage
from mailrail.mail.smtp.server import GREETING_TIMEOUT_S, TLS_PORTS
from tests.mail.test_smtp_dialogue import Bag, envelope
from tests.ports import free_port
from tests.smtp_server import PASSWORD, USER, Fault, ScriptedServer

TIMEOUTS = Timeouts().capped(30)
HASTE = Timeouts().capped(1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def connect(
    server: Any, host: str = "localhost", timeouts: Timeouts = TIMEOUTS, **options: Any
) -> Connection:
    connection = Connection(SmtpServer(host, server.port, timeouts=timeouts, **options))
    try:
        drive(connection.open())
        bag = Bag([envelope("x", content=b"Subject: x\r\n\r\nHello\r\n")])
        assert send_all([connection], bag) == [] and list(bag.fates.values()) == ["accepted"]
    finally:
        connection.close()
    return connection


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
def test_tls(implicit: bool, serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with ScriptedServer(tls=serving, implicit_tls=implicit) as server:
        connect(server, tls="implicit" if implicit else "starttls", context=trusting)
        assert server.lines.count(b"EHLO localhost") == (1 if implicit else 2)
        assert len(server.mails) == 1


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
def test_a_large_content_through_tls(
    implicit: bool, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    content = b"0123456789\r\n" * 500_000
    bag = Bag([envelope("large", content=content), envelope("small")])
    with ScriptedServer(tls=serving, implicit_tls=implicit) as server:
        connection = Connection(
            SmtpServer("localhost", server.port, tls="implicit" if implicit else "starttls", context=trusting)
        )
        assert send_all([connection], bag) == []
        connection.close()
    assert server.mails[0].content == content and len(server.mails) == 2


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
def test_a_certificate_for_another_host_is_refused(
    implicit: bool, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with (
        ScriptedServer(tls=serving, implicit_tls=implicit) as server,
        pytest.raises(
            TlsFailed, match=r"No TLS with 127\.0\.0\.1: .*[Cc]ertificate.*for this host name"
        ) as caught,
    ):
        connect(server, "127.0.0.1", tls="implicit" if implicit else "starttls", context=trusting)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert not [line for line in server.lines if line.startswith(b"MAIL")]


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
def test_an_unknown_authority_is_refused_by_default(implicit: bool, serving: ssl.SSLContext) -> None:
    with (
        ScriptedServer(tls=serving, implicit_tls=implicit) as server,
        pytest.raises(TlsFailed, match=r"self.signed|unable to get local issuer"),
    ):
        connect(server, tls="implicit" if implicit else "starttls")


@pytest.mark.parametrize("what", ["silence", "disconnect"])
@pytest.mark.parametrize("tls", ["starttls", "none"])
def test_a_port_where_tls_comes_first_is_told_soon(
    tls: Any, what: str, serving: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits for TLS, and we for its greeting: as on port 465."""
    assert 465 in TLS_PORTS and GREETING_TIMEOUT_S < 10
    kind, patience = {"silence": (TimedOut, 0.1), "disconnect": (ConnectionLost, 30.0)}[what]
    monkeypatch.setattr("mailrail.mail.smtp.session.GREETING_TIMEOUT_S", patience)
    with ScriptedServer([Fault("HANDSHAKE", what)], tls=serving, implicit_tls=True) as server:
        monkeypatch.setattr("mailrail.mail.smtp.server.TLS_PORTS", {server.port})
        with pytest.raises(kind, match=r"localhost:\d+ does not greet us: .*Write use_ssl") as caught:
            connect(server, tls=tls, timeouts=TIMEOUTS)
        assert type(caught.value) is kind and caught.value.stage is Stage.GREETING


def test_a_slow_greeting_at_another_port_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailrail.mail.smtp.session.GREETING_TIMEOUT_S", 0.0)
    with ScriptedServer() as server:
        connect(server)


def test_tls_at_a_server_that_speaks_first_names_the_other_option() -> None:
    with (
        ScriptedServer() as server,
        pytest.raises(TlsFailed, match=r"No TLS with localhost: .*Write use_tls") as caught,
    ):
        connect(server, tls="implicit")
    assert "certificate" not in str(caught.value)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "starttls"])
def test_a_client_certificate_that_is_asked_for_is_hinted_at(
    implicit: bool, version: ssl.TLSVersion, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(asking)
    authority.configure_trust(asking)
    asking.verify_mode, asking.maximum_version = ssl.CERT_REQUIRED, version
    with (
        ScriptedServer(tls=asking, implicit_tls=implicit) as server,
        pytest.raises(
            SmtpError, match="asks for a client certificate: ssl_certfile and ssl_keyfile"
        ) as caught,
    ):
        connect(server, tls="implicit" if implicit else "starttls", context=trusting)
    assert isinstance(caught.value, ConnectionLost | TlsFailed)


def test_a_server_that_closes_without_tls_gets_no_hint_at_certificates() -> None:
    with ScriptedServer([Fault("CONNECT", "disconnect")]) as server, pytest.raises(ConnectionLost) as caught:
        connect(server)
    assert "certificate" not in str(caught.value)


def test_a_refused_starttls_is_told_in_the_servers_words(serving: ssl.SSLContext) -> None:
    with (
        ScriptedServer([Fault("STARTTLS", "454 4.3.0 No entropy")], tls=serving) as server,
        pytest.raises(
            TlsFailed, match=r"refused STARTTLS: 454 4\.3\.0 No entropy\. 4xx: it is tried again"
        ) as caught,
    ):
        connect(server, tls="starttls")
    assert "certificate" not in str(caught.value)


def test_what_was_slipped_in_before_tls_is_refused(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """The server's octets may come with the reply to STARTTLS or right behind it: both end the same way."""
    with ScriptedServer(
        [Fault("STARTTLS", "220 2.0.0 Go\r\n250 forged")], tls=serving
    ) as server, pytest.raises(TlsFailed, match="Something came between STARTTLS and TLS"):  # fmt: skip
        connect(server, tls="starttls", context=trusting)
    with ScriptedServer(tls=serving, injected=b"250 forged\r\n") as server, pytest.raises(TlsFailed):
        connect(server, tls="starttls", context=trusting)


def test_starttls_that_is_not_offered_is_not_done_without() -> None:
    with (
        ScriptedServer() as server,
        pytest.raises(TlsFailed, match=r"does not offer STARTTLS\. Check use_tls"),
    ):
        connect(server, tls="starttls")
    assert server.lines == [b"EHLO localhost"]


@pytest.mark.parametrize(
    ("stage", "what", "kind", "where"),
    [
        ("CONNECT", "disconnect", ConnectionLost, Stage.GREETING),
        ("CONNECT", "silence", TimedOut, Stage.GREETING),
        ("CONNECT", "garbage", ProtocolError, Stage.GREETING),
        ("CONNECT", "250 2.0.0 Hm", ProtocolError, Stage.GREETING),
        ("CONNECT", "421 4.3.2 Busy", ServerRefused, Stage.GREETING),
        ("CONNECT", "554 5.7.1 Go away", ServerRefused, Stage.GREETING),
        ("EHLO", "disconnect", ConnectionLost, Stage.EHLO),
        ("EHLO", "421 4.3.2 Busy", ConnectionLost, Stage.EHLO),
        ("EHLO", "550 5.7.1 Bad name", ServerRefused, Stage.EHLO),
        ("STARTTLS", "disconnect", ConnectionLost, Stage.STARTTLS),
        ("STARTTLS", "silence", TimedOut, Stage.STARTTLS),
        ("STARTTLS", "garbage", ProtocolError, Stage.STARTTLS),
        ("STARTTLS", "421 4.3.2 Busy", ConnectionLost, Stage.STARTTLS),
        ("STARTTLS", "454 4.3.0 Not now", TlsFailed, Stage.STARTTLS),
        ("STARTTLS", "501 5.5.4 No", TlsFailed, Stage.STARTTLS),
        ("HANDSHAKE", "disconnect", TlsFailed, Stage.STARTTLS),
        ("HANDSHAKE", "silence", TimedOut, Stage.STARTTLS),
        ("HANDSHAKE", "garbage", TlsFailed, Stage.STARTTLS),
        ("AUTH", "disconnect", ConnectionLost, Stage.AUTH),
        ("AUTH", "silence", TimedOut, Stage.AUTH),
        ("AUTH", "garbage", ProtocolError, Stage.AUTH),
        ("AUTH", "421 4.3.2 Busy", ConnectionLost, Stage.AUTH),
        ("AUTH", "354 Hm", ProtocolError, Stage.AUTH),
        ("AUTH", "454 4.7.0 Not now", AuthenticationRefused, Stage.AUTH),
        ("AUTH", "535 5.7.8 Wrong", AuthenticationRefused, Stage.AUTH),
    ],
)
def test_what_goes_wrong_before_the_first_email(
    stage: str,
    what: str,
    kind: type[SmtpError],
    where: Stage,
    serving: ssl.SSLContext,
    trusting: ssl.SSLContext,
) -> None:
    faults = [Fault(stage, what)]
    with ScriptedServer(faults, tls=serving, extensions=("AUTH PLAIN",)) as server:
        options: dict[str, Any] = {
            "tls": "starttls",
            "context": trusting,
            "username": USER,
            "password": PASSWORD,
        }
        haste = HASTE if what == "silence" else TIMEOUTS
        with pytest.raises(SmtpError) as caught:
            connect(server, timeouts=haste, **options)
        error = caught.value
        assert (type(error), error.stage) == (kind, where)
        if what[0] in "45":
            assert error.code == int(what[:3]) and what[10:] in str(error)
        assert server.mails == []
        connect(server, timeouts=TIMEOUTS, **options)


def test_no_address_of_the_host_answers() -> None:
    with pytest.raises(CannotConnect, match=r"The name of no\.such\.host\.invalid:25 is not known"):
        drive(Connection(SmtpServer("no.such.host.invalid")).open())
    with pytest.raises(CannotConnect, match=r"The name of .* is not known"):
        drive(Connection(SmtpServer("a..b")).open())


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that answers nothing, as behind a firewall: its queue of connections is full."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = []
        try:
            for _ in range(3):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(address)
            yield address
        finally:
            for each in waiting:
                each.close()


def test_an_address_that_does_not_answer_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a host has an IPv6 address, and nothing comes through by it."""
    with ScriptedServer() as server, black_hole() as hole:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (hole, ("127.0.0.1", server.port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        connect(server, timeouts=Timeouts(connect=0.2))
        found.reverse()
        connect(server, timeouts=Timeouts(connect=0.2))
        found[:] = [found[1], found[1]]
        with pytest.raises(CannotConnect, match=r"did not answer within 0\.2 s") as caught:
            connect(server, timeouts=Timeouts(connect=0.2))
        assert isinstance(caught.value.__cause__, TimeoutError)


def test_an_address_of_a_family_that_this_machine_lacks_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As IPv6 addresses are where it is switched off in the kernel; names are resolved to them all the same."""
    with ScriptedServer() as server:
        lacking = (socket.AF_X25, socket.SOCK_STREAM, 0, "", ("::1", server.port, 0, 0))
        found = [lacking, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        connect(server)
        del found[1]
        with pytest.raises(CannotConnect, match="cannot be reached: Address family not supported") as caught:
            connect(server)
        assert isinstance(caught.value.__cause__, OSError)


# -- logging in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "CRAM-MD5", "PLAIN LOGIN CRAM-MD5"])
def test_logging_in(mechanisms: str) -> None:
    with ScriptedServer(extensions=(f"AUTH {mechanisms}",)) as server:
        connect(server, username=USER, password=PASSWORD)
        first = next(line for line in server.lines if line.startswith(b"AUTH"))
        preferred = "CRAM-MD5" if "CRAM-MD5" in mechanisms else mechanisms
        assert first.split(b" ")[1].decode() == preferred  # without TLS, no password goes over the wire
    with ScriptedServer(extensions=(f"AUTH={mechanisms}",)) as server:
        with pytest.raises(
            AuthenticationRefused, match=r"535 5\.7\.8 Wrong\. Check username and password"
        ) as caught:
            connect(server, username=USER, password="wrong")
        assert caught.value.code == 535
        # PLAIN has sent the password, and LOGIN would send the same
        assert server.count("AUTH") == min(2, len(mechanisms.split()))


def test_the_next_mechanism_is_tried() -> None:
    with ScriptedServer(
        [Fault("AUTH", "535 5.7.8 No secrets")], extensions=("AUTH CRAM-MD5 LOGIN",)
    ) as server:
        connect(server, username=USER, password=PASSWORD)
        assert server.count("AUTH") == 2


def test_an_oauth_token_is_asked_for_at_each_login() -> None:
    tokens = iter(["tok", "stale"])
    with ScriptedServer(extensions=("AUTH PLAIN XOAUTH2",)) as server:
        connect(server, username=USER, token=lambda: next(tokens))
        with pytest.raises(AuthenticationRefused, match="535"):
            connect(server, username=USER, token=lambda: next(tokens))


def test_what_the_caller_provides_and_does_not_work_is_said(tmp_path: Path) -> None:
    """It is no email's fault, and none of the other connections'."""

    def token() -> str:
        raise LookupError("the service of tokens is away")

    with ScriptedServer(extensions=("AUTH XOAUTH2",)) as server:
        said = r"token\(\) raised LookupError: the service of tokens is away"
        with pytest.raises(CannotBegin, match=said) as caught:
            connect(server, username=USER, token=token)
        assert isinstance(caught.value.__cause__, LookupError)
        missing = str(tmp_path / "missing.pem")
        said = rf"ssl_certfile '{missing}' cannot be used: FileNotFoundError.*'{missing}'"
        with pytest.raises(CannotBegin, match=said):
            connect(server, tls="implicit", certfile=missing)
        with pytest.raises(CannotBegin, match=rf"ssl_certfile .* and ssl_keyfile '{missing}' cannot be used"):
            connect(server, tls="implicit", certfile=__file__, keyfile=missing)
        with pytest.raises(CannotBegin, match=rf"ssl_certfile '{__file__}' cannot be used: SSLError"):
            connect(server, tls="implicit", certfile=__file__)
        bag = Bag([envelope("x")])
        used = [Connection(SmtpServer("localhost", server.port, tls="implicit", certfile=missing))]
        [error] = send_all(used, bag)
        assert isinstance(error, CannotBegin) and len(bag) == 1


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (None, "NoneType"),
        ({"error": "secret"}, "dict"),
        ("", "an empty one"),
        ("secret\1", "one with characters"),
    ],
)
def test_what_is_no_token_is_told_and_not_shown(token: Any, kind: str) -> None:
    with ScriptedServer(extensions=("AUTH XOAUTH2",)) as server:
        with pytest.raises(
            CannotBegin, match=rf"token\(\) must return an access token.*not {kind}"
        ) as caught:
            connect(server, username=USER, token=lambda: token)
        assert "secret" not in str(caught.value) and server.count("AUTH") == 0


def test_a_server_without_auth() -> None:
    with ScriptedServer() as server, pytest.raises(AuthenticationRefused, match="The server offers no AUTH"):
        connect(server, username=USER, password=PASSWORD)
    with (
        ScriptedServer(extensions=("AUTH GSSAPI",)) as server,
        pytest.raises(AuthenticationRefused, match="AUTH GSSAPI"),
    ):
        connect(server, username=USER, password=PASSWORD)


# -- aiosmtpd ---------------------------------------------------------------------------------------------------------


class Keeping:
    def __init__(self) -> None:
        self.contents: list[bytes] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        assert session.ssl is not None and session.authenticated
        self.contents.append(envelope.original_content)
        return "250 OK"


@contextmanager
def aiosmtpd(context: ssl.SSLContext) -> Iterator[tuple[Controller, Keeping]]:
    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(
            success=data.login == USER.encode() and data.password == PASSWORD.encode(), handled=False
        )

    handler = Keeping()
    controller = Controller(
        handler,
        hostname="127.0.0.1",
        port=free_port(),
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=authenticate,
        decode_data=False,
    )
    controller.start()
    try:
        yield controller, handler
    finally:
        controller.stop()


def test_aiosmtpd_with_starttls_and_login(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    options: dict[str, Any] = {"tls": "starttls", "username": USER}
    with aiosmtpd(serving) as (controller, handler):
        connect(controller, context=trusting, password=PASSWORD, **options)
        assert handler.contents == [b"Subject: x\r\n\r\nHello\r\n"]
        with pytest.raises(AuthenticationRefused, match="535"):
            connect(controller, context=trusting, password="wrong", **options)
        with pytest.raises(TlsFailed):
            connect(controller, password=PASSWORD, **options)
        with pytest.raises(TlsFailed):
            connect(controller, "127.0.0.1", context=trusting, password=PASSWORD, **options)
        assert len(handler.contents) == 1
