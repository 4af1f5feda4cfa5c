"""Words of servers and backends that not every database takes: no email is sent twice, or stuck, for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.models import MailerState, RefusedSender, Suppression

from ..smtp_server import Fault, ScriptedServer
from .conftest import messages, work

Queueing = Callable[..., None]
pytestmark = pytest.mark.usefixtures("fresh_connections")


class Odd(BaseEmailBackend):
    """It takes the first email, and says of the second what no UTF-8 can hold."""

    taken: ClassVar[list[str]] = []

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(alias=kwargs.get("alias")) if "alias" in kwargs else super().__init__()

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        [message] = email_messages
        if self.taken:
            raise RuntimeError("a file \udcff of \0")
        self.taken.append(message.to[0])
        return 1


@pytest.mark.parametrize(
    ("stage", "code"), [("MAIL", "501 5.5.4"), ("RCPT", "550 5.1.1"), ("DOT", "550 5.1.1")]
)
def test_a_reply_with_a_zero_byte_is_written_down(on: str, queueing: Queueing, stage: str, code: str) -> None:
    with ScriptedServer([Fault(stage, f"{code} no\0 such user", 1)]) as server:
        queueing(server.port)
        mail.queue_many(messages(3))
        work()
        assert len(server.mails) == 2
    assert sorted(Email.objects.values_list("status", flat=True)) == ["failed", "sent", "sent"]
    failed = Email.objects.get(status=Status.FAILED)
    assert "no\N{REPLACEMENT CHARACTER} such user" in failed.recipients[0]["text"]
    assert Suppression.objects.count() == (stage != "MAIL")


def test_so_is_one_that_holds_the_mail_of_its_sender(on: str, queueing: Queueing) -> None:
    with ScriptedServer([Fault("MAIL", "550 5.1.1 no\0 such user", 1)]) as server:
        queueing(server.port)
        mail.queue_many(messages(3))
        work()
        assert len(server.mails) == 1
    [refused] = RefusedSender.objects.all()
    assert "no\N{REPLACEMENT CHARACTER} such user" in refused.reason
    assert sorted(Email.objects.values_list("status", flat=True)) == ["held", "held", "sent"]


def test_a_greeting_with_a_zero_byte_is_an_outage(on: str, queueing: Queueing) -> None:
    with ScriptedServer([Fault("CONNECT", "554 5.3.2 closed\0 today", 0)]) as server:
        queueing(server.port)
        mail.queue_many(messages(3))
        work()
        assert "closed\N{REPLACEMENT CHARACTER} today" in MailerState.objects.get().reason
        assert server.connections == 1


def test_an_error_of_a_backend_that_is_no_text_is_written_down(on: str, queueing: Queueing) -> None:
    Odd.taken.clear()
    queueing(0, f"{__name__}.Odd")
    mail.queue_many(messages(2))
    work()
    assert len(Odd.taken) == 1
    waits = Email.objects.get(status=Status.QUEUED)
    assert (
        waits.attempts == 1
        and waits.recipients[0]["text"] == "RuntimeError: a file ? of \N{REPLACEMENT CHARACTER}"
    )
    assert Email.objects.get(status=Status.SENT).attempts == 1
