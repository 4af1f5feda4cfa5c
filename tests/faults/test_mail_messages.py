"""Records of email and their messages: none is left without one, none is sent by two. Real servers and processes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.mail import EmailMessage
from django.db import connections
from django.utils import timezone

from mailrail import mail
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.mail.delivery.batch import Delivery
from mailrail.mail.records.retention import first_id
from mailrail.mail.smtp import close_pools
from mailrail.messages import Message
from mailrail.reconciliation import Reconciler, reconcilers
from mailrail.routing import Routing
from mailrail.testing import sent
from mailrail.worker import IncomingMessage

from ..processes import Ledger, Manage, WorkerProcess, until
from ..servers import ValkeyServer
from ..smtp_server import ScriptedServer
from .test_mail_rates import MAILER, NAME, Project, all_are_sent, ids, project, queue, storage

__all__ = ["project", "storage"]

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(300),
]
CHANNEL = f"mailrail.mail.{NAME}"
BOTH = pytest.mark.parametrize("storage", ["postgresql", "valkey"], indirect=True)


def of_mail() -> list[Reconciler]:
    Routing.of_layer()
    return [it for it in reconcilers(get_layer()) if it.channel == "mailrail.mail.*"]


def reconcile() -> int:
    """Of all records but those of this very millisecond."""
    return sum(each.run(older_than=0) for each in of_mail())


def age(email: Email, seconds: float) -> None:
    """As if it had been queued so long ago."""
    old = first_id(timezone.now() - timedelta(seconds=seconds))
    Email.objects.filter(pk=email.pk).update(id=old)


def nothing_waits() -> bool:
    return not any(s.ready + s.scheduled + s.claimed + s.dead for s in get_layer().stats().values())


# -- the message is lost ----------------------------------------------------------------------------------------------


SETTINGS = """
backend = {backend!r}
if django.VERSION >= (6, 1):
    MAILERS["default"]["BACKEND"] = backend
else:
    EMAIL_BACKEND = backend
MAILRAIL |= {{"LEASE": 1.0, "RECONCILE_EVERY": 0.3}}
CHANNEL_LAYERS = {layers!r}
"""


def test_kill_9_between_the_email_and_its_message_delays_it(
    settings: Any, valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no consumer, as in a web process. Workers find it after five minutes, and it leaves once."""
    config = {"hosts": [valkey.url], "routing": "tests.routes.on_redis"}
    layers = {"default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": config}}
    settings.CHANNEL_LAYERS = layers
    monkeypatch.setenv("MAILRAIL_TEST_ONCE", str(tmp_path / "once"))
    with ScriptedServer() as server:
        monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
        manage = Manage(Ledger(tmp_path / "ledger"))
        backend = "tests.mail.interrupted.KilledBeforeItsMessage"
        manage.use_settings(tmp_path, SETTINGS.format(backend=backend, layers=layers))
        assert manage("sendtestemail", "you@example.com").returncode == -9
        email = Email.objects.get()
        assert email.status == Status.QUEUED and nothing_waits()
        assert sum(each.run() for each in of_mail()) == 0  # it is young: its message may be on its way
        worker = WorkerProcess(Ledger(tmp_path / "ledger"), env=manage.environment)
        try:
            age(email, 301)
            until(lambda: server.mails, what="the mail")
            until(lambda: Email.objects.filter(status=Status.SENT).exists() and nothing_waits())
        finally:
            worker.kill_all()
            print(worker.log[-3000:])
        assert reconcile() == 0
        assert [each.recipients for each in server.mails] == [("you@example.com",)]
    get_layer().stop_listening()


# -- two messages of one email ----------------------------------------------------------------------------------------


