"""Everything that can go wrong at every stage, from the record through the worker to the server and back.

Six emails each time, of which one is hit. What must be true: all that arrived is recorded, what is recorded as sent has
arrived, nobody else's email is blamed, and once the server behaves everything that may be sent is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage

from mailrail import mail
from mailrail.mail import Email, Status
from mailrail.mail.models import MailerState, Suppression
from mailrail.mail.smtp import close_pools
from mailrail.testing import drain, sent

from ..smtp_server import USER, Fault, ScriptedServer
from .test_outcomes import pass_time

pytestmark = pytest.mark.django_db(transaction=True)

Queueing = Callable[..., None]
EMAILS = 6
SESSION, EMAIL = ("CONNECT", "EHLO"), ("MAIL", "RCPT", "DATA", "DOT")
REPLIES = (
    "421 4.3.2 bye",
    "450 4.2.1 later",
    "451 4.3.0 later",
    "452 4.3.1 later",
    "550 5.7.1 no",
    "552 5.3.4 no",
    "554 5.6.0 no",
)
FAULTS = [
    *(
        Fault(stage, what)
        for stage in (*SESSION, *EMAIL)
        for what in ("disconnect", "silence", "garbage", *REPLIES)
        if (stage, what) != ("MAIL", "550 5.7.1 no")  # about the sender: test_refused_senders
    ),
    Fault("BODY", "disconnect"),
    Fault("BODY", "silence"),
    Fault("BODY", "451 4.3.0 later"),
    Fault("DOT", "accept-disconnect"),
]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that says nothing is given up after 0.2 seconds, where it would be minutes."""
    from mailrail.mail.smtp import backend
    from mailrail.mail.smtp.server import Timeouts

    monkeypatch.setattr(backend, "Timeouts", lambda: Timeouts(*[0.2] * 7))
    backend._timeouts.cache_clear()  # those of tests before
    yield
    backend._timeouts.cache_clear()
    close_pools()


def queue() -> None:
    mail.queue_many(
        EmailMessage("Hi", "Text.\n", "me@example.com", [f"to{n}@example.com"]) for n in range(EMAILS)
    )


def arrived(server: ScriptedServer) -> Counter[str]:
    return Counter(each.recipients[0] for each in server.mails)


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.stage} {fault.what[:10]}")
def test_one_fault(queueing: Queueing, fault: Fault, pipelining: bool) -> None:
    is_final = fault.stage in EMAIL and fault.what.startswith("55")
    is_refusal_for_now = fault.stage in (*EMAIL, "BODY") and fault.what.startswith("45")
    ambiguous = fault.stage == "DOT" and fault.what in (
        "disconnect",
        "silence",
        "accept-disconnect",
        "garbage",
    )
    with ScriptedServer([fault], pipelining=pipelining) as server:
        queueing(server.port)
        queue()
        drain("mailrail.mail")
        _check_account(server)
        for _ in range(3):
            pass_time(400)
            drain("mailrail.mail")
        _check_account(server)
        copies = arrived(server)
    statuses = Counter(Email.objects.values_list("status", flat=True))
    assert statuses == Counter({Status.SENT: EMAILS - is_final, Status.FAILED: int(is_final)}) + Counter()
    assert max(copies.values()) <= 1 + ambiguous and copies.total() <= EMAILS + ambiguous
    attempts = Counter(Email.objects.values_list("attempts", flat=True))
    assert attempts == Counter({1: EMAILS - is_refusal_for_now, 2: int(is_refusal_for_now)}) + Counter()
    assert (
        not Suppression.objects.exists() and not MailerState.objects.exists() and sent("mailrail.mail") == []
    )


def _check_account(server: ScriptedServer) -> None:
    copies = arrived(server)
    for email in Email.objects.all():
        [recipient] = email.recipients
        if email.status == Status.SENT:
            assert recipient["status"] == "sent" and recipient["code"] == 250 and copies[recipient["address"]]
        elif email.status == Status.FAILED:
            assert (
                recipient["code"] >= 550
                and not copies[recipient["address"]]
                and email.events[-1]["what"] == "refused"
            )
        else:
            assert email.status == Status.QUEUED and recipient["status"] == "queued"


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelining", "one by one"])
def test_some_recipients_are_refused(queueing: Queueing, pipelining: bool) -> None:
    refused = {
        "a@example.com": "550 5.1.1 nobody",
        "b@example.com": "452 4.2.2 full",
        "c@example.com": "554 5.7.1 no",
    }
    with ScriptedServer(refused=refused, pipelining=pipelining) as server:
        queueing(server.port)
        EmailMessage("Hi", "Text.", "me@example.com", [*refused, "d@example.com"]).send()
        drain("mailrail.mail")
        email = Email.objects.get()
        assert [(each["status"], each["code"]) for each in email.recipients] == [
            ("failed", 550),
            ("queued", 452),
            ("failed", 554),
            ("sent", 250),
        ]
        assert (email.status, email.attempts) == (Status.QUEUED, 1)
        server._refused = {}
        pass_time(200)
        drain("mailrail.mail")
        assert [each.recipients for each in server.mails] == [("d@example.com",), ("b@example.com",)]
    email.refresh_from_db()
    assert (email.status, email.attempts) == (Status.PARTIAL, 2)
    assert [each.address for each in Suppression.objects.all()] == ["a@example.com"]


@pytest.mark.parametrize("stage", ["STARTTLS", "AUTH"])
@pytest.mark.parametrize(
    "what", ["disconnect", "silence", "garbage", "421 4.3.2 bye", "454 4.7.0 later", "554 5.7.0 no"]
)
def test_what_goes_wrong_before_the_session_stands_costs_no_attempt(
    queueing: Queueing, monkeypatch: pytest.MonkeyPatch, stage: str, what: str
) -> None:
    import ssl

    import django
    import trustme

    from mailrail.mail.smtp.server import SmtpServer

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(SmtpServer, "tls_context", lambda self: trusting)
    login: dict[str, Any] = {"username": USER, "password": "right"}
    if django.VERSION < (6, 1):
        login = {"host_user": USER, "host_password": "right"}
    extensions = ("AUTH PLAIN",)
    with ScriptedServer([Fault(stage, what)], tls=context, extensions=extensions, password="right") as server:
        queueing(server.port, use_tls=True, **login)
        mail.queue(EmailMessage("Hi", "Text.", "me@example.com", ["you@example.com"]))
        drain("mailrail.mail")
        email = Email.objects.get()
        assert (email.status, email.attempts, server.mails) == (Status.QUEUED, 0, [])
        assert MailerState.objects.get().paused_by == "outage"
        pass_time(400)
        drain("mailrail.mail")
        assert len(server.mails) == 1 and not MailerState.objects.exists()
    email.refresh_from_db()
    assert (email.status, email.attempts) == (Status.SENT, 1)
