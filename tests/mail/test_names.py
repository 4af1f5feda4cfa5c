"""The names by which we go: EHLO's, and the domain of a Message-ID; and what is not used of a server's extensions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import django
import pytest
from django.core.mail import DNS_NAME, EmailMessage

from mailrail import mail
from mailrail.errors import InvalidSettings
from mailrail.mail import Email
from mailrail.mail.checks import check_names, check_policies
from mailrail.mail.compose import compose
from mailrail.mail.mailers.config import build
from mailrail.mail.models import MailerState
from mailrail.mail.smtp import EmailBackend
from mailrail.testing import drain

from ..smtp_server import ScriptedServer
from .conftest import MAILER

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]
OURS = "mailrail.mail.smtp.EmailBackend"
EVERYTHING = ("8BITMIME", "SMTPUTF8", "SIZE 1000000")


def message(subject: str = "Größe") -> EmailMessage:
    return EmailMessage(subject, "Größe\n", "me@example.com", ["you@example.com"])


def ehlo(server: ScriptedServer) -> bytes:
    return next(line for line in server.lines if line.startswith(b"EHLO"))


@pytest.mark.parametrize("name", ["www1.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_a_mailer_greets_by_the_name_that_its_policy_has(
    queueing: Configure, policy: Configure, name: str
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(LOCAL_HOSTNAME=name)
        message().send()
        drain("mailrail.mail")
        assert ehlo(server) == b"EHLO " + name.encode() and len(server.mails) == 1


def test_without_a_queue_the_options_of_the_backend_say_it() -> None:
    with ScriptedServer(extensions=EVERYTHING) as server:
        login: dict[str, Any] = (
            {"username": "", "password": ""} if django.VERSION < (6, 1) else {"alias": "smtp"}
        )
        backend = EmailBackend(
            host="127.0.0.1",
            port=server.port,
            local_hostname="www1.example.com",
            ignore_extensions=["pipelining"],
            **login,
        )
        assert backend.send_messages([message()]) == 1
        assert ehlo(server) == b"EHLO www1.example.com"
        assert max(segment.count(b"\r\n") for segment in server.segments if b"DATA" in segment) == 1


def test_extensions_that_a_policy_ignores_are_not_used(queueing: Configure, policy: Configure) -> None:
    with ScriptedServer(extensions=EVERYTHING) as server:
        queueing(server.port)
        policy(IGNORE_EXTENSIONS=["PIPELINING", "8bitmime", "SIZE", "SMTPUTF8"])
        message().send()
        drain("mailrail.mail")
        [arrived] = server.mails
        assert arrived.content.isascii()
        assert (
            next(line for line in server.lines if line.startswith(b"MAIL")) == b"MAIL FROM:<me@example.com>"
        )
        assert not any(b"MAIL" in segment and b"RCPT" in segment for segment in server.segments)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"LOCAL_HOSTNAME": "a host"}, "['LOCAL_HOSTNAME'] must be a host name"),
        ({"LOCAL_HOSTNAME": "a\r\nMAIL FROM:<x>"}, "['LOCAL_HOSTNAME'] must be a host name"),
        ({"LOCAL_HOSTNAME": "größe.example"}, "['LOCAL_HOSTNAME'] must be a host name in ASCII"),
        ({"LOCAL_HOSTNAME": None}, "['LOCAL_HOSTNAME'] must be a host name"),
        ({"IGNORE_EXTENSIONS": "PIPELINING"}, "['IGNORE_EXTENSIONS'] must be a list"),
        ({"IGNORE_EXTENSIONS": ["PIPELINE"]}, "names 'PIPELINE', which is none of: 8BITMIME, PIPELINING"),
        ({"IGNORE_EXTENSIONS": ["STARTTLS"]}, "the matter of use_tls"),
    ],
)
def test_what_is_no_name_and_no_extension_is_told(said: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        build({"smtp": said})
    assert names in str(raised.value) and "MAILRAIL['MAILERS']['smtp']" in str(raised.value)


def test_a_backend_that_our_client_does_not_speak_for_has_no_use_for_them(
    queueing: Configure, policy: Configure
) -> None:
    queueing(0, "anymail.backends.test.EmailBackend")
    policy(LOCAL_HOSTNAME="www1.example.com")
    [problem] = check_policies()
    assert "LOCAL_HOSTNAME" in problem.msg and "only Django's SMTP backend" in problem.msg


def test_message_ids_have_the_domain_of_the_setting(queueing: Configure, settings: Any) -> None:
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_MESSAGE_ID_DOMAIN": "example.org"}
    own = EmailMessage(
        "Hi", "Text.", "me@example.com", ["you@example.com"], headers={"Message-ID": "<own@example.net>"}
    )
    with ScriptedServer() as server:
        queueing(server.port)
        queued = mail.queue(message())
        own.send()
        drain("mailrail.mail")
        copy = Email.objects.get(pk=mail.resend(queued).copies[queued.pk])
        contents = [each.content for each in server.mails]
    assert queued.message_id.endswith("@example.org>") and queued.message_id.encode() in contents[0]
    assert copy.message_id.endswith("@example.org>") and copy.message_id != queued.message_id
    assert b"<own@example.net>" in contents[1]
    for subject in ("Hi", "Two  spaces"):  # written by us, and by Django
        assert b"@example.org>" in compose(message(subject)).data


@pytest.mark.parametrize("value", ["exa mple.com", "a@example.com", "größe.example", "", ".", 7])
def test_what_is_no_domain_of_a_message_id_is_told(settings: Any, value: Any) -> None:
    from mailrail.conf import build as build_settings

    with pytest.raises(InvalidSettings, match="MAIL_MESSAGE_ID_DOMAIN"):
        build_settings({"MAIL_MESSAGE_ID_DOMAIN": value})


# -- told before it is deployed ----------------------------------------------------------------------------------------


@pytest.fixture(params=["localhost", "web-7d9f", "localhost.localdomain"])
def nameless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This machine has no name with a domain."""
    name: str = request.param
    monkeypatch.setattr(DNS_NAME, "_fqdn", name, raising=False)
    return name