class Halting(ScriptedServer):
    """Its first reply to a final dot comes when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.at_dot, self.go_on = threading.Event(), threading.Event()

    def fault_at(self, stage: str) -> str | None:
        if stage == "DOT" and not self.at_dot.is_set():
            self.at_dot.set()
            assert self.go_on.wait(60)
        return super().fault_at(stage)


def letter(**more: Any) -> Email:
    return mail.queue(
        EmailMessage("Hello", "A body.\n", "me@example.com", ["you@example.com"]), mailer=MAILER, **more
    )


def claim() -> Message:
    [claimed] = get_layer().claim("w", {CHANNEL: 1}, 60.0).claims
    return claimed


def deliver(claimed: Message) -> None:
    """One batch, settled in the end."""
    message = IncomingMessage(claimed)
    try:
        Delivery([message]).run()
        assert message.outcome is not None
        if message.outcome.kind == "finished":
            get_layer().finish([claimed])
        else:
            get_layer().release([claimed])
    finally:
        connections.close_all()


def work() -> None:
    """All that is there, at once."""
    for _ in range(5):
        get_layer().advance_time(7200)
        Email.objects.exclude(send_at=None).update(send_at=timezone.now())
        while claims := get_layer().claim("w", {CHANNEL: 1}, 60.0).claims:
            deliver(claims[0])


@pytest.fixture
def pools() -> Iterator[None]:
    yield
    close_pools()


@BOTH
@pytest.mark.parametrize("old_one_first", [True, False])
def test_a_scheduled_email_that_was_held_and_released_leaves_once(
    project: Project, pools: None, old_one_first: bool
) -> None:
    """Two workers have a message each, and the second one looks while the first waits for the reply to its dot."""
    with (server := Halting()), ThreadPoolExecutor(2) as pool:
        project.configure(server.port)
        email = letter(send_at=3600)
        mail.hold(email)
        mail.unhold(email)
        both = sorted(sent(CHANNEL), key=lambda message: message.content.get("dispatch", 0))
        assert len(both) == 2
        get_layer().advance_time(3601)
        Email.objects.update(send_at=timezone.now())
        claims = {each.id: each for each in (claim(), claim())}
        first, second = both if old_one_first else reversed(both)
        one = pool.submit(deliver, claims[first.id])
        until(lambda: server.at_dot.is_set() or one.done())
        other = pool.submit(deliver, claims[second.id])
        until(server.at_dot.is_set if one.done() else other.done)
        server.go_on.set()
        one.result(60), other.result(60)
        work()
        assert list(ids(server.mails).values()) == [1]
        assert Email.objects.get().status == Status.SENT
        assert [event["what"] for event in Email.objects.get().events] == [
            "held",
            "taken off hold",
            "accepted",
        ]
    assert nothing_waits()


@BOTH
@pytest.mark.parametrize("again", [mail.unhold, mail.resend], ids=["unhold", "resend"])
def test_what_is_released_before_its_old_message_is_settled_is_not_lost(
    project: Project, pools: None, again: Callable[[Email], mail.Changed]
) -> None:
    """A worker has seen it held, or cancelled, and says so only after a person has decided otherwise."""
    with ScriptedServer() as server:
        project.configure(server.port)
        email = letter()
        (mail.hold if again is mail.unhold else mail.cancel)(email)
        claimed = claim()
        message = IncomingMessage(claimed)
        Delivery([message]).run()
        assert message.outcome is not None and message.outcome.kind == "finished"
        assert again(email).done == [email.pk]
        assert get_layer().finish([claimed]) == []
        work()
        assert list(ids(server.mails).values()) == [1]
    assert Email.objects.get().status == Status.SENT and nothing_waits()


@BOTH
def test_of_two_messages_in_one_batch_the_later_one_counts(project: Project, pools: None) -> None:
    print(f"seed: {(seed := random.randrange(10**6))}")
    with ScriptedServer() as server:
        project.configure(server.port)
        emails = [letter() for _ in range(10)]
        for email in random.Random(seed).sample(emails, 5):
            mail.hold(email)
            mail.unhold(email)
        claims = get_layer().claim("w", {CHANNEL: 100}, 60.0).claims
        assert len(claims) == 15
        random.Random(seed).shuffle(claims)
        Delivery([IncomingMessage(each) for each in claims]).run()
        get_layer().finish(claims)
        assert sorted(ids(server.mails).values()) == [1] * 10
        assert all_are_sent()


@pytest.mark.parametrize("storage", ["valkey"], indirect=True)
def test_a_layer_that_has_lost_its_messages_makes_no_copy(
    project: Project, pools: None, valkey: ValkeyServer
) -> None:
    """What a worker has claimed goes on, beside the message that reconciliation has sent for it."""
    with (server := Halting()), ThreadPoolExecutor(1) as pool:
        project.configure(server.port)
        emails = queue(3)
        claims = [claim() for _ in emails]
        with redis.Redis.from_url(valkey.url) as client:
            client.flushdb()
        assert reconcile() == 3
        sending = pool.submit(deliver, claims[0])
        until(server.at_dot.is_set)
        again = get_layer().claim("w", {CHANNEL: 10}, 60.0).claims
        Delivery(messages := [IncomingMessage(each) for each in again]).run()
        server.go_on.set()
        sending.result(60)
        for message in messages:
            assert message.outcome is not None
            is_first = message["id"] == claims[0].content["id"]
            assert message.outcome.kind == ("released" if is_first else "finished")
            (get_layer().release if is_first else get_layer().finish)([message.claim])
        for late in claims[1:]:
            deliver(late)
        work()
        assert ids(server.mails) == {email.message_id: 1 for email in emails}
        assert all_are_sent()
    assert nothing_waits()


# -- reconciliation while everything else goes on ---------------------------------------------------------------------


EMAILS = 300


def meddle(emails: list[Email], chance: random.Random) -> None:
    """What people do, at random."""
    some = chance.sample(emails, 20)
    what = chance.choice([mail.hold, mail.unhold, mail.unhold, mail.cancel, mail.resend])
    what(some[:2] if what in (mail.cancel, mail.resend) else some)
    if chance.random() < 0.1:  # what is paused comes again within a minute: a little of that is enough
        mail.pause(NAME)
    mail.resume(NAME)


@BOTH
def test_reconciliation_beside_everything_else_sends_nothing_twice(project: Project) -> None:
    print(f"seed: {(seed := random.randrange(10**6))}")
    chance = random.Random(seed)
    with ScriptedServer() as server:
        project.configure(server.port, RATE="100/s")
        emails = queue(EMAILS // 2) + [letter(send_at=chance.uniform(0, 3)) for _ in range(EMAILS // 2)]
        project.start(1)
        until(lambda: server.mails)
        again = 0
        while len(server.mails) < EMAILS // 2:
            again += reconcile()
            meddle(emails, chance)
        mail.resume(NAME)

        def is_over() -> bool:
            nonlocal again
            again += reconcile()
            mail.unhold(list(Email.objects.filter(status=Status.HELD)))
            return not Email.objects.filter(status__in=(Status.QUEUED, Status.SENDING, Status.HELD)).exists()

        until(is_over, 120)
        print(f"{again} messages again")
        found = ids(server.mails)
        for email in Email.objects.all():
            assert not [each for each in email.events if "may have been sent" in each["what"]], email.events
            assert found[email.message_id] == (email.status == Status.SENT), (email.status, email.events)
        assert again == 0  # no message was missing
