"""``mailrail.mail.smtp.EmailBackend``, beside Django's own: the same emails, numbers and exceptions."""

from __future__ import annotations

import email
import email.policy
import email.utils
import logging
import smtplib
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from mailrail.mail.smtp import EmailBackend, close_pools
from mailrail.mail.smtp.as_django import address_of
from tests.smtp_server import USER, Fault, ScriptedServer

from .reading import expected, read
from .test_compose import FAST
from .test_fidelity import CASES

HAS_MAILERS = django.VERSION >= (6, 1)
HAS_PREP_ADDRESS = hasattr(smtp.EmailBackend, "prep_address")


@pytest.fixture(autouse=True)
def _no_connection_outlives_its_test() -> Iterator[None]:
    yield
    close_pools()


def backend(server: ScriptedServer, kind: type = EmailBackend, **options: Any) -> Any:
    options = {"host": "127.0.0.1", "port": server.port, "timeout": 30, **options}
    if HAS_MAILERS:
        options["alias"] = "default"
    return kind(**options)


def message(subject: str = "Hello", **more: Any) -> EmailMessage:
    arguments: dict[str, Any] = {"from_email": "Me <from@example.com>", "to": ["To <to@example.com>"], **more}
    return EmailMessage(subject, arguments.pop("body", ".\nA line\n.second"), **arguments)


def messages() -> list[EmailMessage]:
    html = EmailMultiAlternatives(
        "Zwölf", "Grüße", "from@example.com", ["to@exämple.com"], bcc=["hidden@example.com"]
    )
    html.attach_alternative("<p>Grüße</p>", "text/html")
    attached = message("Attached", cc=["cc@example.com"])
    attached.attach("note.txt", ".dot\nfrom\n.again", "text/plain")
    attached.attach("picture.png", bytes(range(256)), "image/png")
    return [message(), html, attached, message("Long " * 40, body="x" * 2000)]


def test_the_same_arrives_as_from_djangos_backend() -> None:
    """Their envelopes, and all that a reader finds in them."""
    builds = {**CASES, **FAST}
    if HAS_PREP_ADDRESS:
        del builds["name with a dot"]  # Django composes it, and refuses to tell it to a server
    all_of_them = [*messages(), *(build() for build in builds.values())]
    all_of_them = [each for each in all_of_them if each.recipients()]
    with ScriptedServer() as server, ScriptedServer() as djangos:
        assert backend(server).send_messages(all_of_them) == len(all_of_them)
        assert backend(djangos, smtp.EmailBackend).send_messages(all_of_them) == len(all_of_them)
        assert [(m.sender, m.recipients) for m in server.mails] == [
            (m.sender, m.recipients) for m in djangos.mails
        ]
        for message, arrived in zip(all_of_them, server.mails, strict=True):
            assert read(arrived.content) == expected(message)


def test_bcc_is_in_the_envelope_alone() -> None:
    with ScriptedServer() as server:
        backend(server).send_messages([message(bcc=["hidden@example.com"])])
        [mail] = server.mails
    assert mail.recipients == ("to@example.com", "hidden@example.com")
    assert b"hidden" not in mail.content


LOCAL = st.text("aZ09_+-.", min_size=1, max_size=6)
DOMAIN = st.text("aZ09-.", min_size=1, max_size=8)
BARE = st.builds("{}@{}".format, LOCAL, DOMAIN)
NAMED = st.builds("{}<{}>".format, st.text("Ab9 .,", max_size=6), BARE)


@given(BARE | NAMED)
def test_an_address_is_told_as_djangos_backend_tells_it(address: str) -> None:
    used = smtp.EmailBackend.__new__(smtp.EmailBackend)  # never opened
    assert _told(used, address) == _told_by_django(used, address)


def _told(used: Any, address: str) -> str:
    return _or_error(lambda: address_of(used, address, message().encoding))


def _told_by_django(used: Any, address: str) -> str:
    if HAS_PREP_ADDRESS:
        return _or_error(lambda: used.prep_address(address))
    from django.core.mail.message import sanitize_address

    return _or_error(lambda: email.utils.parseaddr(sanitize_address(address, "utf-8"))[1])


def _or_error(tell: Callable[[], str]) -> str:
    try:
        return tell()
    except Exception as error:  # Python's parser stumbles over some
        return type(error).__name__


@pytest.mark.skipif(not HAS_PREP_ADDRESS, reason="a method of Django 6's")
def test_a_backend_that_tells_addresses_in_its_own_way_is_asked() -> None:
    class Own(EmailBackend):
        def prep_address(self, address: str, force_ascii: bool = True) -> str:
            return "all@example.com"

    with ScriptedServer() as server:
        assert backend(server, Own).send_messages([message()]) == 1
        [mail] = server.mails
    assert (mail.sender, mail.recipients) == ("all@example.com", ("all@example.com",))


