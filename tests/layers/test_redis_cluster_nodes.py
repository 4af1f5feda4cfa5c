"""Nodes that leave a cluster, become one of their own, and answer everything at an address that is still known."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from mailrail.errors import LayerUnavailable
from mailrail.layers import RedisChannelLayer
from mailrail.layers.redis import cluster
from mailrail.layers.redis.listener import _Subscription
from mailrail.layers.redis.slots import SlotMap
from mailrail.messages import Message

from ..servers import ValkeyServer
from ..topologies import ValkeyCluster, ask

CHANNELS = [f"channel-{n}" for n in range(60)]
LEASE = 15.0


class Split:
    """Two masters of a cluster, and two that have left it. A soft reset leaves a node its id."""

    def __init__(self) -> None:
        self.cluster = ValkeyCluster(4, cluster_require_full_coverage="no")
        self.cluster.start()
        learning: Any = self.layer(*self.cluster.masters)
        send(learning)
        self.old_map: SlotMap = learning.stores[0].server._map
        *_, self.hard, self.soft = self.cluster.masters
        for node, how in ((self.hard, "HARD"), (self.soft, "SOFT")):
            self.cluster.take_out(node, how)
        self.kept = list(self.cluster.masters)

    def layer(self, *hosts: ValkeyServer) -> Any:
        return RedisChannelLayer([node.url for node in hosts], cluster=True)

    def layer_from_before(self, *hosts: ValkeyServer) -> Any:
        """A process that has used the cluster while all four were in it, and not since."""
        layer = self.layer(*hosts)
        layer.stores[0].server._map, layer.stores[0].server._is_stale = self.old_map, False
        return layer

    @property
    def has_strayed(self) -> bool:
        """Is anything stored on those that have left?"""
        return any(ask(node, "DBSIZE") for node in (self.hard, self.soft))


@pytest.fixture(scope="module")
def split_once() -> Iterator[Split]:
    split = Split()
    yield split
    split.cluster.remove()


@pytest.fixture
def split(split_once: Split) -> Split:
    for node in (*split_once.kept, split_once.hard, split_once.soft):
        ask(node, "FLUSHALL")
    return split_once


def send(layer: Any) -> None:
    for channel in CHANNELS:
        layer.enqueue([Message(channel, {})])


def test_what_is_sent_and_claimed_by_an_old_map_stays_on_the_cluster(split: Split) -> None:
    layer = split.layer_from_before(split.kept[0])
    send(layer)
    assert not split.has_strayed
    assert {name: stats.ready for name, stats in layer.stats().items()} == dict.fromkeys(CHANNELS, 1)
    again = split.layer_from_before(split.kept[0])
    assert len(again.claim("w", dict.fromkeys(CHANNELS, 1), LEASE).claims) == len(CHANNELS)
    assert layer.stores[0].server._nodes.keys() == {("127.0.0.1", node.port) for node in split.kept}


def test_a_node_in_use_is_asked_again_after_a_moment(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = split.layer_from_before(split.kept[0])
    nodes: Any = layer.stores[0].server
    for address in nodes._map.addresses:
        nodes._node(address).verified_at = float("inf")
    send(layer)
    assert split.has_strayed
    for node in (split.hard, split.soft):
        ask(node, "FLUSHALL")
    monkeypatch.setattr(cluster, "VERIFY_AFTER_S", -float("inf"))
    send(layer)
    assert not split.has_strayed


def test_a_map_is_not_learnt_from_those_that_have_left(split: Split) -> None:
    layer = split.layer(split.hard, *split.kept)
    layer.stores[0].server._map = split.old_map
    for _ in range(20):
        layer.stores[0].server.node_to_listen_on()  # after which the map is learnt again
        layer.enqueue([Message(channel, {}) for channel in CHANNELS])
    assert not split.has_strayed and {stats.ready for stats in layer.stats().values()} == {20}


def test_hosts_of_two_clusters_are_told_of_unless_most_belong_to_one(split: Split) -> None:
    send(split.layer(split.hard, *split.kept))
    assert not split.has_strayed
    with pytest.raises(LayerUnavailable, match="different clusters") as caught:
        send(split.layer(split.hard, split.kept[0]))
    assert not split.has_strayed and not caught.value.may_have_run


def test_whoever_hears_of_messages_on_a_node_that_has_left_listens_elsewhere(split: Split) -> None:
    layer = split.layer_from_before(split.kept[0])
    nodes: Any = layer.stores[0].server
    gone = nodes._node(("127.0.0.1", split.hard.port))
    hearing = _Subscription(gone)
    hearing.add([b"channel"])
    send(layer)
    with pytest.raises(LayerUnavailable, match="has left the cluster"):
        hearing.look()
    hearing.close()


def test_another_cluster_is_believed_if_hosts_say_it_and_not_otherwise(split: Split) -> None:
    """The last test: it ends the cluster."""
    unaware, aware = split.layer(split.kept[0]), split.layer_from_before(split.kept[0], split.hard)
    send(unaware)
    for node in split.kept:
        node.stop(signal.SIGKILL)
    with pytest.raises(LayerUnavailable):
        unaware.enqueue([Message("work", {})])
    assert not split.has_strayed
    aware.stores[0].server._map = unaware.stores[0].server._map
    aware.enqueue([Message("work", {})])
    assert ask(split.hard, "DBSIZE") > 0
