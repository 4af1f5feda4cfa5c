"""A local part in quotes may hold what no other may: spaces, brackets, commas, an @ (RFC 5321 4.1.2)."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, policy
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage

from mailrail import mail
from mailrail.mail import CannotQueue
from mailrail.mail.smtp import EmailBackend, Envelope, close_pools
from mailrail.mail.smtp.errors import InvalidAddress
from mailrail.testing import drain
from tests.smtp_server import ScriptedServer

QUOTED = ['"odd user"@example.net', '"a, b"@example.net', '"a@b c"@example.net', '"a\\" b"@example.net']


@pytest.mark.parametrize(
    "address", [*QUOTED, '"<a> b"@example.net', '""@example.net', '"größe b"@example.net']
)
def test_it_can_be_told_to_a_server(address: str) -> None:
    assert Envelope(address, [address], b"").recipients == [address]


ESCAPES = [
    '"a b@example.net',
    'a b"@example.net',
    '"a" b@example.net',
    '"a\r\nDATA"@example.net',
    '"a\0 b"@example.net',
    '"a\\" b@example.net',
    '"a b"@exa mple.net',
    '"a b"@example.net>',
    '"a b"@example.net\r\n',
    '"a\t"@b.de',
]


@pytest.mark.parametrize("address", ESCAPES)
def test_quotes_let_nothing_out_of_its_command(address: str) -> None:
    with pytest.raises(InvalidAddress, match="only in quotes before the @"):
        Envelope("me@example.com", [address], b"")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", QUOTED)
@pytest.mark.parametrize("form", ["{}", "Ann Example <{}>"])
def test_it_is_written_to_and_from_by_the_queue_and_by_the_backend(
    address: str, form: str, queueing: Callable[..., None]
) -> None:
    def message() -> EmailMessage:
        return EmailMessage("Hello", "There.", form.format(address), [form.format(address)])

    with ScriptedServer() as server:
        queueing(server.port)
        email = mail.queue(message())
        drain("mailrail.mail")
        options: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
        EmailBackend(host="127.0.0.1", port=server.port, **options).send_messages([message()])
        close_pools()
        mails = server.mails
    assert [(each.sender, each.recipients) for each in mails] == [(address, (address,))] * 2
    for each in mails:
        to = message_from_bytes(each.content, policy=policy.default)["To"]
        assert [each.addr_spec for each in to.addresses] == [address]
    email.refresh_from_db()
    assert email.status == "sent"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "text",
    [
        "odd user@example.net",
        "Ann <odd user@example.net>",
        '"odd" user@example.net',
        'odd "us er"@example.net',
    ],
)
def test_nobody_puts_quotes_around_words_that_have_none(text: str, queueing: Callable[..., None]) -> None:
    queueing(1)
    with pytest.raises(CannotQueue, match="is no email address"):
        mail.queue(EmailMessage("Hello", "There.", "me@example.com", [text]))
