"""A master that dies under worker processes, and its replica that takes over: by Sentinels, and in a cluster."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mailrail.errors import LayerUnavailable
from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message

from ..processes import Ledger, until
from ..servers import ValkeyServer
from ..topologies import ValkeyCluster, WatchedMaster, wait_for_copies
from .checks import OUTAGE, THREADS, await_more, check, check_idle, start
from .conftest import end, is_empty

pytestmark = pytest.mark.timeout(300)

TAG = b"{mailrail:asgi:slow}"


class Sentinels:
    """One master, its replica, three Sentinels."""

    def __init__(self) -> None:
        self.servers = WatchedMaster()
        self.servers.start()
        self.config: dict[str, Any] = {"hosts": self.servers.hosts}

    @property
    def master(self) -> ValkeyServer:
        return self.servers.master


class Cluster:
    """Three masters with a replica each."""

    def __init__(self) -> None:
        self.servers = ValkeyCluster(replicas=1, cluster_node_timeout="2000")
        self.servers.start()
        self.config: dict[str, Any] = {"hosts": self.servers.urls[:3], "cluster": True}

    @property
    def master(self) -> ValkeyServer:
        return self.servers.master_of(TAG)


@pytest.fixture(params=[Sentinels, Cluster])
def topology(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Worker processes have it in their settings, as the layer "redis"."""
    topology = request.param()
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_CONFIG", json.dumps(topology.config))
    yield topology
    topology.servers.remove()


def is_accepted(layer: Any, message: Message, refusals: list[str]) -> bool:
    try:
        layer.enqueue([message])
    except LayerUnavailable as error:
        refusals.append(str(error))
        return False
    return True


def test_workers_go_on_by_themselves_with_what_the_replica_had(topology: Any, ledger: Ledger) -> None:
    layer: Any = RedisChannelLayer(**topology.config)
    ids = {str(id) for id in layer.enqueue([Message("slow", {"seconds": 0.03}) for _ in range(500)])}
    refusals: list[str] = []
    late = Message("slow", {"seconds": 0.0})
    with ExitStack() as stack:
        pair = start("redis", stack, ledger, "slow")
        until(lambda: len(ledger.counts()) >= 100)
        wait_for_copies(topology.master, TAG)
        topology.master.stop(signal.SIGKILL)
        begun = time.monotonic()
        until(lambda: all(OUTAGE in worker.log for worker in pair), what="their word of it")
        check_idle(pair, 1.0)
        until(lambda: is_accepted(layer, late, refusals), what="the promotion")
        print(f"accepted again {time.monotonic() - begun:.1f} s after the kill, after {len(refusals)} errors")
        await_more(ledger, begun, "the kill of the master")
        until(lambda: is_empty(layer), what="the end of all")
        end(*pair)
        assert all("Traceback" not in worker.log for worker in pair)
    assert refusals and all("CONFIG['hosts']" in text for text in refusals)
    # What was settled and not yet copied runs again: a round of each process, or a few.
    check(ledger, ids | {str(late.id)}, 2 * 2 * THREADS * 10)
    layer.stop_listening()
