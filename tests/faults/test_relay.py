"""The outbox and reconciliation with real workers: a Redis that is down, killed or wiped while there is work."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from demo.smtp import MailServer
from mailrail import Channel
from mailrail.invitations.models import Invitation
from mailrail.layers import DurableLayer, get_layer
from mailrail.messages import Rate

from ..processes import Ledger, until, workers
from ..servers import ValkeyServer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

ONE_LOOK = Rate(1, 0.5)  # as in tests/redis_settings.py
SETTINGS = ("--settings", "tests.redis_settings")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    server = ValkeyServer(appendonly="yes", appendfsync="always")
    server.start()
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", server.url)
    yield server
    server.remove()


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    with MailServer() as server:
        monkeypatch.setenv("MAILRAIL_TEST_SMTP_PORT", str(server.port))
        yield server


def use(
    settings: Any, monkeypatch: pytest.MonkeyPatch, server: ValkeyServer, *, outbox: bool
) -> DurableLayer:
    """The layer of the workers, in this process."""
    config = {"hosts": [server.url], "routing": "tests.routes.on_redis", "outbox": outbox}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": config}}
    if outbox:
        monkeypatch.setenv("MAILRAIL_TEST_OUTBOX", "1")
    return get_layer()


def is_empty(layer: DurableLayer) -> bool:
    return not any(s.ready + s.scheduled + s.claimed for s in layer.stats().values())


@pytest.fixture
def invitations(request: pytest.FixtureRequest, django_user_model: Any) -> list[int]:
    """So many of an hour ago, and their messages wait."""
    ada = django_user_model.objects.create(username="ada")
    emails = [f"guest-{n:04}@example.com" for n in range(request.param)]
    rows = Invitation.objects.bulk_create(Invitation(email=email, sender=ada) for email in emails)
    Invitation.objects.update(created=timezone.now() - timedelta(hours=1))
    return [row.pk for row in rows]


def send(pks: list[int]) -> None:
    Channel("send-invite").send_many(({"id": pk} for pk in pks), unique=True)


def copies(mail_server: MailServer) -> Counter[int]:
    """How many recipients got how many mails."""
    per_recipient = Counter(mail.recipient for mail in mail_server.mailbox.received())
    return Counter(per_recipient.values())


@pytest.mark.parametrize("invitations", [300], indirect=True)
def test_flushall_while_300_invitations_wait_and_all_are_sent_once(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    server: ValkeyServer,
    ledger: Ledger,
    invitations: list[int],
    mail_server: MailServer,
) -> None:
    layer = use(settings, monkeypatch, server, outbox=False)
    send(invitations)
    layer.pause("send-invite")
    with workers(ledger, *SETTINGS, "--processes", "2", number=2) as started:
        until(lambda: len(layer.workers()) == 4, what="the workers")
        with server.client() as client:
            client.flushall()
        begun = time.monotonic()
        until(lambda: mail_server.mailbox.wait_for(300, 0) == 300, 120, "the mail")
        print(f"300 mails {time.monotonic() - begun:.1f} s after FLUSHALL")
        until(lambda: is_empty(layer))
        for worker in started:
            worker.signal(signal.SIGTERM)
        assert [worker.wait() for worker in started] == [0, 0]
    assert copies(mail_server) == {1: 300}
    assert not Invitation.objects.filter(sent=None).exists()


@pytest.mark.parametrize("invitations", [300], indirect=True)
def test_while_nothing_is_lost_nothing_is_sent_twice_however_often_one_looks(
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    server: ValkeyServer,
    ledger: Ledger,
    invitations: list[int],
    mail_server: MailServer,
) -> None:
    layer = use(settings, monkeypatch, server, outbox=False)
    send(invitations)
    with workers(ledger, *SETTINGS, "--processes", "2", number=2) as started:
        until(lambda: mail_server.mailbox.wait_for(300, 0) == 300, 120, "the mail")
        until(
            lambda: is_empty(layer) and layer.take("mailrail.reconcile", 1, ONE_LOOK).granted
        )  # and looks on
        for worker in started:
            worker.signal(signal.SIGTERM)
        assert [worker.wait() for worker in started] == [0, 0]
    assert copies(mail_server) == {1: 300}
    assert not any("sent again" in worker.log or "again:" in worker.log for worker in started)


def test_sends_while_redis_is_down_raise_nothing_and_all_run_when_it_is_back(
    settings: Any, monkeypatch: pytest.MonkeyPatch, server: ValkeyServer, ledger: Ledger
) -> None:
    layer = use(settings, monkeypatch, server, outbox=True)
    outbox = layer.outbox
    assert outbox is not None
    ids: list[str] = []
    with workers(ledger, *SETTINGS, "ledger", number=2):
        until(lambda: len(layer.workers()) == 2, what="the workers")
        for n in range(300):
            if n == 100:
                server.stop(signal.SIGKILL)
            if n == 200:
                server.start()
            with transaction.atomic():
                ids.append(str(Channel("ledger").send({"n": n})))
        until(lambda: not outbox.is_due and is_empty(layer), 120, "the last of them")
        until(lambda: set(ledger.counts()) == set(ids), what="every message")
    # Twice at most what the server had taken in when it was killed, and could not say so any more.
    assert sum(ledger.counts().values()) <= len(ids) + 1


def test_a_sender_killed_after_its_commit_has_sent(
    settings: Any, monkeypatch: pytest.MonkeyPatch, server: ValkeyServer, ledger: Ledger
) -> None:
    layer = use(settings, monkeypatch, server, outbox=True)
    outbox = layer.outbox
    assert outbox is not None
    monkeypatch.setattr(
        outbox, "_senders_rest_until", float("inf")
    )  # what follows the commit does not happen
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 700)}
    assert is_empty(layer)
    with workers(ledger, *SETTINGS, "ledger", number=2):
        until(lambda: set(ledger.counts()) == ids, what="every message")
        until(lambda: is_empty(layer) and not outbox.stats())
    assert set(ledger.counts().values()) == {1}


def test_drain_relays_first(
    settings: Any, monkeypatch: pytest.MonkeyPatch, server: ValkeyServer, ledger: Ledger
) -> None:
    outbox = use(settings, monkeypatch, server, outbox=True).outbox
    assert outbox is not None
    monkeypatch.setattr(outbox, "_senders_rest_until", float("inf"))
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 20)}
    with workers(ledger, *SETTINGS, "ledger", "--drain") as [worker]:
        assert worker.wait() == 0
    assert set(ledger.counts()) == ids