def test_a_backend_that_opens_in_its_own_way_is_asked_to_at_each_send() -> None:
    class Own(EmailBackend):
        opened = 0

        def open(self) -> bool | None:
            self.opened += 1
            return super().open()

    with ScriptedServer() as server:
        used = backend(server, Own)
        assert [used.send_messages([message()]) for _ in range(2)] == [1, 1]
        assert (used.opened, used.connection, server.connections, len(server.mails)) == (2, None, 1, 2)


def test_connections_stay_open_between_sends() -> None:
    with ScriptedServer() as server:
        for _ in range(3):
            assert backend(server).send_messages([message()]) == 1
        with backend(server) as held:
            assert held.open() is False
            assert held.send_messages([message(), message()]) == 2
            held.close()
            held.close()
            assert held.open() is True
        assert (server.connections, len(server.mails)) == (1, 5)


def test_sending_again_after_the_server_dropped_the_connection() -> None:
    with ScriptedServer() as server, backend(server) as held:
        assert held.send_messages([message()]) == 1
        server.drop_all()
        assert held.send_messages([message()]) == 1
        assert (server.connections, len(server.mails)) == (2, 2)


@pytest.mark.parametrize("silently", [True, False])
def test_nothing_to_send(silently: bool) -> None:
    with ScriptedServer() as server:
        used = backend(server, fail_silently=silently)
        assert used.send_messages([]) == 0
        assert server.connections == 0
        assert used.send_messages([message(to=[])]) == 0
        assert server.mails == []


def _raised(used: Any, sent: list[EmailMessage]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its type is what the test is about
        used.send_messages(sent)
    return caught.value


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("CONNECT", "421 4.3.2 Busy"),
        ("CONNECT", "554 5.7.1 Go away"),
        ("CONNECT", "disconnect"),
        ("EHLO", "disconnect"),
        ("AUTH", "535 5.7.8 Wrong"),
        ("MAIL", "550 5.7.1 Not you"),
        ("MAIL", "disconnect"),
        ("RCPT", "550 5.1.1 Nobody"),
        ("RCPT", "disconnect"),
        ("DATA", "451 4.3.0 Later"),
        ("DATA", "disconnect"),
        ("DOT", "554 5.7.1 Spam"),
        ("DOT", "disconnect"),
    ],
)
def test_the_exceptions_are_those_of_smtplib(stage: str, what: str) -> None:
    """Their types, codes and arguments; smtplib's words of its own differ."""
    found: list[BaseException] = []
    for kind in (EmailBackend, smtp.EmailBackend):
        # twice, as a connection that was open before the email is replaced once
        faults = [Fault(stage, what), Fault(stage, what, 1)]
        with ScriptedServer(faults, extensions=("AUTH PLAIN",), password="secret") as server:
            used = backend(server, kind, username=USER, password="secret")
            bare = message(from_email="from@example.com", to=["to@example.com"])
            found.append(_raised(used, [bare, message("Not sent")]))
            assert len(server.mails) == 0
            used.close()
    ours, theirs = found
    assert type(ours) is type(theirs)
    if not isinstance(ours, smtplib.SMTPServerDisconnected):
        assert ours.args == theirs.args
    else:
        assert ours.__cause__ is None or "SMTP" not in type(ours.__cause__).__name__


def test_what_was_sent_before_a_failure_stays_sent_and_nothing_after_it_goes_out() -> None:
    with ScriptedServer(refused={"no@example.com": "550 5.1.1 Nobody"}) as server:
        batch = [message("one"), message("two", to=["no@example.com"]), message("three")]
        error = _raised(backend(server), batch)
        assert isinstance(error, smtplib.SMTPRecipientsRefused)
        assert error.recipients == {"no@example.com": (550, b"5.1.1 Nobody")}
        assert len(server.mails) == 1
    with ScriptedServer([Fault("DOT", "554 5.7.1 Spam", 1)]) as server:
        assert isinstance(
            _raised(backend(server), [message(str(n)) for n in range(4)]), smtplib.SMTPDataError
        )
        assert len(server.mails) == 1
    with ScriptedServer() as server:
        bad = message("two", to=["two words@example.com"])
        assert isinstance(_raised(backend(server), [message("one"), bad, message("three")]), ValueError)
        assert len(server.mails) == 1


def test_failing_silently_counts_what_was_sent() -> None:
    faults = [
        Fault("MAIL", "550 5.7.1 No", 0),
        Fault("DOT", "554 5.7.1 Spam", 0),
        Fault("DOT", "disconnect", 2),
    ]
    with ScriptedServer(faults) as server:
        used = backend(server, fail_silently=True)
        assert used.send_messages([message(str(n)) for n in range(6)]) == 3
        assert len(server.mails) == 3
    assert used.open() is None
    assert used.send_messages([message()]) == 0


def test_no_connection_is_an_oserror_as_it_is() -> None:
    with ScriptedServer() as server:
        pass
    error = _raised(backend(server), [message()])
    assert type(error) is ConnectionRefusedError
    assert "cannot be reached" in error.__notes__[0] and "Check host and port" in error.__notes__[0]


