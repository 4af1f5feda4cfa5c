"""A project's subclass of an SMTP backend delivers what is queued by its own methods."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import pytest
from django.core.mail import EmailMessage, send_mail
from django.core.mail.backends import smtp as djangos

from mailrail.mail import Email, Status
from mailrail.mail import smtp as ours
from mailrail.testing import drain

from ..smtp_server import ScriptedServer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_connections")]

Configure = Callable[..., None]
called: list[str] = []


class Opens(ours.EmailBackend):
    def open(self) -> bool | None:
        called.append("open")
        return super().open()


class Sends(ours.EmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        called.append("send_messages")
        return super().send_messages(email_messages)


class DjangosOpens(djangos.EmailBackend):
    def open(self) -> bool | None:
        called.append("open")
        return super().open()


class NotPinned(Exception):
    """What a pinned certificate raises on another one."""


class Pins(djangos.EmailBackend):
    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        called.append("ssl_context")
        raise NotPinned("not the certificate that this project knows")


@pytest.fixture(autouse=True)
def _nothing_called() -> Iterator[None]:
    called.clear()
    yield
    ours.close_pools()


@pytest.mark.parametrize(
    ("backend", "method"), [(Opens, "open"), (Sends, "send_messages"), (DjangosOpens, "open")]
)
def test_its_methods_are_called(queueing: Configure, backend: type, method: str) -> None:
    with ScriptedServer() as server:
        queueing(server.port, f"{__name__}.{backend.__qualname__}")
        send_mail("Hi", "Text.", "me@example.com", ["you@example.com"])
        drain("mailrail.mail")
        assert method in called and len(server.mails) == 1
    assert Email.objects.get().status == Status.SENT


def test_who_pins_a_certificate_is_pinned(queueing: Configure) -> None:
    with ScriptedServer(extensions=("STARTTLS",)) as server:
        queueing(server.port, f"{__name__}.Pins", use_tls=True)
        send_mail("Hi", "Text.", "me@example.com", ["you@example.com"])
        drain("mailrail.mail", raise_errors=False)
        assert "ssl_context" in called and not server.mails
    assert Email.objects.get().status != Status.SENT