def test_a_machine_without_a_name_of_its_own_is_told(queueing: Configure, nameless: str) -> None:
    queueing(25)
    ehlo, message_ids = check_names()
    assert (ehlo.id, message_ids.id) == ("mailrail.mail.W004",) * 2
    assert repr(nameless) in ehlo.msg and repr(MAILER) in ehlo.msg and "LOCAL_HOSTNAME" in str(ehlo.hint)
    assert f"@{nameless}" in message_ids.msg and "MAIL_MESSAGE_ID_DOMAIN" in str(message_ids.hint)


def test_the_settings_that_name_it_silence_the_check(
    queueing: Configure, policy: Configure, settings: Any, nameless: str
) -> None:
    queueing(25)
    policy(LOCAL_HOSTNAME="[192.0.2.1]")
    settings.MAILRAIL = {**settings.MAILRAIL, "MAIL_MESSAGE_ID_DOMAIN": "example.com"}
    assert check_names() == []


@pytest.mark.skipif(django.VERSION < (6, 1), reason="needs MAILERS")
def test_an_option_of_the_backend_silences_it_as_well(queueing: Configure, nameless: str) -> None:
    queueing(25, OURS, local_hostname="www1.example.com")
    [problem] = check_names()
    assert "Message-IDs" in problem.msg


def test_a_service_that_is_not_greeted_is_none_of_its_business(queueing: Configure, nameless: str) -> None:
    queueing(0, "anymail.backends.test.EmailBackend")
    [problem] = check_names()
    assert "Message-IDs" in problem.msg


# -- what a server says that is no greeting ----------------------------------------------------------------------------


@contextmanager
def saying(words: bytes) -> Iterator[int]:
    """A server that says this to everybody, and hangs up. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(words)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(1000):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(20)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (b"220-mx.example\r\n521 No mail from 192.0.2.1\r\n", ["220 and goes on with 521", "No mail from 192.0.2.1"]),
        (b"220-mx.example\r\n220-Come back\r\n421 Too busy\r\n", ["mx.example / 220-Come back / 421 Too"]),
        (b"220-You are listed, see example.org\r\n", ["closed the", "You are listed, see example.org"]),
        (b"521-No mail from here,\r\n521 see RFC 7504\r\n", ["No mail from here,\nsee RFC 7504"]),
        (b"HTTP/1.1 400 Bad Request\r\n", ["HTTP/1.1 400 Bad Request"]),
    ],
    ids=repr,
)  # fmt: skip
def test_the_words_of_a_broken_greeting_are_told(queueing: Configure, words: bytes, told: list[str]) -> None:
    with saying(words) as port:
        queueing(port)
        message().send()
        drain("mailrail.mail")
    reason = MailerState.objects.get().reason
    assert all(each in reason for each in told), reason
