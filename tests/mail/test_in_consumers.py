"""What consumers send by Django's own API is queued once, however often their message runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, send_mail
from django.db import transaction
from django.test import Client

from mailrail import Channel, Retry, mail
from mailrail.invitations.models import Invitation
from mailrail.layers import get_layer
from mailrail.mail import Email, Status
from mailrail.messages import Message
from mailrail.routing import route
from mailrail.testing import advance, drain, sent
from mailrail.worker import IncomingMessage, current_execution

from ..processes import Ledger, Manage, WorkerProcess, until
from ..servers import ValkeyServer
from ..smtp_server import ScriptedServer
from .conftest import CHANNEL

Queueing = Callable[..., None]


def letter(subject: str = "Hello", **more: Any) -> EmailMessage:
    return EmailMessage(subject, "A body.\n", "me@example.com", ["you@example.com"], **more)


def send_and_fail(message: IncomingMessage) -> None:
    letter().send()
    if message.attempt < 3:
        raise Retry("once more", after=60)


async def asend_and_fail(message: IncomingMessage) -> None:
    from asgiref.sync import sync_to_async

    await sync_to_async(letter().send)()
    if message.attempt < 3:
        raise RuntimeError("once more")


def send_twice(message: IncomingMessage) -> None:
    letter().send()
    letter().send()
    letter("Something else").send()
    if message.attempt < 2:
        raise Retry("once more", after=60)


def send_what_differs(message: IncomingMessage) -> None:
    letter(f"Attempt {message.attempt}").send()
    if message.attempt < 2:
        raise Retry("once more", after=60)


def send_in_transaction(message: IncomingMessage) -> None:
    with transaction.atomic():
        letter().send()
        if message.attempt < 2:
            raise RuntimeError("all of it is undone")


def send_until_it_is_committed(message: IncomingMessage) -> None:
    """As after a deadlock, which comes in the first run only."""
    for is_first in (True, False):
        try:
            with transaction.atomic():
                letter().send()
                if is_first and message.attempt < 2:
                    raise ConnectionError("undone")
            break
        except ConnectionError:
            pass
    letter().send()
    if message.attempt < 2:
        raise Retry("once more", after=60)


def queue_and_fail(message: IncomingMessage) -> None:
    mail.queue(letter())
    if message.attempt < 2:
        raise Retry("once more", after=60)


def send_batch(messages: list[IncomingMessage]) -> None:
    assert current_execution() is None
    for _ in messages:
        letter().send()


channel_routing = [
    route("fail", send_and_fail),
    route("afail", asend_and_fail),
    route("twice", send_twice),
    route("differs", send_what_differs),
    route("transaction", send_in_transaction),
    route("until-committed", send_until_it_is_committed),
    route("queue", queue_and_fail),
    route("batch", send_batch, batch=10),
]


@pytest.fixture(params=["DatabaseChannelLayer", "InMemoryChannelLayer"])
def layer(request: pytest.FixtureRequest, settings: Any, queueing: Queueing, db: None) -> None:
    """Nobody delivers: the emails stay queued."""
    queueing(1)
    config = {"routing": f"{__name__}.channel_routing"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"mailrail.layers.{request.param}", "CONFIG": config}}


def run_to_the_end(channel: str) -> int:
    """How many runs that took."""
    runs = 0
    while waiting := sent(channel):
        ran = drain(channel, raise_errors=False)
        assert ran, waiting
        runs += len(ran)
        advance(3600.1)
    return runs


@pytest.mark.usefixtures("layer")
class TestSendInAConsumer:
    @pytest.mark.parametrize("channel", ["fail", "afail"])
    def test_a_retry_queues_nothing_that_an_earlier_attempt_has_queued(self, channel: str) -> None:
        Channel(channel).send({})
        assert run_to_the_end(channel) == 3
        assert Email.objects.count() == 1
        assert len(sent("mailrail.mail")) == 1

    def test_each_message_has_its_own_email(self) -> None:
        Channel("fail").send_many([{}, {}])
        run_to_the_end("fail")
        assert Email.objects.count() == 2

    def test_a_message_that_is_sent_anew_is_another_one_although_its_id_is_not(self) -> None:
        for _ in range(2):
            Channel("fail").send({"id": 1}, unique=True)
            run_to_the_end("fail")
        assert Email.objects.count() == 2

    def test_the_same_email_twice_in_one_run_is_two_emails(self) -> None:
        Channel("twice").send({})
        assert run_to_the_end("twice") == 2
        assert sorted(Email.objects.values_list("subject", flat=True)) == ["Hello", "Hello", "Something else"]

    def test_an_email_with_another_text_is_another_email(self) -> None:
        Channel("differs").send({})
        run_to_the_end("differs")
        assert sorted(Email.objects.values_list("subject", flat=True)) == ["Attempt 1", "Attempt 2"]

    def test_what_was_rolled_back_is_queued_by_the_next_attempt(self) -> None:
        Channel("transaction").send({})
        assert run_to_the_end("transaction") == 2
        assert Email.objects.count() == 1

    def test_what_a_run_has_undone_and_sent_again_is_not_queued_by_the_next_one(self) -> None:
        Channel("until-committed").send({})
        assert (run_to_the_end("until-committed"), Email.objects.count()) == (2, 2)

    def test_queue_does_what_it_is_told_each_time(self) -> None:
        Channel("queue").send({})
        run_to_the_end("queue")
        assert Email.objects.count() == 2

    def test_a_batch_knows_no_message_that_it_sends_for(self) -> None:
        Channel("batch").send_many([{}, {}])
        drain("batch")
        assert Email.objects.count() == 2

    def test_outside_consumers_nothing_is_compared(self) -> None:
        assert current_execution() is None
        letter().send()
        letter().send()
        assert Email.objects.count() == 2

    def test_an_email_whose_message_was_lost_with_its_process_gets_another(self) -> None:
        Channel("fail").send({})
        drain("fail", raise_errors=False)
        [lost] = sent("mailrail.mail")
        get_layer().cancel(CHANNEL, [lost.id])
        assert sent("mailrail.mail") == []
        advance(60)
        drain("fail", raise_errors=False)
        assert [each.content for each in sent("mailrail.mail")] == [{"id": str(Email.objects.get().pk)}]

    def test_one_that_a_person_has_stopped_stays_so(self) -> None:
        Channel("fail").send({})
        drain("fail", raise_errors=False)
        mail.cancel(Email.objects.get())
        get_layer().cancel(CHANNEL, [each.id for each in sent("mailrail.mail")])
        advance(60)
        drain("fail", raise_errors=False)
        assert Email.objects.get().status == Status.CANCELLED
        assert sent("mailrail.mail") == []


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_with_one_message_one_queues(
    queueing: Queueing, elsewhere: Callable[..., Any]
) -> None:
    from mailrail.worker.incoming import current_message

    queueing(1)
    its_route = route("work", send_and_fail)
    claim = Message("work", {}, sent_at=1.0)

    def send() -> None:
        before = current_message.set(IncomingMessage(claim, its_route))
        assert send_mail("Hello", "A body.", "me@example.com", ["you@example.com"]) == 1
        current_message.reset(before)

    with transaction.atomic():
        send()
        other = elsewhere.submit(send)  # type: ignore[attr-defined]
    other.result(timeout=30)
    assert Email.objects.count() == 1
    assert len(sent("mailrail.mail")) == 1


# -- by real workers, from the form to the server ---------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
        monkeypatch.setenv("MAILRAIL_TEST_ONCE", str(tmp_path / "once"))
        yield server


SETTINGS = """
backend = {backend!r}
if django.VERSION >= (6, 1):
    MAILERS["default"]["BACKEND"] = backend
