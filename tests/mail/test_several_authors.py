"""From may name several authors: Sender then names one mailbox, which is told to the server (RFC 5322 3.6.2)."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes, policy
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends import smtp as djangos

from mailrail import mail
from mailrail.mail import CannotQueue, Email
from mailrail.mail import smtp as ours
from mailrail.mail.compose import compose
from mailrail.mail.compose.addresses import mailboxes
from mailrail.mail.models import MailerState
from mailrail.testing import drain

from ..smtp_server import ScriptedServer

Queueing = Callable[..., None]

TWO = "a@e.example, b@e.example"
NAMED = '"Doe, Jane" <jane@e.example>, Zoë <zoe@exämple.de>'


class OfAProject(djangos.EmailBackend):
    """Is called as it is, so that Django's own methods send."""


class OfAProjectOnOurs(ours.EmailBackend):
    """The same, on our backend."""


BACKENDS = [
    "django.core.mail.backends.smtp.EmailBackend",
    f"{__name__}.OfAProject",
    f"{__name__}.OfAProjectOnOurs",
]
#        from_email, headers -> MAIL FROM, From, Sender
CASES: dict[str, tuple[str, dict[str, str], str, list[str], str]] = {
    "two": (TWO, {}, "a@e.example", ["a@e.example", "b@e.example"], "a@e.example"),
    "with names": (
        NAMED,
        {},
        "jane@e.example",
        ["jane@e.example", "zoe@xn--exmple-cua.de"],
        '"Doe, Jane" <jane@e.example>',
    ),
    "with a Sender": (
        TWO,
        {"sender": "Post <post@e.example>"},
        "post@e.example",
        ["a@e.example", "b@e.example"],
        "Post <post@e.example>",
    ),
    "in a header": (
        "Post <post@e.example>",
        {"From": TWO},
        "post@e.example",
        ["a@e.example", "b@e.example"],
        "Post <post@e.example>",
    ),
    "in a quoted local part": (
        '"a, b"@e.example, c@e.example',
        {},
        '"a, b"@e.example',
        ['"a, b"@e.example', "c@e.example"],
        '"a, b"@e.example',
    ),
}


def _message(from_email: str = TWO, headers: dict[str, str] | None = None, **more: Any) -> EmailMessage:
    return EmailMessage("Hello", "There.", from_email, ["you@example.net"], headers=headers, **more)


def _read(data: bytes) -> tuple[list[str], list[str]]:
    read = message_from_bytes(data, policy=policy.default)
    return [each.addr_spec for each in read["From"].addresses], [
        str(each) for each in read.get_all("Sender", [])
    ]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh_connections")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_are_in_from_and_one_is_the_sender(queueing: Queueing, backend: str, case: str) -> None:
    from_email, headers, mail_from, authors, sender = CASES[case]
    with ScriptedServer() as server:
        queueing(server.port, backend)
        email = mail.queue(_message(from_email, headers))
        drain("mailrail.mail")
        ours.close_pools()
        [sent] = server.mails
    assert (sent.sender, _read(sent.content)) == (mail_from, (authors, [sender]))
    email.refresh_from_db()
    assert (email.status, email.sender) == ("sent", sender)


@pytest.mark.parametrize("case", CASES)
def test_our_backend_alone_does_the_same(case: str) -> None:
    from_email, headers, mail_from, authors, sender = CASES[case]
    options: dict[str, Any] = {"alias": "default"} if django.VERSION >= (6, 1) else {}
    message = _message(from_email, headers)
    with ScriptedServer() as server:
        ours.EmailBackend(host="127.0.0.1", port=server.port, **options).send_messages([message])
        ours.close_pools()
        [sent] = server.mails
    assert (sent.sender, _read(sent.content)) == (mail_from, (authors, [sender]))
    assert (message.from_email, message.extra_headers) == (from_email, headers)


@pytest.mark.parametrize("from_email", ["a@e.example", '"Doe, Jane" <jane@e.example>'])
def test_one_author_needs_no_sender(from_email: str) -> None:
    assert _read(compose(_message(from_email)).data)[1] == []


NO_LIST = [
    "Doe, Jane <jane@e.example>",
    "a@e.example, ",
    "a@e.example,,b@e.example",
    "a@e.example, b@",
    "a, b",
    ",",
    "a@e.example, =?utf-8?q?b=00?= <b@e.example>",
]


@pytest.mark.django_db
@pytest.mark.parametrize("from_email", NO_LIST)
def test_what_is_no_list_of_addresses_is_refused(queueing: Queueing, from_email: str) -> None:
    queueing(1)
    assert mailboxes(from_email) == (from_email,)
    with pytest.raises(CannotQueue, match="from_email: "):
        mail.queue(_message(from_email))


@pytest.mark.django_db
def test_each_author_can_be_told_to_a_server(queueing: Queueing) -> None:
    queueing(1)
    with pytest.raises(CannotQueue, match=r"from_email: .*longer than 254"):
        mail.queue(_message(f"a@e.example, {'b' * 250}@e.example"))


@pytest.mark.django_db
@pytest.mark.parametrize("sender", ["a@e.example, b@e.example", "nobody at all"])
def test_the_sender_is_one_mailbox(queueing: Queueing, sender: str) -> None:
    queueing(1)
    with pytest.raises(CannotQueue, match="The header Sender: "):
        mail.queue(_message(TWO, {"Sender": sender}))


class WritesItself(EmailMessage):
    """Its From is its own, and so is its Sender."""

    own = ""

    def message(self, **kwargs: Any) -> Any:
        made = EmailMessage("Hello", "There.", "a@e.example", ["you@example.net"]).message()
        del made["From"]
        made["From"] = "A name by which the header gets so long that it is folded <a@e.example>, b@e.example"
        if self.own:
            made["Sender"] = self.own
        return made


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh_connections")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_that_writes_itself_is_asked_for_a_sender(queueing: Queueing, backend: str) -> None:
    with ScriptedServer() as server:
        queueing(server.port, backend)
        message = WritesItself("Hello", "There.", TWO, ["you@example.net"])
        with pytest.raises(CannotQueue, match=r"from_email: .* no Sender.*<a@e\.example>"):
            mail.queue(message)
        message.own = "b@e.example"
        message.extra_headers["Sender"] = "b@e.example"
        mail.queue(message)
        drain("mailrail.mail")
        ours.close_pools()
        [sent] = server.mails
    assert (sent.sender, _read(sent.content)) == (
        "b@e.example",
        (["a@e.example", "b@e.example"], ["b@e.example"]),
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh_connections")
def test_a_refusal_of_the_default_authors_is_one_of_the_default_sender(
    queueing: Queueing, settings: Any
) -> None:
    settings.DEFAULT_FROM_EMAIL = TWO
    with ScriptedServer(refused_senders={"a@e.example": "550 5.7.1 not yours"}) as server:
        queueing(server.port)
        EmailMessage("Hello", "There.", to=["you@example.net"]).send()
        drain("mailrail.mail", raise_errors=False)
    assert Email.objects.get().status == "queued"
    assert "default sender a@e.example" in MailerState.objects.get().reason
