"""Sends on the Redis layer and the caller's transaction: without an outbox, and with one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.utils import timezone

from mailrail import Channel, InvalidSettings, LayerUnavailable
from mailrail.layers import RedisChannelLayer, get_layer
from mailrail.layers.outbox import LEASE, PARTS_REST, Outbox
from mailrail.management.commands.runworker import tell_concerns
from mailrail.messages import Message
from mailrail.testing import advance, drain, sent

from ..listed import dead_on, waiting_on
from ..servers import ValkeyServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other", "postgres"])

BACKEND = "mailrail.layers.RedisChannelLayer"


def use(settings: Any, server: ValkeyServer, **config: Any) -> RedisChannelLayer:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": {"hosts": [server.url], **config}}}
    layer = get_layer()
    assert isinstance(layer, RedisChannelLayer)
    return layer


@pytest.fixture(params=["default", "postgres"])
def using(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def layer(settings: Any, valkey: ValkeyServer, using: str) -> RedisChannelLayer:
    """With an outbox in the database ``using``."""
    return use(settings, valkey, outbox=True, using=using)


@pytest.fixture
def outbox(layer: RedisChannelLayer) -> Outbox:
    assert isinstance(layer.outbox, Outbox)
    return layer.outbox


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """One that may be stopped: it keeps what it has."""
    server = ValkeyServer(appendonly="yes", appendfsync="always")
    server.start()
    yield server
    server.remove()


def numbers(messages: Sequence[Message]) -> list[int]:
    return [message.content["n"] for message in messages]


def in_outbox(outbox: Outbox) -> int:
    return sum(stats.ready + stats.scheduled + stats.claimed for stats in outbox.stats().values())


class TestWithoutAnOutbox:
    @pytest.fixture
    def layer(self, settings: Any, server: ValkeyServer) -> RedisChannelLayer:
        return use(settings, server)

    def test_a_send_waits_for_the_commit_and_is_gone_with_a_rollback(self, layer: RedisChannelLayer) -> None:
        with transaction.atomic():
            id = Channel("work").send({"n": 1})
            assert waiting_on(layer, "work") == []
        assert [m.id for m in waiting_on(layer, "work")] == [id]
        with transaction.atomic():
            Channel("work").send({"n": 2})
            transaction.set_rollback(True)
        assert numbers(waiting_on(layer, "work")) == [1]

    def test_it_follows_the_database_that_it_is_told_to(self, layer: RedisChannelLayer) -> None:
        with transaction.atomic(using="other"):
            Channel("work").send({"n": 1})  # of "default", which has no transaction open
            Channel("work").send({"n": 2}, using="other")
            assert numbers(waiting_on(layer, "work")) == [1]
        assert sorted(numbers(waiting_on(layer, "work"))) == [1, 2]

    def test_a_server_that_is_down_raises_after_the_commit_and_the_rows_stay(
        self, layer: RedisChannelLayer, server: ValkeyServer, django_user_model: Any
    ) -> None:
        server.stop()
        with pytest.raises(LayerUnavailable) as raised, transaction.atomic():  # noqa: PT012
            django_user_model.objects.create(username="ada")
            id = Channel("work").send({"n": 1})
        told = str(raised.value)
        assert f"The transaction is committed, but message {id} for channel 'work' could not be sent" in told
        assert f"127.0.0.1:{server.port}" in told
        assert django_user_model.objects.filter(username="ada").exists()

    def test_what_is_to_run_in_any_case_is_registered_before_the_send(
        self, layer: RedisChannelLayer, server: ValkeyServer
    ) -> None:
        ran: list[str] = []
        server.stop()
        refused = pytest.raises(LayerUnavailable, match="3 messages for channel 'work'")
        with refused, transaction.atomic():
            transaction.on_commit(lambda: ran.append("before"))
            Channel("work").send_many([{"n": 1}, {"n": 2}, {"n": 3}])
            transaction.on_commit(lambda: ran.append("after"))
        assert ran == ["before"]  # Django's rule: a hook that raises is the last one that ran


class TestSending:
    def test_a_message_is_relayed_right_after_the_commit(
        self, layer: RedisChannelLayer, outbox: Outbox, using: str
    ) -> None:
        with transaction.atomic(using=using):
            id = Channel("work").send({"n": 1})
            more = Channel("work").send_many([{"n": 2}, {"n": 3}])
            assert waiting_on(layer, "work") == []
        assert {m.id for m in waiting_on(layer, "work")} == {id, *more}
        assert in_outbox(outbox) == 0

    def test_outside_a_transaction_it_is_relayed_at_once(
        self, layer: RedisChannelLayer, outbox: Outbox
    ) -> None:
        id = Channel("work").send({"n": 1})
        assert [m.id for m in waiting_on(layer, "work")] == [id] and in_outbox(outbox) == 0

    def test_rolled_back_it_was_never_sent(
        self, layer: RedisChannelLayer, outbox: Outbox, using: str
    ) -> None:
        with transaction.atomic(using=using):
            Channel("work").send({"n": 1})
            transaction.set_rollback(True, using=using)
        assert outbox.relay() == 0 and layer.stats() == {}

    def test_a_savepoint_takes_its_sends_with_it(self, layer: RedisChannelLayer, using: str) -> None:
        with transaction.atomic(using=using):
            Channel("work").send({"n": 1})
            with transaction.atomic(using=using):
                Channel("work").send({"n": 2})
                transaction.set_rollback(True, using=using)
        assert numbers(waiting_on(layer, "work")) == [1]

    def test_the_transaction_of_another_database_is_waited_for(
        self, layer: RedisChannelLayer, outbox: Outbox
    ) -> None:
        with transaction.atomic(using="other"):
            Channel("work").send({"n": 1}, using="other")
            assert in_outbox(outbox) == 0
        assert numbers(waiting_on(layer, "work")) == [1]

    def test_a_message_arrives_with_all_it_carried(self, layer: RedisChannelLayer) -> None:
        at = timezone.now() - timedelta(seconds=5)
        expires = timezone.now() + timedelta(hours=1)
        content = {"id": 7, "who": ["é", "漢", None, 1.5]}
        id = Channel("work").send(
            content, at=at, priority=-3, key="k", lane="l", expires=expires, headers={"tenant": "a"}
        )
        [got] = layer.claim("w", {"work": 1}, 15.0).claims
        assert (got.id, got.content, got.headers) == (id, content, {"tenant": "a"})
        assert (got.priority, got.key, got.lane, got.attempt, got.losses) == (-3, "k", "l", 1, 0)
        assert got.expires == pytest.approx(expires.timestamp())

    def test_immediately_goes_past_the_outbox_and_the_transaction(
        self, layer: RedisChannelLayer, outbox: Outbox, using: str
    ) -> None:
        with transaction.atomic(using=using):
            id = Channel("work").send({"n": 1}, immediately=True)
            assert [m.id for m in waiting_on(layer, "work")] == [id]
            assert in_outbox(outbox) == 0

    @pytest.mark.parametrize("options", [{}, {"headers": {"at": object()}}])
    def test_what_json_cannot_hold_is_named_as_without_an_outbox(
        self, layer: RedisChannelLayer, options: dict[str, Any]
    ) -> None:
        path = r'headers\["at"\]' if options else r'content\["at"\]'
        with pytest.raises(TypeError, match=f"^{path} is a object"):
            Channel("work").send({"n": 1} if options else {"at": object()}, **options)

    def test_layers_that_share_a_database_relay_their_own(
        self, settings: Any, valkey: ValkeyServer, server: ValkeyServer
    ) -> None:
        settings.CHANNEL_LAYERS = {
            alias: {"BACKEND": BACKEND, "CONFIG": {"hosts": [it.url], "outbox": True}}
            for alias, it in {"default": valkey, "second": server, "rows": server}.items()
        } | {"rows": {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}}
        with transaction.atomic():
            ids = {
                alias: Channel("work", alias).send({"n": 1}, unique=True)
                for alias in ("default", "second", "rows")
            }
        assert len(set(ids.values())) == 1  # the same id in one table, and nobody is in the other's way
        for alias in ids:
            assert [m.id for m in waiting_on(get_layer(alias), "work")] == [ids[alias]]


class TestRelaying:
    @pytest.fixture
    def layer(self, settings: Any, server: ValkeyServer, using: str) -> RedisChannelLayer:
        return use(settings, server, outbox=True, using=using)

    def test_a_server_that_is_down_raises_nothing_and_loses_nothing(
        self, layer: RedisChannelLayer, outbox: Outbox, server: ValkeyServer, using: str
    ) -> None:
        server.stop()
        with transaction.atomic(using=using):
            first = Channel("work").send({"n": 1})
        begun = time.monotonic()
        second = Channel("work").send({"n": 2})
        assert time.monotonic() - begun < 1.0
        assert in_outbox(outbox) == 2
        with pytest.raises(LayerUnavailable, match=f"127.0.0.1:{server.port}"):
            outbox.relay()
        server.start()
        third = Channel("work").send({"n": 3})  # the senders rest; workers relay, or a person
        assert in_outbox(outbox) == 3
        assert outbox.relay() == 3
        assert {m.id for m in waiting_on(layer, "work")} == {first, second, third}
        fourth = Channel("work").send({"n": 4})
        assert fourth in {m.id for m in waiting_on(layer, "work")} and in_outbox(outbox) == 0

    def test_times_count_from_the_send(
        self, layer: RedisChannelLayer, outbox: Outbox, server: ValkeyServer
    ) -> None:
        server.stop()
        Channel("work").send({"n": 1}, delay=100, expires=1000)
        Channel("work").send({"n": 2}, delay=30)
        outbox._store.advance_time(60)
        server.start()
        assert outbox.relay() == 2
        overdue, later = waiting_on(layer, "work")
        now = time.time()
        assert (overdue.content, later.content) == ({"n": 2}, {"n": 1})
        assert overdue.due == pytest.approx(now, abs=10) and later.due == pytest.approx(now + 40, abs=10)
        assert later.expires == pytest.approx(now + 940, abs=10)

    def test_several_relay_at_once_each_message_once_and_lanes_in_order(
        self, settings: Any, server: ValkeyServer, using: str
    ) -> None:
        layer = use(settings, server, outbox=True, using=using)
        outbox = layer.outbox
        assert isinstance(outbox, Outbox)
        server.stop()
        for n in range(60):
            Channel("work").send({"n": n}, lane=f"lane {n % 3}")
        Channel("work").send_many([{"n": n} for n in range(60, 400)])
        server.start()
        handed_on = CountingEnqueue(layer)
        start = threading.Barrier(4)

        def relay(_: int) -> int:
            start.wait(20)
            done = 0
            while in_outbox(outbox):
                done += outbox.relay(37)
            connections.close_all()
            return done

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(relay, range(4))) == 400
        assert sorted(handed_on.numbers) == list(range(400))
        for lane in range(3):
            of_lane = [m for m in waiting_on(layer, "work", 1000) if m.lane == f"lane {lane}"]
            assert numbers(sorted(of_lane, key=lambda m: m.lane_seq or 0)) == list(range(lane, 60, 3))

    def test_a_relay_that_died_half_way_leaves_a_harmless_repeat(
        self, layer: RedisChannelLayer, outbox: Outbox, server: ValkeyServer
    ) -> None:
        server.stop()
        id = Channel("work").send({"n": 1}, lane="l")
        server.start()
        [claim] = outbox._store.claim("died", {outbox.channel: 1}, LEASE).claims
        layer.enqueue([outbox._read(claim)])
        assert outbox.relay() == 0
        outbox._store.advance_time(LEASE + 1)
        assert outbox.relay() == 1
        [claim] = layer.claim("w", {"work": 9}, 15.0).claims
        assert claim.id == id and layer.finish([claim]) == []
        assert layer.stats() == {} and in_outbox(outbox) == 0

    def test_a_server_of_several_that_is_down_keeps_nobody_from_the_others(
        self, settings: Any, server: ValkeyServer, valkey: ValkeyServer, using: str
    ) -> None:
        hosts = [server.url, valkey.url]
        config = {"hosts": hosts, "outbox": True, "using": using}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": BACKEND, "CONFIG": config}}
        layer: Any = get_layer()
        assert layer.outbox is not None
        names = [f"channel-{n}" for n in range(20)]
        down = [name for name in names if layer._store.of(name) is layer.stores[0]]
        server.stop()
        ids = {Channel(name).send({"n": n, "of": name}) for name in reversed(down) for n in range(40)}
        ids |= {Channel(name).send({"n": n, "of": name}) for name in names for n in range(40)}
        ran: list[UUID] = []

        def work(channels: Sequence[str]) -> None:
            claims = layer.claim("w", dict.fromkeys(channels, 1000), 15.0).claims
            assert layer.finish(claims) == []
            ran.extend(claim.id for claim in claims)

        up = [name for name in names if name not in down]
        assert up and down
        for _ in range(3):
            with pytest.raises(LayerUnavailable, match=f"127.0.0.1:{server.port}"):
                layer.outbox.relay()
            work(up)
            layer.outbox.store.advance_time(PARTS_REST)
        assert len(ran) == len(set(ran)) == 40 * len(up)
        assert in_outbox(layer.outbox) == 80 * len(down)
        server.start()
        layer.outbox.store.advance_time(60)
        assert layer.outbox.relay() == 80 * len(down)
        work(names)
        assert sorted(ran) == sorted(ids)

    def test_what_cannot_be_handed_on_is_buried_and_the_others_go_on(
        self, settings: Any, layer: RedisChannelLayer, outbox: Outbox, server: ValkeyServer
    ) -> None:
        server.stop()
        large = Channel("work").send({"n": 1, "text": "x" * 10_000})
        Channel("work").send({"n": 2})
        outbox._store.enqueue([Message(outbox.channel, {"by": "hand"})])
        outbox._store.enqueue([Message(outbox.channel, {}, headers={"channel": "work", "lane": 7})])
        server.start()
        settings.MAILRAIL = {"MAX_MESSAGE_BYTES": 1000}
        assert outbox.relay() == 4
        assert numbers(waiting_on(layer, "work")) == [2]
        errors = sorted(
            dead.error.strip().splitlines()[-1] for dead in dead_on(outbox._store, outbox.channel)
        )
        assert [error.split(":")[0] for error in errors] == [
            "AttributeError",
            "It cannot be relayed, as it is not a message of the outbox",
            "mailrail.errors.MessageTooLarge",
        ]
        assert outbox.existing_ids([large]) == {large}
        assert outbox.stats()[outbox.channel].dead == 3

    def test_the_operator_relays_and_sees_what_waits(
        self, layer: RedisChannelLayer, outbox: Outbox, server: ValkeyServer, capsys: Any
    ) -> None:
        server.stop()
        Channel("work").send_many([{"n": 1}, {"n": 2}])
        with pytest.raises(CommandError, match="cannot be used"):
            call_command("channels", "relay")
        server.start()
        call_command("channels")
        assert "mailrail.outbox.default" in capsys.readouterr().out
        call_command("channels", "relay")
        assert capsys.readouterr().out == "2 relayed\n"
        assert sorted(numbers(waiting_on(layer, "work"))) == [1, 2]


class CountingEnqueue:
    """Notes what a layer is handed, and hands it on."""

    def __init__(self, layer: RedisChannelLayer) -> None:
        self.numbers: list[int] = []
        self._enqueue = layer.enqueue
        layer.enqueue = self  # type: ignore[method-assign]

    def __call__(self, messages: Sequence[Message]) -> list[UUID]:
        self.numbers += numbers(messages)
        return self._enqueue(messages)


MANAGE = "python manage.py "


@contextmanager
def without_table(using: str) -> Iterator[None]:
    with connections[using].cursor() as cursor:
        cursor.execute("ALTER TABLE mailrail_message RENAME TO elsewhere")
    try:
        yield
    finally:
        with connections[using].cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO mailrail_message")


class TestSettings:
    def test_outbox_is_true_or_false(self, settings: Any, valkey: ValkeyServer) -> None:
        with pytest.raises(InvalidSettings, match=r"CONFIG\['outbox'\] .* must be True or False, not 'yes'"):
            use(settings, valkey, outbox="yes")

    def test_a_database_that_is_missing_is_named(self, settings: Any, valkey: ValkeyServer) -> None:
        with pytest.raises(InvalidSettings, match="names the database 'nope', which is not in DATABASES"):
            use(settings, valkey, outbox=True, using="nope")

    def test_a_database_that_cannot_keep_messages_is_named(
        self, settings: Any, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connections["other"], "vendor", "mysql")
        with pytest.raises(InvalidSettings, match=r"'outbox'.* 'other' .*DATABASES\['other'\] is mysql"):
            use(settings, valkey, outbox=True, using="other")

    def test_tables_that_are_missing_say_what_to_run(self, layer: RedisChannelLayer, using: str) -> None:
        migrate = "migrate mailrail" if using == "default" else f"migrate mailrail --database {using}"
        with without_table(using):
            with pytest.raises(
                LayerUnavailable, match=rf"CONFIG\['outbox'\] = True .*{using!r}.* {migrate}$"
            ):
                Channel("work").send({"n": 1})
            assert waiting_on(layer, "work") == []
            [error] = [
                problem
                for problem in run_checks(include_deployment_checks=True)
                if problem.id == "mailrail.E008"
            ]
            assert error.msg.startswith("CHANNEL_LAYERS['default']: CONFIG['outbox'] = True needs tables")
            assert error.msg.endswith(
                f"has no table mailrail_message: no send can be kept there. Run: {MANAGE}{migrate}"
            )
        assert not any(
            problem.id == "mailrail.E008" for problem in run_checks(include_deployment_checks=True)
        )

    def test_a_worker_says_at_its_start_that_they_are_missing(
        self, layer: RedisChannelLayer, using: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with without_table(using):
            tell_concerns(layer)
        assert "The outbox of the layer cannot be used. The database" in caplog.text
        assert f"Run: {MANAGE}migrate mailrail" in caplog.text

    def test_a_layer_without_one_says_so(self, settings: Any, valkey: ValkeyServer) -> None:
        use(settings, valkey)
        with pytest.raises(CommandError, match=r'no outbox.*"outbox": True'):
            call_command("channels", "relay")


@pytest.mark.django_db(transaction=False, databases=["default"])
class TestTesting:
    """Inside ``TestCase``, whose transaction never commits."""

    def test_what_waits_in_the_outbox_counts_as_sent_and_is_drained(
        self, settings: Any, valkey: ValkeyServer
    ) -> None:
        use(settings, valkey, outbox=True, routing="tests.routes.on_redis")
        Channel("noop").send({"n": 1}, delay=60, headers={"a": 1})
        [message] = sent("noop")
        assert (message.channel, message.content, message.headers) == ("noop", {"n": 1}, {"a": 1})
        assert drain("noop") == []
        advance(61)
        [ran] = drain("noop")
        assert (ran.outcome, ran.message.id) == ("finished", message.id)
        assert sent("noop") == []
