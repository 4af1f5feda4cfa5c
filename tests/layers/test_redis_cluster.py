"""What is particular to a cluster: nodes, slots that move, masters that die."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from redis.crc import key_slot

from mailrail.checks import check_settings
from mailrail.errors import InvalidSettings, LayerUnavailable
from mailrail.layers import RedisChannelLayer
from mailrail.layers.redis import cluster
from mailrail.layers.store import ClaimCall, Unconfirmed
from mailrail.messages import Message, Rate
from mailrail.routing import Routing, route
from mailrail.worker import Worker

from ..listed import get_one, waiting_on
from ..processes import until
from ..servers import ValkeyServer
from ..topologies import ValkeyCluster, ask, move_slot, wait_for_copies

LEASE = 15.0
MIXED: tuple[dict[str, Any], ...] = (
    {},
    {"key": "k"},
    {"lane": "l"},
    {"lane": "l"},
    {"priority": 7},
    {"delay": 0.01},
)


@pytest.fixture
def layer(valkey_cluster: ValkeyCluster) -> Iterator[Any]:
    layer = RedisChannelLayer(valkey_cluster.urls[:1], cluster=True)
    yield layer
    layer.stop_listening()


@pytest.fixture
def own_cluster() -> Iterator[ValkeyCluster]:
    """Masters without replicas that the test may do anything to; a dead one hinders no other."""
    nodes = ValkeyCluster(cluster_require_full_coverage="no", cluster_node_timeout="60000")
    nodes.start()
    yield nodes
    nodes.remove()


def tag(channel: str) -> bytes:
    return f"{{mailrail:asgi:{channel}}}".encode()


def one_each(nodes: ValkeyCluster) -> list[str]:
    """Keys of channels, one on each master."""
    found: dict[int, str] = {}
    for n in count():
        found.setdefault(nodes.master_of(tag(f"channel-{n}")).port, f"channel-{n}")
        if len(found) == len(nodes.masters):
            break
    return [found[node.port] for node in nodes.masters]


def send(layer: Any, channel: str, n: int = 1, delay: float = 0.0) -> list[UUID]:
    sent: list[UUID] = layer.enqueue([Message(channel, {"n": number}, delay=delay) for number in range(n)])
    return sent


class TestOneLayer:
    def test_channels_of_all_nodes_through_one_of_them(
        self, layer: Any, valkey_cluster: ValkeyCluster
    ) -> None:
        channels = one_each(valkey_cluster)
        ids = layer.enqueue([Message(channel, {}) for channel in channels for _ in range(3)])
        assert {name: stats.ready for name, stats in layer.stats().items()} == dict.fromkeys(channels, 3)
        claims = layer.claim("w", dict.fromkeys(channels, 5), LEASE).claims
        assert sorted(m.id for m in claims) == sorted(ids)
        assert layer.claim("w", {}, LEASE, finished=claims) == ([], [], [])
        assert layer.stats() == {}

    def test_more_channels_than_room_take_turns(self, layer: Any) -> None:
        for n in range(6):
            send(layer, f"busy-{n}", 20)
        limits = {f"busy-{n}": 4 for n in range(6)} | {f"idle-{n}": 4 for n in range(20)}
        got = Counter(m.channel for _ in range(26) for m in layer.claim("w", limits, LEASE, total=4).claims)
        assert set(got) == {f"busy-{n}" for n in range(6)} and got.total() == 104

    def test_what_is_finished_is_settled_without_room_for_more(self, layer: Any, valkey_cluster: Any) -> None:
        channels = one_each(valkey_cluster)
        for channel in channels:
            send(layer, channel, 2)
        claims = layer.claim("w", dict.fromkeys(channels, 1), LEASE).claims
        more = layer.claim("w", dict.fromkeys(channels, 1), LEASE, finished=claims, total=1)
        assert len(more.claims) == 1 and more.lost == []
        assert layer.finish(claims) == claims
        assert sum(s.ready + s.claimed for s in layer.stats().values()) == 3

    def test_a_question_that_fails_after_a_claim_costs_no_lease(self, layer: Any, monkeypatch: Any) -> None:
        def fail_to_ask(channel: str, ids: Any) -> Any:
            raise LayerUnavailable("gone again")

        layer.enqueue([Message("work", {}), Message("work", {})])
        [finished] = layer.claim("w", {"work": 1}, 15.0).claims
        layer.finish([finished])  # by a call whose answer was lost, as far as the layer knows
        layer._unconfirmed.note(
            ClaimCall("w", {}, {}, [], 1, unconfirmed=[Unconfirmed(1, 15.0, [finished], [])])
        )
        monkeypatch.setattr(layer._store, "existing_ids", fail_to_ask)
        claimed = layer.claim("w", {"work": 5}, 15.0, [finished])
        assert len(claimed.claims) == 1 and claimed.lost == [finished]

    def test_hints_from_every_node_arrive_on_one(self, layer: Any, valkey_cluster: ValkeyCluster) -> None:
        channels = one_each(valkey_cluster)
        until(lambda: layer._waiting.listener.listen(channels), what="listening")
        elsewhere = RedisChannelLayer(valkey_cluster.urls, cluster=True)
        for channel in channels:
            seen = layer.wakes
            send(elsewhere, channel)
            until(lambda: layer.wakes > seen, what="hearing")  # noqa: B023

    def test_nodes_that_have_forgotten_the_scripts_get_them_again(
        self, layer: Any, valkey_cluster: ValkeyCluster
    ) -> None:
        channels = one_each(valkey_cluster)
        for node in valkey_cluster.masters:
            ask(node, "SCRIPT", "FLUSH")
        layer.enqueue([Message(channel, {}) for channel in channels])
        for node in valkey_cluster.masters:
            ask(node, "SCRIPT", "FLUSH")
        assert len(layer.claim("w", dict.fromkeys(channels, 1), LEASE).claims) == 3

    def test_buckets_and_workers_lie_in_slots_of_their_own(self, layer: Any, valkey_cluster: Any) -> None:
        for n in range(40):
            assert layer.take(f"bucket {n}", 1, Rate(2, 60)).granted == 1
        layer.heartbeat("w", {"pid": 1})
        assert [worker.id for worker in layer.workers()] == ["w"]
        with_buckets = [ask(node, "KEYS", "*:bucket:*") for node in valkey_cluster.masters]
        assert all(with_buckets) and sum(map(len, with_buckets)) == 40

    def test_a_channel_leaves_the_list_when_it_is_empty_and_long_unused(
        self, layer: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done, *_ = send(layer, "done"), send(layer, "kept")
        assert layer.cancel("done", done) == done
        assert layer.stores[0].channel_list.read() == ["done", "kept"]
        layer.stats()
        assert layer.stores[0].channel_list.read() == ["done", "kept"]
        monkeypatch.setattr("mailrail.layers.redis.channel_list.UNLISTED_AFTER", 0.0)
        assert list(layer.stats()) == ["kept"]
        assert layer.stores[0].channel_list.read() == ["kept"]

    def test_every_node_is_looked_at_for_what_could_be_lost(self, layer: Any, valkey_cluster: Any) -> None:
        second = valkey_cluster.masters[1]
        ask(second, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        try:
            concerns = layer.concerns()
        finally:
            ask(second, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert [text.split(" has ")[0] for text in concerns if "allkeys-lru" in text] == [
            f"The Redis server 127.0.0.1:{second.port}"
        ]
        assert sum("append-only" in text for text in concerns) == 3


class TestSettings:
    @pytest.mark.parametrize(
        "hosts",
        [
            [{"sentinels": [("127.0.0.1", 26379)], "master_name": "m"}],
            ["unix:///run/redis.sock"],
            [{"path": "/run/redis.sock"}],
        ],
    )
    def test_hosts_are_nodes(self, hosts: Any) -> None:
        with pytest.raises(InvalidSettings, match="nodes of the cluster"):
            RedisChannelLayer(hosts, cluster=True)

    def test_a_server_that_is_no_node_is_named(self, valkey: ValkeyServer) -> None:
        with pytest.raises(InvalidSettings, match=f'127.0.0.1:{valkey.port} is no node.*Take "cluster" out'):
            send(RedisChannelLayer([valkey.url], cluster=True), "work")

    def test_a_node_without_the_setting_says_what_to_write(self, valkey_cluster: ValkeyCluster) -> None:
        with pytest.raises(LayerUnavailable, match=r'node of a cluster.*Write "cluster": True'):
            RedisChannelLayer(valkey_cluster.urls[:1]).enqueue(
                [Message(channel, {}) for channel in one_each(valkey_cluster)]
            )


class TestGroups:
    def test_groups_and_local_channels_say_where_they_belong(self, layer: Any) -> None:
        name = async_to_sync(layer.new_channel)()
        assert "!" in name and layer.extensions == []
        for call, arguments in (
            (layer.send, (name, {})),
            (layer.group_add, ("g", name)),
            (layer.group_discard, ("g", name)),
            (layer.group_send, ("g", {})),
        ):
            with pytest.raises(InvalidSettings, match="entry of their own in CHANNEL_LAYERS"):
                async_to_sync(call)(*arguments)

    @pytest.mark.django_db
    def test_consumers_of_channels_run_that_use_neither(self, layer: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr("channels.consumer.get_channel_layer", lambda alias: layer)
        seen: list[Any] = []

        class Consumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
            async def work_do(self, message: Any) -> None:
                seen.append(message["id"])
                raise StopConsumer

        async def receive() -> Any:
            return {"type": "work.do", "id": 7}

        async def nothing(message: Any) -> None: ...

        async def consume() -> None:
            await asyncio.wait_for(Consumer.as_asgi()({"type": "channel"}, receive, nothing), 10)

        async_to_sync(consume)()
        assert seen == [7]

    def test_the_entry_that_is_recommended_works_on_a_node(self, valkey_cluster: ValkeyCluster) -> None:
        from channels_redis.pubsub import RedisPubSubChannelLayer

        async def talk() -> Any:
            one, other = (RedisPubSubChannelLayer(hosts=valkey_cluster.urls[n : n + 1]) for n in (0, 1))
            name = await one.new_channel()
            await one.group_add("g", name)
            await other.group_send("g", {"type": "hello"})
            try:
                return await asyncio.wait_for(one.receive(name), 10)
            finally:
                await one.flush()
                await other.flush()

        assert async_to_sync(talk)() == {"type": "hello"}

    def test_w007_tells_until_there_is_an_entry_for_groups(self, settings: Any, valkey_cluster: Any) -> None:
        ours = {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": valkey_cluster.urls, "cluster": True},
        }
        groups = {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": valkey_cluster.urls[:1]},
        }
        settings.CHANNEL_LAYERS = {"default": ours}
        [found] = [check for check in check_settings() if check.id == "mailrail.W007"]
        assert "CHANNEL_LAYERS['default']" in found.msg and '"groups"' in (found.hint or "")
        settings.CHANNEL_LAYERS = {"default": ours, "groups": groups}
        assert "mailrail.W007" not in [check.id for check in check_settings()]
        assert set(channel_layers.backends) >= {"groups"}


class TestSlotsThatMove:
    def test_a_moved_slot_is_followed_at_once(self, layer: Any, valkey_cluster: ValkeyCluster) -> None:
        ids = send(layer, "work", 5)
        source = valkey_cluster.master_of(tag("work"))
        target = next(node for node in valkey_cluster.masters if node is not source)
        list(move_slot(key_slot(tag("work")), source, target))
        ids += send(layer, "work")
        begun = time.monotonic()
        assert sorted(m.id for m in layer.claim("w", {"work": 10}, LEASE).claims) == sorted(ids)
        assert time.monotonic() - begun < 1 and valkey_cluster.master_of(tag("work")) is target

    def test_nothing_runs_while_keys_are_in_two_places(
        self, layer: Any, valkey_cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster, "SLOT_TIMEOUT_S", 0.1)
        ids = send(layer, "work", 5)
        [claim] = layer.claim("w", {"work": 1}, LEASE).claims
        source = valkey_cluster.master_of(tag("work"))
        target = next(node for node in valkey_cluster.masters if node is not source)
        steps = move_slot(key_slot(tag("work")), source, target)
        assert next(steps) == "begin"
        monkeypatch.setattr(
            cluster, "ASKED_AGAIN_AFTER_S", 60.0
        )  # whoever asks for this one alone is answered
        for _ in steps:
            for call in (
                lambda: send(layer, "work"),
                lambda: layer.claim("w", {"work": 1}, LEASE),
                lambda: layer.finish([claim]),
            ):
                with pytest.raises(LayerUnavailable, match="a slot is being moved"):
                    call()
        rest = layer.claim("w", {"work": 10}, LEASE, finished=[claim])
        assert {m.id for m in rest.claims} == set(ids) - {claim.id} and rest.lost == []

    def test_senders_and_workers_meanwhile_notice_a_pause_only(
        self, layer: Any, valkey_cluster: ValkeyCluster
    ) -> None:
        sent, ran, ended = [], Counter[UUID](), threading.Event()

        def produce() -> None:
            while not ended.is_set():
                sent.extend(layer.enqueue([Message("work", {}, **mixed) for mixed in MIXED]))

        worker = Worker(layer, Routing([route("work", lambda message: ran.update([message.id]))]))
        threads = [threading.Thread(target=run, daemon=True) for run in (produce, worker.run)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                before = len(sent)
                until(lambda: len(sent) > before + 30)  # noqa: B023
                source = valkey_cluster.master_of(tag("work"))
                target = next(node for node in valkey_cluster.masters if node is not source)
                list(move_slot(key_slot(tag("work")), source, target))
        finally:
            ended.set()
        threads[0].join(30)
        # dict.copy is one step: to make a set, Python code runs, and meanwhile the worker adds to it.
        until(lambda: set(dict.copy(ran)) == set(sent) and layer.stats() == {}, what="the end of the work")
        worker.stop(5)
        threads[1].join(30)
        assert set(ran.values()) == {1}

    def test_channels_of_other_slots_do_not_notice(self, layer: Any, valkey_cluster: ValkeyCluster) -> None:
        source = valkey_cluster.master_of(tag("work"))
        target = next(node for node in valkey_cluster.masters if node is not source)
        channels = ["work", *one_each(valkey_cluster)]  # one of them on the same node
        ran = Counter[str]()
        routes = [route(channel, lambda message: ran.update([message.channel])) for channel in channels]
        worker = Worker(layer, Routing(routes))
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        send(layer, "work", 3)
        until(lambda: ran["work"] == 3)
        steps = move_slot(key_slot(tag("work")), source, target)
        send(layer, "work", delay=0.3)
        assert [next(steps), next(steps)][0] == "begin"
        begun = time.monotonic()
        for n in range(150):
            until(lambda: time.monotonic() >= begun + n * 0.01)  # noqa: B023
            layer.enqueue([Message(channel, {}) for channel in channels[1:]])
        until(lambda: min(ran[channel] for channel in channels[1:]) == 150, what="the work of the others")
        assert ran["work"] == 3
        list(steps)
        until(lambda: ran["work"] == 4 and layer.stats() == {}, what="the end of the work")
        worker.stop(5)
        thread.join(30)


class TestNodesThatDie:
    def test_channels_of_the_others_go_on(self, own_cluster: ValkeyCluster) -> None:
        layer: Any = RedisChannelLayer(own_cluster.urls, cluster=True)
        lost, *alive = one_each(own_cluster)
        for channel in (lost, *alive):
            send(layer, channel, 4)
        limits = dict.fromkeys([lost, *alive], 1)
        [claim] = layer.claim("w", {lost: 1}, LEASE).claims
        own_cluster.masters[0].stop(signal.SIGKILL)
        first = layer.claim("w", limits, LEASE).claims
        assert sorted(m.channel for m in first) == sorted(alive)
        # What is finished there is not taken for settled; what was claimed with it is found by the next call.
        with pytest.raises(LayerUnavailable, match=f"127.0.0.1:{own_cluster.masters[0].port}"):
            layer.claim("w", limits, LEASE, finished=[claim])
        again = layer.claim("w", limits, LEASE).claims
        assert sorted(m.channel for m in again) == sorted(alive)
        assert {(m.attempt, m.losses) for m in again} == {(1, 0)}
        with pytest.raises(LayerUnavailable) as caught:
            layer.enqueue([Message(channel, {}) for channel in (lost, *alive)])
        assert f"127.0.0.1:{own_cluster.masters[0].port}" in str(caught.value)
        assert [len(waiting_on(layer, channel)) for channel in alive] == [3, 3]
        with pytest.raises(LayerUnavailable) as caught:
            layer.renew([claim, *again], 100.0)
        assert f"127.0.0.1:{own_cluster.masters[0].port}" in str(caught.value)
        assert all((get_one(layer, m.channel, m.id) or m).due > m.due + 50 for m in again)
        assert not {m.id for m in first} & {m.id for m in again}
        with pytest.raises(LayerUnavailable):
            send(layer, lost)
        send(layer, alive[0])

    @pytest.mark.timeout(180)
    def test_kill_9_of_a_master_is_survived_by_what_its_replica_had(self) -> None:
        nodes = ValkeyCluster(replicas=1, cluster_node_timeout="2000")
        nodes.start()
        try:
            _survive(nodes)
        finally:
            nodes.remove()


def _survive(nodes: ValkeyCluster) -> None:
    layer: Any = RedisChannelLayer(nodes.urls[:3], cluster=True)
    kept = send(layer, "work", 200)
    master = nodes.master_of(tag("work"))
    wait_for_copies(master, tag("work"))
    ran = Counter[UUID]()
    master.stop(signal.SIGKILL)
    begun = time.monotonic()
    worker = Worker(layer, Routing([route("work", lambda message: ran.update([message.id]))]))
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    message = Message("work", {})
    refused = 0
    while True:
        try:
            layer.enqueue([message])
            break
        except LayerUnavailable:
            refused += 1
            assert time.monotonic() < begun + 60
    print(f"accepted again {time.monotonic() - begun:.1f} s after the kill, after {refused} errors")
    until(lambda: {*kept, message.id} <= set(ran), what="what the replica had")
    print(f"all consumed {time.monotonic() - begun:.1f} s after the kill")
    assert refused > 0 and nodes.master_of(tag("work")) is not master
    worker.stop(5)
    thread.join(30)
    layer.stop_listening()
    assert layer.stats() == {}


def test_threads_may_ask_for_shards_at_the_same_time(layer: Any) -> None:
    """The worker does, and its outbox."""
    others: list[threading.Thread] = []

    class Node:
        """A node that another thread asks for shards beside, while this one looks whether the node has left."""

        @property
        def has_left(self) -> bool:
            others.append(threading.Thread(target=layer.shards, args=(map(str, range(50)),)))
            others[-1].start()
            others[-1].join(0.1)  # it waits for this one
            return True

    layer._shards[Node()] = layer
    shards = layer.shards(["work"])
    for other in others:
        other.join(20)
    assert len(others) == 1 and [*shards.values()] == [["work"]]
    assert {*shards} <= {*layer.shards(map(str, range(50)))}
