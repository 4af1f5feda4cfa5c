"""A part of a layer is away, one of several servers or a node of a cluster: the channels of the others go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import pytest

from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import IncomingMessage, Worker

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
        self.layer: Any = self.new_layer()

    def new_layer(self) -> Any:
        return RedisChannelLayer([server.url for server in self._servers])

    def server_of(self, channel: str) -> ValkeyServer:
        number: int = self.layer.stores.index(self.layer._store.of(channel))
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
        self.layer: Any = self.new_layer()

    def new_layer(self) -> Any:
        return RedisChannelLayer(self._cluster.urls, cluster=True)

    def server_of(self, channel: str) -> ValkeyServer:
        return self._cluster.master_of(self.layer._keys.hash_tag(channel))

    def remove(self) -> None:
        self._cluster.remove()


@pytest.fixture(params=[Hosts, Nodes])
def parts(request: pytest.FixtureRequest) -> Iterator[Any]:
    parts = request.param()
    yield parts
    parts.layer.stop_listening()
    parts.remove()


def channels_of(parts: Any, server: ValkeyServer, n: int = 2) -> list[str]:
    """Channels on this server."""
    names = (f"channel-{n}" for n in count())
    return list(islice((name for name in names if parts.server_of(name) is server), n))


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
    there = parts.server_of("work")
    other = next(s for s in map(parts.server_of, map(str, count())) if s is not there)
    ended, failed = channels_of(parts, there)
    here, rated = channels_of(parts, other)
    ending, failing, long = Watched(), Watched(failures=1), Watched()
    seen: Counter[Any] = Counter()
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


def test_one_that_hangs_slows_nobody_else_down(parts: Any) -> None:
    layer, sending = parts.layer, parts.new_layer()
    there = parts.server_of("work")
    other = next(s for s in map(parts.server_of, map(str, count())) if s is not there)
    [hanging, late], [well, rated] = channels_of(parts, there), channels_of(parts, other)
    seen: Counter[Any] = Counter()
    long = Watched()
    routes = [
        *(route(channel, lambda message: seen.update([message.id])) for channel in (hanging, late, well)),
        route(rated, long, rate="1000/s", lease=1.5),
    ]
    layer.enqueue([Message(channel, {}) for channel in (hanging, well, rated)])
    sending.enqueue([Message(well, {})])
    with Running(layer, *routes, threads=3):
        until(lambda: seen.total() == 3 and long.runs)
        due = layer.enqueue([Message(late, {}, delay=0.3), Message(hanging, {}, delay=0.3)])
        os.kill(there.pid, signal.SIGSTOP)
        try:
            # One every 10 ms from the first moment on; leases of what runs meanwhile are renewed.
            begun = time.monotonic()
            for n in range(200):
                until(has_gone_by(begun + n * 0.01 - time.monotonic()))
                sending.enqueue([Message(well, {})])
                if n in (99, 199):  # a server is given up after ten seconds
                    until(lambda: seen.total() - 3 >= 0.9 * n, 1.0, "what was sent meanwhile")  # noqa: B023
            assert not {*due} & {*seen}
        finally:
            os.kill(there.pid, signal.SIGCONT)
        long.may_end.set()
        until(lambda: layer.stats() == {}, what="the end of all")
    assert set(seen.values()) == {1} and set(due) <= set(seen) and len(long.runs) == 1


def test_a_claim_that_comes_late_takes_no_thread_from_anybody(parts: Any) -> None:
    layer = parts.layer
    there = parts.server_of("work")
    other = next(s for s in map(parts.server_of, map(str, count())) if s is not there)
    [hanging], [well] = channels_of(parts, there, 1), channels_of(parts, other, 1)
    long, late = Watched(), Watched()
    late.may_end.set()
    sending = parts.new_layer()
    with Running(layer, route(hanging, late), route(well, long), threads=2):
        until(lambda: layer.workers())
        sending.enqueue([Message(hanging, {}, delay=0.2)])
        sending.enqueue([Message(well, {})])
        until(lambda: long.runs)  # one thread is left
        os.kill(there.pid, signal.SIGSTOP)
        until(has_gone_by(0.5))
        sending.enqueue([Message(well, {})])
        until(lambda: len(long.runs) == 2, timeout=5, what="the thread that the claim had reserved")
        os.kill(there.pid, signal.SIGCONT)
        until(lambda: hanging in layer.stats() and not layer.stats()[hanging].claimed, what="its return")
        assert not late.runs
        long.may_end.set()
        until(lambda: layer.stats() == {}, what="the end of all")
    assert [(message.attempt, message.losses) for message in late.runs] == [(1, 0)]


def test_loops_share_threads_fairly_and_a_drain_ends_when_all_are_dry(parts: Any) -> None:
    layer = parts.layer
    there = parts.server_of("work")
    other = next(s for s in map(parts.server_of, map(str, count())) if s is not there)
    [busy, one], [rare, ping] = channels_of(parts, there), channels_of(parts, other)
    order: list[str] = []
    running, most = Counter[str](), Counter[str]()
    lock = threading.Lock()

    def consume(message: IncomingMessage) -> None:
        with lock:
            running.update([message.channel, "all"])
            most[message.channel] = max(most[message.channel], running[message.channel])
            most["all"] = max(most["all"], running.total() // 2)
            order.append(message.channel)
            is_late = order.count(busy) == 20 and message.channel == busy
        if is_late:
            layer.enqueue([Message(rare, {}) for _ in range(5)])
        time.sleep(0.005)
        if message.channel in (one, ping) and message["n"]:
            other_one = ping if message.channel == one else one
            layer.enqueue([Message(other_one, {"n": message["n"] - 1})])
        with lock:
            running.subtract([message.channel, "all"])

    layer.enqueue([Message(busy, {}) for _ in range(100)])
    layer.enqueue([Message(one, {"n": 6})])
    routes = [
        route(busy, consume),
        route(rare, consume),
        route(one, consume, concurrency=1),
        route(ping, consume),
    ]
    Worker(layer, Routing(routes), threads=2, drain=True).run()
    assert layer.stats() == {} and Counter(order) == {busy: 100, rare: 5, one: 4, ping: 3}
    assert most["all"] <= 2 and most[one] == 1
    assert max(n for n, channel in enumerate(order) if channel == rare) < 80, order
