"""A database that turns read-only for a while, and whatever is written just then: it waits, and one copy leaves.

So it is where a disk is nearly full, and after a failover that keeps connections (SQLSTATE 25006).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.mail.backends.locmem import EmailBackend
from django.db import InternalError, connections

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.worker.claim_loop import ClaimLoop

from ..processes import until
from ..servers import PostgresServer
from ..smtp_server import ScriptedServer
from .conftest import CHANNEL, messages, work

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.parametrize("on", ["postgres"], indirect=True),
    pytest.mark.usefixtures("on", "fresh_connections"),
]

Queueing = Callable[..., None]


class Switch(logging.Handler):
    """Makes the server read-only, until the first line of the log that says somebody waits for it."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(logging.WARNING)
        self._server = server
        self.heard: list[str] = []
        self.is_on = False

    def turn(self, on: bool) -> None:
        self.is_on = on
        with self._server.connect() as admin:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
            admin.execute("SELECT pg_reload_conf()")
        until(lambda: self._is_seen(on), what="the change of the server")

    def _is_seen(self, on: bool) -> bool:
        with self._server.connect(dbname="mailrail") as other:
            row = other.execute("SHOW default_transaction_read_only").fetchone()
        return row == ("on" if on else "off",)

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_on and "cannot execute" in record.getMessage():
            self.heard.append(record.getMessage())
            self.turn(False)


@pytest.fixture
def switch(postgres_server: PostgresServer) -> Iterator[Switch]:
    switch = Switch(postgres_server)
    for name in ("mailrail.mail", "mailrail.worker"):
        logging.getLogger(name).addHandler(switch)
    yield switch
    for name in ("mailrail.mail", "mailrail.worker"):
        logging.getLogger(name).removeHandler(switch)
    if switch.is_on:
        switch.turn(False)


def finish() -> None:
    """Work, also on what was put off; not until ambiguous email is sent again."""
    work()
    get_layer().advance_time(10)
    work()


def check_one_copy_each(heard: list[str], copies: int, emails: int = 3) -> None:
    """In time: nothing was put off so far that ambiguous email would be decided about."""
    assert heard, "it was not noticed at all"
    assert set(Email.objects.values_list("status", "attempts")) == {(Status.SENT, 1)}
    assert copies == emails
    assert get_layer().stats() == {}


class Turning(ScriptedServer):
    """Turns the switch at a stage, the first time."""

    def __init__(self, switch: Switch, stage: str, nth: int) -> None:
        super().__init__()
        self._switch, self._at = switch, (stage, nth)

    def fault_at(self, stage: str) -> str | None:
        with self._lock:
            is_now = (stage, self._seen[stage]) == self._at
        if is_now:
            self._switch.turn(True)
        return super().fault_at(stage)


@pytest.mark.parametrize(
    ("stage", "nth"), [("RCPT", 0), ("DOT", 0), ("DOT", 2)], ids=["intents", "outcomes", "last outcome"]
)
def test_emails_by_smtp_leave_once(queueing: Queueing, switch: Switch, stage: str, nth: int) -> None:
    with Turning(switch, stage, nth) as server:
        queueing(server.port)
        mail.queue_many(messages(3))
        finish()
        check_one_copy_each(switch.heard, len(server.mails))


class TurningBackend(EmailBackend):
    switch: Switch

    def send_messages(self, messages: Any) -> int:
        count: int = super().send_messages(messages)
        if not self.switch.heard:
            self.switch.turn(True)
        return count


def test_emails_by_another_backend_leave_once(
    queueing: Queueing, switch: Switch, mailoutbox: list[Any]
) -> None:
    TurningBackend.switch = switch
    queueing(0, f"{__name__}.TurningBackend")
    mail.queue_many(messages(3))
    finish()
    check_one_copy_each(switch.heard, len(mailoutbox))


def test_claims_wait(queueing: Queueing, switch: Switch, mailoutbox: list[Any]) -> None:
    queueing(0, "django.core.mail.backends.locmem.EmailBackend")
    mail.queue_many(messages(3))
    switch.turn(True)
    work()
    check_one_copy_each(switch.heard, len(mailoutbox))


def test_ends_of_messages_wait(
    queueing: Queueing, switch: Switch, mailoutbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = ClaimLoop._collect

    def turn_and_collect(loop: ClaimLoop) -> None:
        if Email.objects.filter(status=Status.SENT).exists() and not switch.heard:
            switch.turn(True)
        collect(loop)

    monkeypatch.setattr(ClaimLoop, "_collect", turn_and_collect)
    queueing(0, "django.core.mail.backends.locmem.EmailBackend")
    mail.queue_many(messages(3))
    work()
    check_one_copy_each(switch.heard, len(mailoutbox))


def test_whoever_queues_is_told_by_the_error(queueing: Queueing, switch: Switch) -> None:
    queueing(0, "django.core.mail.backends.locmem.EmailBackend")
    switch.turn(True)
    with pytest.raises(InternalError, match="read-only transaction"):
        mail.queue(messages(1)[0])
    switch.turn(False)
    connections["postgres"].close()
    assert not Email.objects.exists()
    mail.queue(messages(1)[0])
    assert get_layer().stats()[CHANNEL].ready == 1