def test_a_wrong_certificate_is_an_ssl_error_and_starttls_must_be_there() -> None:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer(tls=context) as server:
        assert isinstance(_raised(backend(server, use_tls=True), [message()]), ssl.SSLCertVerificationError)
    with ScriptedServer() as server:
        assert isinstance(_raised(backend(server, use_tls=True), [message()]), smtplib.SMTPNotSupportedError)
    with ScriptedServer(tls=context, implicit_tls=True) as server:
        assert isinstance(_raised(backend(server, use_ssl=True), [message()]), ssl.SSLCertVerificationError)


def test_tls_with_an_authority_of_ones_own() -> None:
    import trustme

    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    with ScriptedServer(tls=serving) as server:
        for _ in range(2):
            assert backend(server, use_tls=True, ssl_context=trusting).send_messages([message()]) == 1
        assert server.connections == 1


def test_a_server_without_8bitmime_gets_7bit() -> None:
    text = "Grüße " * 3
    with ScriptedServer(extensions=()) as server:
        assert (
            backend(server).send_messages([message("one"), message("two", body=text), message("three")]) == 3
        )
    assert all(each.content.isascii() for each in server.mails)
    bodies = [
        email.message_from_bytes(each.content, policy=email.policy.default).get_content()
        for each in server.mails
    ]
    assert sorted(bodies)[-1].strip() == text.strip()


def test_an_email_over_the_size_is_refused_as_the_server_would() -> None:
    with ScriptedServer(extensions=("SIZE 100",)) as server:
        error = _raised(backend(server), [message(body="x" * 200)])
        assert isinstance(error, smtplib.SMTPSenderRefused) and error.smtp_code == 552
        assert server.count("MAIL") == 0


def test_a_partial_refusal_is_sent_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with (
        ScriptedServer(refused={"no@example.com": "550 5.1.1 Nobody"}) as server,
        caplog.at_level(logging.WARNING),
    ):
        assert backend(server).send_messages([message(to=["no@example.com", "yes@example.com"])]) == 1
    assert caplog.messages == ["no@example.com was refused, others were not: 550 5.1.1 Nobody"]


def test_a_pool_that_stays_in_use_is_an_smtp_exception() -> None:
    with ScriptedServer() as server, backend(server, pool_size=1, pool_timeout=0.05):
        error = _raised(backend(server, pool_size=1, pool_timeout=0.05), [message()])
        assert isinstance(error, smtplib.SMTPException) and "Raise pool_size" in str(error)


def test_equal_options_mean_one_server_and_wrong_ones_are_told_each_time() -> None:
    """Options that were right once say nothing of others that Python holds to be equal to them."""

    def made(**options: Any) -> EmailBackend:
        alias: dict[str, Any] = {"alias": "default"} if HAS_MAILERS else {}
        return EmailBackend(host="127.0.0.1", port=1, ignore_extensions=["SIZE"], **alias, **options)

    server = made(pool_size=1, max_age=1.0).server
    assert made(pool_size=1, max_age=1.0).server is server
    changed = made(pool_size=1, max_age=1.0)
    changed.host = "localhost"
    assert changed.server != server and changed.server.host == "localhost"
    for wrong in ({"pool_size": True}, {"pool_size": 1.0}, {"pool_size": [1]}, {"max_age": True}):
        for _ in range(2):
            with pytest.raises(TypeError, match=f"^{next(iter(wrong))} must be"):
                made(**wrong)


def test_through_djangos_settings() -> None:
    path = "mailrail.mail.smtp.EmailBackend"
    with ScriptedServer() as server:
        if HAS_MAILERS:
            options = {"host": "127.0.0.1", "port": server.port, "pool_size": 2}
            configured = override_settings(MAILERS={"default": {"BACKEND": path, "OPTIONS": options}})
        else:
            configured = override_settings(EMAIL_BACKEND=path, EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port)
        with configured:
            for _ in range(2):
                assert mail.send_mail("Hello", "Text", "from@example.com", ["to@example.com"]) == 1
        assert (server.connections, len(server.mails)) == (1, 2)


@pytest.mark.filterwarnings("ignore:The EMAIL_", "error:Directly creating")
def test_the_settings_of_before_mailers() -> None:
    """In Django 6.1 they are deprecated, which is for Django to say, once, and not for us to add to."""
    with (
        ScriptedServer() as server,
        override_settings(
            EMAIL_BACKEND="mailrail.mail.smtp.EmailBackend", EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port
        ),
    ):
        if HAS_MAILERS and hasattr(settings, "MAILERS"):
            del settings.MAILERS
        assert EmailMessage("Hello", "Text", "from@example.com", ["to@example.com"]).send() == 1
        assert len(server.mails) == 1


@pytest.mark.skipif(not HAS_MAILERS, reason="MAILERS came with Django 6.1")
def test_an_unknown_option_is_named() -> None:
    with pytest.raises(mail.InvalidMailer, match="pool_sice"):
        EmailBackend(alias="default", host="x", pool_sice=3)
