"""A part of a layer is away, one of several servers or a node of a cluster: the channels of the others go on."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message
from mailrail.routing import route
from mailrail.worker import IncomingMessage

from ..processes import until
from ..servers import ValkeyServer
from ..topologies import ValkeyCluster
from .test_worker import Running

pytestmark = pytest.mark.timeout(120)

KEPT: dict[str, Any] = {"appendonly": "yes", "appendfsync": "always"}
LEASE = 3.0


class Hosts:
    """Independent servers."""

    def __init__(self) -> None:
        self._servers = [ValkeyServer(**KEPT) for _ in range(2)]
        for server in self._servers:
            server.start()
        self.layer: Any = RedisChannelLayer([server.url for server in self._servers])

    def server_of(self, name: str, key: bytes) -> ValkeyServer:
        number: int = self.layer._servers.all.index(self.layer._servers.of(name))
        return self._servers[number]

    def remove(self) -> None:
        for server in self._servers:
            server.remove()


class Nodes:
    """Masters of a cluster, none of which has a replica."""

    def __init__(self) -> None:
        self._cluster = ValkeyCluster(
            cluster_require_full_coverage="no", cluster_node_timeout="60000", **KEPT
        )
        self._cluster.start()
        self.layer: Any = RedisChannelLayer(self._cluster.urls, cluster=True)

    def server_of(self, name: str, key: bytes) -> ValkeyServer:
        return self._cluster.master_of(key)

    def remove(self) -> None:
        self._cluster.remove()


@pytest.fixture(params=[Hosts, Nodes])
def parts(request: pytest.FixtureRequest) -> Iterator[Any]:
    parts = request.param()
    yield parts
    parts.layer.stop_listening()
    parts.remove()


def channel_of(parts: Any, server: ValkeyServer, bucket: ValkeyServer) -> str:
    """A channel on this server, with the tokens of its rate on that one."""
    names = parts.layer._names
    for name in map("channel-{}".format, count()):
        tokens = f"channel:{name}"
        found = parts.server_of(name, names.tag(name)), parts.server_of(tokens, names.bucket(tokens))
        if found == (server, bucket):
            return name
    raise AssertionError


class Watched:
    """A consumer that tells of its runs, and waits until it may end."""

    def __init__(self, failures: int = 0) -> None:
        self.runs: list[IncomingMessage] = []
        self.may_end = threading.Event()
        self._failures = failures

    def __call__(self, message: IncomingMessage) -> None:
        self.runs.append(message)
        self.may_end.wait(60)
        if len(self.runs) <= self._failures:
            raise RuntimeError("boom")


def has_gone_by(seconds: float) -> Callable[[], bool]:
    begun = time.monotonic()
    return lambda: time.monotonic() - begun > seconds


def test_what_is_left_to_tell_it_keeps_nobody_from_the_others(parts: Any, caplog: Any) -> None:
    layer = parts.layer
    there = parts.server_of("work", layer._names.tag("work"))
    other = next(
        s for s in (parts.server_of(n, layer._names.tag(n)) for n in map(str, count())) if s is not there
    )
    ended, failed = channel_of(parts, there, there), channel_of(parts, there, other)
    here, rated = channel_of(parts, other, other), channel_of(parts, other, there)
    ending, failing, long = Watched(), Watched(failures=1), Watched()
    seen: Counter[Any] = Counter()
    assert len({ended, failed, here, rated}) == 4
    routes = [
        route(ended, ending, lease=LEASE),
        route(failed, failing, lease=LEASE, backoff=0.1),
        route(
            here, lambda message: long(message) if message["long"] else seen.update([message.id]), lease=LEASE
        ),
        route(rated, lambda message: seen.update([message.id]), rate="1000/s"),
    ]
    layer.enqueue([Message(channel, {"long": True}) for channel in (ended, failed, here)])
    before = layer.enqueue([Message(rated, {}) for _ in range(3)])
    with Running(layer, *routes, threads=5):
        until(lambda: ending.runs and failing.runs and long.runs and set(seen) == set(before))
        there.stop(signal.SIGKILL)
        ending.may_end.set()
        failing.may_end.set()
        until(lambda: "cannot be used just now" in caplog.text, what="the worker's word of it")
        sent = layer.enqueue([Message(here, {"long": False}) for _ in range(20)])
        until(lambda: set(seen) >= set(sent), what="the others")
        for _ in range(5):
            [id] = layer.enqueue([Message(here, {"long": False})])
            until(lambda: id in seen, what="one more")  # noqa: B023
        assert caplog.text.count("cannot be used just now") == 1
        until(has_gone_by(LEASE + 1), what="the end of a lease that nobody renews")
        assert len(long.runs) == 1
        long.may_end.set()
        there.start()
        until(lambda: layer.stats() == {}, what="the end of all")
    assert len(long.runs) == 1 and len(failing.runs) >= 2 and ending.runs
    assert set(seen.values()) == {1}