else:
    EMAIL_BACKEND = backend
MAILRAIL |= {{"LEASE": 1.0, "BACKOFF": 0.0}}
CHANNEL_LAYERS = {layers!r}
"""
OURS = "mailrail.mail.backend.EmailBackend"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("backend", "redis"),
    [
        (OURS, False),
        ("tests.mail.interrupted.Raising", False),
        ("tests.mail.interrupted.Killed", False),
        ("tests.mail.interrupted.KilledBeforeItsMessage", True),
    ],
    ids=["in-peace", "raising", "killed", "killed-before-its-message-redis"],
)
def test_an_invitation_arrives_once(
    request: pytest.FixtureRequest,
    server: ScriptedServer,
    settings: Any,
    tmp_path: Path,
    client: Client,
    django_user_model: Any,
    backend: str,
    redis: bool,
) -> None:
    layers: dict[str, Any] = {"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
    if redis:
        valkey: ValkeyServer = request.getfixturevalue("valkey")
        layers["default"] = {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": [valkey.url], "routing": f"{__name__}.channel_routing"},
        }
    settings.CHANNEL_LAYERS = layers
    client.force_login(django_user_model.objects.create(username="ada"))
    assert client.post("/invites/new/", {"email": "guest@example.com"}).status_code == 302
    manage = Manage(Ledger(tmp_path / "ledger"))
    manage.use_settings(tmp_path, SETTINGS.format(backend=backend, layers=layers))
    worker = WorkerProcess(Ledger(tmp_path / "ledger"), env=manage.environment)
    try:
        until(lambda: server.mails, what="the mail")
        until(lambda: Email.objects.filter(status=Status.SENT).exists() and nothing_waits(), what="the end")
    except BaseException:
        print(worker.log)
        raise
    finally:
        worker.kill_all()
    assert (tmp_path / "once").exists() is (backend != OURS)
    assert [each.recipients for each in server.mails] == [("guest@example.com",)]
    assert Email.objects.count() == 1
    assert Invitation.objects.get().sent is not None
    get_layer().stop_listening()


def nothing_waits() -> bool:
    return not any(s.ready + s.scheduled + s.claimed + s.dead for s in get_layer().stats().values())
