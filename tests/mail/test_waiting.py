"""Email that waits for its mailer is not touched, keeps no other waiting, and leaves soon when it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import django
import pytest
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from mailrail import Channel, mail
from mailrail.errors import LayerUnavailable
from mailrail.layers import get_layer
from mailrail.mail import Email, Status, queue_many
from mailrail.mail.mailers import circuit, waiting
from mailrail.mail.mailers.channels import channel_of
from mailrail.mail.mailers.config import alias_of
from mailrail.mail.models import MailerConnection, MailerState
from mailrail.mail.records.moving import move
from mailrail.moments import from_now
from mailrail.routing import Routing
from mailrail.signals import message_started
from mailrail.worker import Worker

from ..processes import until
from ..servers import ValkeyServer
from ..smtp_server import Fault, ScriptedServer
from .conftest import MAILER, messages, work

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.usefixtures("fresh_connections"),
]

Configure = Callable[..., None]
SOON_S = 2.0
"""Seconds in which email leaves that may; a busy machine gets some more."""
ALIAS = MAILER if django.VERSION >= (6, 1) else ""


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def storage(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    kind: str = request.param
    layer: dict[str, Any] = {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}
    if kind == "postgres":
        layer["CONFIG"] = {"using": "postgres"}
        monkeypatch.setenv("MAILRAIL_TEST_MAIL_ON", "postgres")
        settings.DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
    elif kind == "valkey":
        server: ValkeyServer = request.getfixturevalue("valkey")
        config = {"hosts": [server.url], "routing": "tests.routes.on_redis"}
        layer = {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": config}
    settings.CHANNEL_LAYERS = {"default": layer}
    yield kind
    connections.close_all()


@contextmanager
def working() -> Iterator[list[str]]:
    """Run a worker on a thread of its own. Yield the channels of the batches and messages that it starts."""
    started: list[str] = []

    def note(*, sender: str, **kwargs: Any) -> None:
        started.append(sender)

    message_started.connect(note)
    worker = Worker(get_layer(), Routing.of_layer(), ["mailrail.mail"])
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield started
    finally:
        worker.stop(5)
        thread.join(20)
        message_started.disconnect(note)
    assert not thread.is_alive()


def ready(mailer: str = ALIAS) -> int:
    stats = get_layer().stats().get(channel_of(mailer))
    return stats.ready if stats else 0


def within(seconds: float, condition: Callable[[], Any], what: str) -> None:
    begun = time.monotonic()
    until(condition, 20, what)
    took = time.monotonic() - begun
    assert took < seconds + 1.0, f"{what}: after {took:.1f} s"


def touched() -> int:
    emails = Email.objects.filter(mailer=ALIAS)
    return emails.exclude(version=0, attempts=0, status=Status.QUEUED).count()


def test_a_paused_mailer_costs_nothing_and_the_others_flow(
    storage: str, queueing: Configure, second: Configure
) -> None:
    with ScriptedServer() as paused, ScriptedServer() as other:
        queueing(paused.port)
        second("other", other.port)
        queue_many(messages(30), mailer=MAILER)
        mail.pause(MAILER, reason="for the test")
        with working() as started:
            queue_many(messages(30), mailer="other")
            within(SOON_S, lambda: len(other.mails) == 30, "the email of the other mailer")
            assert set(started) == {channel_of("other")} and ready() == 30 and not paused.mails
            mail.resume(MAILER)
            within(SOON_S, lambda: paused.mails, "the first email after resume")
            within(SOON_S, lambda: len(paused.mails) == 30, "the last email after resume")
    assert not MailerState.objects.exists() and not get_layer().stats().get(channel_of(ALIAS))


def test_a_pause_by_the_command_of_channels_is_one_of_the_mailer(
    storage: str, queueing: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    queueing(1)
    queue_many(messages(1), mailer=MAILER)
    call_command("channels", "pause", "mailrail.mail")
    assert MailerState.objects.get().paused_by == circuit.PERSON
    call_command("mailers")
    assert f"{MAILER}: paused since" in capsys.readouterr().out
    call_command("channels", "resume", channel_of(ALIAS))
    assert not MailerState.objects.exists() and not get_layer().stats()[channel_of(ALIAS)].paused


def test_a_pause_that_the_layer_has_lost_holds_and_is_restored(storage: str, queueing: Configure) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(messages(3), mailer=MAILER)
        mail.pause(MAILER)
        get_layer().resume(channel_of(ALIAS))
        work()
        assert not server.mails and get_layer().stats()[channel_of(ALIAS)].paused and touched() == 0
        mail.resume(MAILER)
        with working():
            until(lambda: len(server.mails) == 3, 10, "all email")


def switch(way: str, what: str) -> None:
    """Pause or resume the mailer."""
    if way == "channels":
        call_command("channels", what, channel_of(ALIAS))
    else:
        getattr(mail, what)(MAILER)


def layer_is_paused() -> bool:
    return get_layer().stats()[channel_of(ALIAS)].paused


@pytest.mark.parametrize("way", ["mailers", "channels"])
def test_a_pause_and_a_resume_at_once_leave_no_channel_paused_without_a_record(
    storage: str, queueing: Configure, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    queueing(1)
    queue_many(messages(1), mailer=MAILER)
    layer = get_layer()
    pause, resume = layer.pause, layer.resume

    def pause_late(channel: str, by: str = "", reason: str = "") -> None:
        with monkeypatch.context() as patch:
            patch.setattr(layer, "pause", pause)
            mail.resume(MAILER)
        pause(channel, by, reason)

    def resume_and_meet_a_batch(channel: str) -> None:
        resume(channel)
        with monkeypatch.context() as patch:
            patch.setattr(layer, "resume", resume)
            circuit.keep_paused(ALIAS, Email.objects.db)

    with monkeypatch.context() as patch:
        patch.setattr(layer, "pause", pause_late)
        mail.pause(MAILER)
    assert layer_is_paused() == MailerState.objects.exists()
    switch(way, "pause")
    assert layer_is_paused() and MailerState.objects.exists()
    with monkeypatch.context() as patch:
        patch.setattr(layer, "resume", resume_and_meet_a_batch)
        switch(way, "resume")
    assert not layer_is_paused() and not MailerState.objects.exists()


def test_a_resume_that_fails_leaves_the_mailer_paused(
    storage: str, queueing: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(channel: str) -> None:
        raise LayerUnavailable("It is away.")

    queueing(1)
    queue_many(messages(1), mailer=MAILER)
    mail.pause(MAILER)
    with monkeypatch.context() as patch:
        patch.setattr(get_layer(), "resume", fail)
        with pytest.raises(LayerUnavailable):
            mail.resume(MAILER)
    assert layer_is_paused() and MailerState.objects.get().paused_by == circuit.PERSON
    mail.resume(MAILER)
    assert not layer_is_paused() and not MailerState.objects.exists()


@pytest.fixture
def away() -> Iterator[ScriptedServer]:
    """Close every connection until ``mend`` is called."""
    with ScriptedServer(Fault("CONNECT", "disconnect", n) for n in range(1000)) as server:
        yield server


def mend(server: ScriptedServer) -> None:
    server._faults.clear()
    let_probe()


def let_probe() -> None:
    """Let the next probe be due, and tell this process."""
    MailerState.objects.update(probe_at=timezone.now())
    circuit.look_again(Email.objects.db)


def test_an_outage_claims_only_its_probes_and_ends_for_all_at_once(
    storage: str, queueing: Configure, second: Configure, away: ScriptedServer
) -> None:
    with ScriptedServer() as other:
        queueing(away.port)
        second("other", other.port)
        queue_many(messages(40), mailer=MAILER)
        with working() as started:
            until(lambda: MailerState.objects.exists(), 10, "the outage")
            until(lambda: ready() == 40, 10, "the end of the batches that found it")
            begun = len(started)
            queue_many(messages(30), mailer="other")
            within(SOON_S, lambda: len(other.mails) == 30, "the email of the other mailer")
            assert set(started[begun:]) == {channel_of("other")}
            begun = len(started)
            let_probe()
            until(lambda: len(started) > begun, 10, "the probe")
            until(lambda: MailerState.objects.get().probes > 1, 10, "its end")
            assert len(started) - begun <= 2 and touched() == 0
            mend(away)
            until(lambda: away.mails, 10, "the first successful probe")
            within(SOON_S, lambda: len(away.mails) == 40, "all email after it")
    assert not MailerState.objects.exists()


def test_probes_come_after_5_10_20_and_at_most_60_seconds() -> None:
    delays = [circuit.trip("out", "It is away.", "default") for _ in range(13)]
    for delay, most in zip(delays, (5, 10, 20, 40, *[60] * 9), strict=True):
        assert 0.8 * most <= delay <= most


def test_while_a_mailer_is_out_its_channel_flows_by_the_stand_in_at_that_ones_rate(
    storage: str, queueing: Configure, policy: Configure, second: Configure, away: ScriptedServer
) -> None:
    with ScriptedServer() as backup:
        queueing(away.port)
        policy(FAILOVER=["backup"])
        second("backup", backup.port, RATE="25/h")
        queue_many(messages(40), mailer=MAILER)
        with working() as started:
            until(lambda: len(backup.mails) == 25, 10, "what the rate of the stand-in allows")
            until(lambda: ready() + scheduled() == 15, 10, "the end of its batches")
            mend(away)
            until(lambda: len(away.mails) == 15, 10, "the rest by the first, which works again")
        assert set(started) == {channel_of(ALIAS)}
    assert set(Email.objects.values_list("status", flat=True)) == {Status.SENT.value}


def scheduled() -> int:
    stats = get_layer().stats().get(channel_of(ALIAS))
    return stats.scheduled if stats else 0


def test_a_used_up_rate_leaves_the_rest_where_it_is(
    storage: str, queueing: Configure, policy: Configure
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="5/h, 100/d")
        queue_many(messages(300), mailer=MAILER)
        with working() as started:
            until(lambda: len(server.mails) == 5, 10, "what the rate allows")
            until(lambda: ready() + scheduled() == 295 and ready() >= 294, 10, "the end of the batch")
            before = len(started)
            Channel("noop").send({})
            time_passes()
            assert len(started) == before and len(server.mails) == 5
    assert touched() == 5


def time_passes() -> None:
    """Let the worker look once at least."""
    threading.Event().wait(waiting.LOOK_INTERVAL_S)


def test_used_up_connections_leave_email_where_it_is_until_one_is_free(
    storage: str, queueing: Configure, policy: Configure
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        policy(CONNECTIONS=1)
        MailerConnection.objects.create(mailer=ALIAS, number=1, holder="another", until=from_now(3600))
        queue_many(messages(60), mailer=MAILER)
        with working() as started:
            until(lambda: started or scheduled(), 10, "the first look")
            time_passes()
            assert not started and ready() + scheduled() == 60 and not server.mails
            MailerConnection.objects.update(holder="", until=timezone.now())
            within(SOON_S, lambda: server.mails, "the first email")
            until(lambda: len(server.mails) == 60, 10, "all email")
        assert server.most_connections == 1
    assert touched() == 60


def test_email_whose_mailer_was_changed_in_its_record_leaves_by_the_new_one(
    storage: str, queueing: Configure, second: Configure
) -> None:
    with ScriptedServer() as first, ScriptedServer() as other:
        queueing(first.port)
        second("other", other.port)
        queue_many(messages(3), mailer=MAILER)
        Email.objects.update(mailer="other")
        work()
        assert (len(first.mails), len(other.mails)) == (0, 3) and not get_layer().stats()


def test_email_of_a_mailer_that_the_settings_had_is_taken_and_reported(
    storage: str, queueing: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer() as server:
        queueing(server.port)
        queue_many(messages(2), mailer=MAILER)
        Email.objects.update(mailer="gone")
        work()  # gives it a message on the channel of that mailer
        work()
        assert ready("gone") + get_layer().stats()[channel_of("gone")].scheduled == 2
        assert MailerState.objects.get().mailer == "gone" and "There is no mailer 'gone'" in caplog.text
        move("gone", MAILER)
        work()
        assert len(server.mails) == 2 and alias_of(MAILER) == ALIAS


@pytest.mark.parametrize("change", [partial(circuit.note_pause, "other", "default"), circuit.forget])
def test_what_was_read_before_a_change_is_not_kept_after_it(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]
) -> None:
    read = circuit._read

    def read_and_change(using: str) -> dict[str, Any]:
        rows = read(using)
        change()
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(circuit, "_read", read_and_change)
        assert circuit.known_out("default") == {}
    MailerState.objects.update_or_create(mailer="other", defaults={"paused_by": circuit.PERSON})
    assert circuit.known_out("default") == {"other": waiting.PAUSED}


def test_the_first_email_after_an_idle_time_leaves_soon(
    storage: str, queueing: Configure, policy: Configure
) -> None:
    """Also by a mailer with a rate and connections, whose limiter has seen an empty channel."""
    with ScriptedServer() as server:
        queueing(server.port)
        policy(RATE="100/s", CONNECTIONS=2)
        queue_many(messages(1), mailer=MAILER)
        with working() as started:
            until(lambda: server.mails and not ready(), 10, "the email before")
            until(lambda: not get_layer().stats().get(channel_of(ALIAS)), 10, "the end of its batch")
            time_passes()
            started.clear()
            queue_many(messages(1), mailer=MAILER)
            within(SOON_S, lambda: len(server.mails) == 2, "the first email after an idle time")
