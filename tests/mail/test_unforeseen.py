"""Errors in delivery that nobody foresaw: told with a traceback, counted, and nobody else's email waits for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.locmem import EmailBackend

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.mail.delivery import batch, load, outcomes, record, retries, smtp_transport, source
from mailrail.mail.mailers import failover, throttle

from ..listed import dead_on, get_one, waiting_on
from ..smtp_server import ScriptedServer
from .conftest import CHANNEL, messages, work

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.usefixtures("on", "fresh_connections"),
]

Queueing = Callable[..., None]
BAD = "bad@example.com"


@pytest.fixture
def server(queueing: Queueing) -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        queueing(server.port)
        yield server


def queue(count: int = 5) -> None:
    """One in the middle is bad."""
    recipients = [BAD if n == count // 2 else f"to{n}@example.com" for n in range(count)]
    mail.queue_many(EmailMessage("Hi", "Text.\n", "me@example.com", [it]) for it in recipients)


def is_bad(value: Any) -> bool:
    """Is the bad email among these?"""
    if isinstance(value, Email):
        return bool(value.recipients[0]["address"] == BAD)
    if hasattr(value, "email"):
        return is_bad(value.email)
    return isinstance(value, list | tuple) and any(map(is_bad, value))


def break_for_the_bad(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """From now on the function raises a KeyError where it is given the bad email."""
    usual = getattr(module, name)

    def broken(*arguments: Any, **named: Any) -> Any:
        if is_bad(arguments):
            raise KeyError("nobody foresaw this")
        return usual(*arguments, **named)

    monkeypatch.setattr(module, name, broken)


def bad() -> Email:
    return next(email for email in Email.objects.all() if is_bad(email))


def go_on(times: int = 9) -> None:
    for _ in range(times):
        get_layer().advance_time(5 * 3600)
        work()


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.exc_info and record.name == "mailrail.mail"
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (batch, "defect_of"),
        (batch, "_ended"),
        (throttle, "admit"),
        (failover, "move"),
        (batch, "load_messages"),
    ],
    ids=lambda it: getattr(it, "__name__", it).rpartition(".")[2],
)
def test_the_others_leave_and_the_bad_one_is_counted_and_held(
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: Any,
    name: str,
) -> None:
    break_for_the_bad(monkeypatch, module, name)
    queue()
    work()
    assert sorted(it.recipients[0] for it in server.mails) == [f"to{n}@example.com" for n in (0, 1, 3, 4)]
    email = bad()
    others = Email.objects.exclude(pk=email.pk)
    assert set(others.values_list("status", "attempts")) == {(Status.SENT, 1)}
    assert (email.status, email.attempts) == (Status.QUEUED, 1)
    assert email.events[-1]["why"] == "KeyError: 'nobody foresaw this'"
    assert tracebacks(caplog) == [f"email {email.pk} cannot be delivered, for an error that nobody foresaw"]
    go_on()
    email = bad()
    assert email.status == Status.HELD and "KeyError" in email.events[-1]["why"]
    assert email.attempts == retries.MAX_UNFORESEEN_ATTEMPTS and len(server.mails) == 4
    assert get_layer().stats() == {}


def test_one_that_may_have_left_by_then_is_ambiguous(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as broken:
        break_for_the_bad(broken, source, "accept")
        queue()
        work()
    assert bad().attempts == 1 and tracebacks(caplog)
    assert "KeyError" in bad().events[-1]["why"] and bad().events[-1]["what"] == record.AMBIGUOUS
    assert set(Email.objects.exclude(pk=bad().pk).values_list("status")) == {(Status.SENT,)}
    get_layer().advance_time(60)
    work()
    assert set(Email.objects.values_list("status")) == {(Status.SENT,)}


def test_what_is_mended_leaves_then(server: ScriptedServer) -> None:
    with pytest.MonkeyPatch.context() as broken:
        break_for_the_bad(broken, batch, "defect_of")
        queue()
        go_on()
    assert bad().status == Status.HELD
    mail.unhold(bad())
    work()
    assert bad().status == Status.SENT and len(server.mails) == 5


def test_where_not_even_the_record_can_be_written_the_message_counts(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_for_the_bad(monkeypatch, batch, "defect_of")
    break_for_the_bad(monkeypatch, outcomes, "fail_unforeseen")
    queue()
    work()
    assert len(server.mails) == 4
    [waits] = waiting_on(get_layer(), CHANNEL)
    found = get_one(get_layer(), CHANNEL, waits.id)
    assert found is not None and "nobody foresaw this" in found.error
    go_on()
    [dead] = dead_on(get_layer(), CHANNEL)
    assert "nobody foresaw this" in dead.error
    assert bad().status == Status.HELD


def test_an_email_that_cannot_be_composed_fails_with_a_traceback_in_the_log(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_for_the_bad(monkeypatch, load.Loaded, "compose")
    queue()
    work()
    assert len(server.mails) == 4
    email = bad()
    assert (email.status, email.attempts) == (Status.FAILED, 1)
    assert "nobody foresaw this" in email.recipients[0]["text"]
    assert tracebacks(caplog) == [f"email {email.pk} cannot be written"]


class BrokenBackend(EmailBackend):
    def send_messages(self, messages: Any) -> int:
        if messages[0].to == [BAD]:
            raise KeyError("nobody foresaw this")
        count: int = super().send_messages(messages)
        return count


def test_a_backend_that_raises_is_told_with_its_traceback(
    queueing: Queueing, caplog: pytest.LogCaptureFixture, mailoutbox: list[Any]
) -> None:
    queueing(0, f"{__name__}.BrokenBackend")
    queue()
    work()
    assert len(mailoutbox) == 4 and (bad().status, bad().attempts) == (Status.QUEUED, 1)
    [told] = tracebacks(caplog)
    assert "BrokenBackend raised over email" in told


def test_an_error_of_all_counts_for_all(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(batch, "_ended", broken)
    queue()
    work()
    assert server.mails == []
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.QUEUED, 1)}


@pytest.mark.parametrize("count", [1, 5])
def test_an_error_of_a_batch_that_shares_the_connections_is_charged_to_no_email_of_this_one(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def fail_for_another(*arguments: Any) -> NoReturn:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(smtp_transport, "send_together", fail_for_another)
    mail.queue_many(messages(count))
    work()
    assert len(server.mails) == count
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.SENT, 1)}
