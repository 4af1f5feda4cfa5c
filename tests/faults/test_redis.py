"""Worker processes on the Redis layer."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from mailrail.layers import RedisChannelLayer
from mailrail.messages import Message

from ..listed import dead_on
from ..processes import Ledger, until, workers
from ..servers import ValkeyServer


@pytest.fixture
def layer(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What the worker processes have in their settings, too, as the layer "redis"."""
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", valkey.url)
    monkeypatch.setenv("MAILRAIL_TEST_ASGI", "tests.consumers4.application")
    layer = RedisChannelLayer([valkey.url])
    yield layer
    layer.stop_listening()


class TestWorkers:
    def test_two_on_one_channel_run_each_message_once(self, layer: Any, ledger: Ledger) -> None:
        ids = layer.enqueue([Message("ledger", {"n": n}) for n in range(2000)])
        with workers(ledger, "ledger", "--layer", "redis", "--drain", number=2) as started:
            assert [worker.wait() for worker in started] == [0, 0]
            assert all("keeps no append-only file" in worker.log for worker in started)
        assert ledger.counts() == dict.fromkeys(map(str, ids), 1)
        assert layer.stats() == {} and layer.workers() == []

    def test_what_a_killed_one_held_is_run_by_the_next(
        self, layer: Any, ledger: Ledger, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        ids = layer.enqueue([Message("held", {"gate": str(gate)}) for _ in range(4)])
        with workers(ledger, "held", "--layer", "redis") as [worker]:
            until(lambda: len(ledger.lines("began")) == 4)
            worker.kill_all()
        gate.touch()
        with workers(ledger, "held", "--layer", "redis") as [worker]:
            until(lambda: len(ledger.lines("ran")) == 4)
            until(lambda: layer.stats() == {})
        assert {line.losses for line in ledger.lines("ran")} == {1}
        assert set(ledger.counts()) == set(map(str, ids))

    def test_a_server_that_comes_later_is_waited_for(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = ValkeyServer(appendonly="yes", appendfsync="always")
        monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", server.url)
        try:
            with workers(ledger, "ledger", "--layer", "redis") as [worker]:
                until(lambda: "the layer cannot be used just now" in worker.log)
                assert "cannot ask whether messages may be lost" in worker.log
                server.start()
                layer = RedisChannelLayer([server.url])
                ids = layer.enqueue([Message("ledger", {}) for _ in range(10)])
                until(lambda: len(ledger.lines("ran")) == 10)
                server.stop(signal.SIGKILL)
                server.start()
                ids += layer.enqueue([Message("ledger", {}) for _ in range(10)])
                until(lambda: len(ledger.counts()) == 20)
            assert set(ledger.counts()) == set(map(str, ids))
        finally:
            server.remove()

    def test_consumers_of_channels_4_survive_a_worker(self, layer: Any, ledger: Ledger) -> None:
        """One that takes its process with it is run alone, and buried in the end; the others are done once."""
        for n in range(20):
            content = {"type": "note", "n": n, "what": "began", "die": n == 3}
            async_to_sync(layer.send)("sync", content)
        with workers(ledger, "sync", "--layer", "redis") as [worker]:
            until(lambda: layer.stats() and layer.stats()["sync"].dead == 1)
            until(lambda: layer.stats()["sync"].ready + layer.stats()["sync"].claimed == 0)
            worker.signal(15)
            assert worker.wait() == 0
        [dead] = dead_on(layer, "sync")
        assert dead.message.content["n"] == 3 and dead.message.losses == 3
        assert set(ledger.counts("began")) == set(map(str, range(20)))
