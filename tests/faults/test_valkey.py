"""Faults of a Valkey: it dies, stands still, forgets, is full; wires that swallow and delay. A ledger counts.

Those that it shares with PostgreSQL are in ``test_servers``.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailrail import Channel, LayerUnavailable
from mailrail.layers import DurableLayer, RedisChannelLayer, get_layer
from mailrail.messages import Message, Rate

from ..listed import dead_on
from ..processes import Ledger, WorkerProcess, until
from ..proxy import Proxy
from ..servers import ValkeyServer
from .checks import OUTAGE, THREADS, all_of, await_more, check, check_idle
from .checks import start as start_on
from .conftest import end, is_empty

pytestmark = pytest.mark.timeout(300)

SLOW = {"seconds": 0.03}
MEMORY = Path("/dev/shm")


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    """One of its own for each test; the parameters are settings of valkey.conf.

    Its files are in memory, where there is a place for that. On a busy disk the server puts off what it has to write
    under ``everysec``, up to 2 s (valkey.conf, ``appendfsync``), and a kill would lose it.
    """
    with monkeypatch.context() as patch:
        if MEMORY.is_dir():
            patch.setattr(tempfile, "tempdir", str(MEMORY))
        server = ValkeyServer(**getattr(request, "param", {}))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def layer(server: ValkeyServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", server.url)
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [server.url]}}
    }
    layer: Any = get_layer()
    yield layer
    layer.stop_listening()


@pytest.fixture
def proxy(server: ValkeyServer, layer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the workers and the server. They wait for an answer for 1 s."""
    proxy = Proxy(server.port)
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=1")
    yield proxy
    proxy.close()


def start(stack: ExitStack, ledger: Ledger, *arguments: str, number: int = 2) -> list[WorkerProcess]:
    return start_on("redis", stack, ledger, *arguments, number=number)


def send(channel: str, count: int, content: dict[str, Any] | None = None) -> set[str]:
    return {str(id) for id in Channel(channel).send_many([content or {}] * count)}


# -- a server that dies, stands still, or forgets -----------------------------------------------------------------


class Producer:
    """Sends one message after the other on a thread; what was acknowledged, and when, is kept."""

    def __init__(self, channel: str) -> None:
        self.acknowledged: list[tuple[float, str]] = []
        self.errors: list[str] = []
        self._channel = Channel(channel)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                id = str(self._channel.send({}))
            except LayerUnavailable as error:
                self.errors.append(str(error))
                self._over.wait(0.05)
            else:
                self.acknowledged.append((time.monotonic(), id))
                self._over.wait(0.0005)

    def stop(self) -> list[tuple[float, str]]:
        self._over.set()
        self._thread.join(30)
        return self.acknowledged


@pytest.mark.parametrize(
    "server",
    [{"appendonly": "yes", "appendfsync": how} for how in ("always", "everysec")],
    indirect=True,
    ids=["always", "everysec"],
)
def test_kill_9_of_the_server_loses_nothing_that_it_has_acknowledged(
    layer: Any, ledger: Ledger, server: ValkeyServer
) -> None:
    """With ``everysec``, too: what the server has written, the system still has when only the server dies."""
    producer = Producer("ledger")
    with ExitStack() as stack:
        stack.callback(producer.stop)
        pair = start(stack, ledger, "ledger")
        for _ in range(2):
            enough = len(ledger.counts()) + 500
            until(lambda enough=enough: len(ledger.counts()) >= enough)  # type: ignore[misc]
            server.stop(signal.SIGKILL)
            until(lambda: all_of(pair, OUTAGE))
            check_idle(pair, 2.0)
            server.start()
            await_more(ledger, time.monotonic(), "the server was back")
        acknowledged = {id for _, id in producer.stop()}
        until(lambda: is_empty(layer))
        end(*pair)
    lost = acknowledged - set(ledger.counts())
    repeats = sum(ledger.counts().values()) - len(ledger.counts())
    print(f"{len(acknowledged)} acknowledged, {len(lost)} lost, {repeats} repeats")
    assert not lost
    assert repeats <= 2 * 2 * 2 * THREADS  # settled, but the server died before it could say so
    assert producer.errors and all(f"127.0.0.1:{server.port}" in error for error in producer.errors)


WINDOW = 1.0
"""Seconds that ``appendfsync everysec`` may lose when the whole machine loses power (valkey.conf)."""


@pytest.mark.parametrize("server", [{"appendonly": "yes", "appendfsync": "everysec"}], indirect=True)
def test_power_lost_under_everysec_loses_the_last_second_and_nothing_else(
    layer: Any, ledger: Ledger, server: ValkeyServer
) -> None:
    """The file as the disk may have it: cut off where it ended a second before."""
    ids = send("slow", 1000, SLOW)
    layer.pause("ledger")  # what the producer sends waits
    producer = Producer("ledger")
    [log] = server.folder.glob("appendonlydir/*.incr.aof")
    sizes: list[tuple[float, int]] = []

    def noted(until: float) -> bool:
        sizes.append((time.monotonic(), log.stat().st_size))
        return sizes[-1][0] >= until and len(ledger.counts()) >= 170

    with ExitStack() as stack:
        stack.callback(producer.stop)
        pair = start(stack, ledger, "slow", "ledger")
        enough = time.monotonic() + 2 * WINDOW
        until(lambda: noted(enough))
        server.stop(signal.SIGKILL)
        cut_at, size = [s for s in sizes if s[0] <= time.monotonic() - WINDOW][-1]
        acknowledged = producer.stop()
        os.truncate(log, size)
        ran_before = len(ledger.counts())
        server.start()
        await_more(ledger, time.monotonic(), "the server was back")
        after = send("ledger", 100)
        layer.resume("ledger")
        until(lambda: is_empty(layer))
        end(*pair)
    ran = ledger.counts()
    lost = [at for at, id in acknowledged if id not in ran]
    again = [line for line in ledger.lines("ran")[:ran_before] if ran[line.id] > 1]
    in_window = sum(at > cut_at for at, _ in acknowledged)
    print(f"{len(acknowledged)} sent, {in_window} of them in the last {WINDOW:g} s, {len(lost)} lost")
    print(f"{ran_before} ran before, {len(again)} of them again")
    assert lost and all(at > cut_at for at in lost)
    assert ids | after <= set(ran)
    assert {id for at, id in acknowledged if at <= cut_at} <= set(ran)


def test_a_server_that_stands_still_for_10_seconds(layer: Any, ledger: Ledger, server: ValkeyServer) -> None:
    ids = send("slow", 700, SLOW)
    impatient = RedisChannelLayer([f"{server.url}?socket_timeout=1"])
    with ExitStack() as stack:
        pair = start(stack, ledger, "slow")
        until(lambda: len(ledger.counts()) >= 170)
        os.kill(server.pid, signal.SIGSTOP)
        begun = time.monotonic()
        try:
            with pytest.raises(LayerUnavailable, match=rf"127\.0\.0\.1:{server.port}.* cannot be used"):
                impatient.enqueue([Message("elsewhere", {})])
            print(f"the producer was told after {time.monotonic() - begun:.2f} s")
            assert time.monotonic() - begun < 2.5
            check_idle(pair, begun + 10.0 - time.monotonic())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await_more(ledger, time.monotonic(), "the server went on", lambda: is_empty_but(layer, "elsewhere"))
        until(lambda: is_empty_but(layer, "elsewhere"))
        end(*pair)
    check(ledger, ids, 0)
    assert {line.losses for line in ledger.lines("ran")} == {0}


def is_empty_but(layer: DurableLayer, channel: str) -> bool:
    return all(name == channel or s.ready + s.scheduled + s.claimed == 0 for name, s in layer.stats().items())


def test_flushall_takes_what_waits_and_stops_nobody(layer: Any, ledger: Ledger, server: ValkeyServer) -> None:
    ids = send("slow", 1000, SLOW)
    with ExitStack() as stack, server.client() as client:
        pair = start(stack, ledger, "slow")
        for _ in range(3):
            enough = len(ledger.counts()) + 70
            until(lambda enough=enough: len(ledger.counts()) >= enough)  # type: ignore[misc]
            client.flushall()
            ids |= (new := send("slow", 170, SLOW))
        until(lambda: is_empty(layer))
        end(*pair)
        assert all("Traceback" not in worker.log for worker in pair)
        assert all(
            f":{name}" not in key.decode() for key in client.scan_iter() for name in ("state", "body", "due")
        )
    ran = ledger.counts()
    print(f"{len(ids - set(ran))} of {len(ids)} went with FLUSHALL")
    assert new <= set(ran) and set(ran.values()) == {1}


def again_and_again(
    layer: Any, ledger: Ledger, times: int, do: Callable[[], object], most_repeats: int = 0
) -> None:
    """Do something several times while two workers drain; nothing is lost, or counts as a loss."""
    ids = send("slow", 1000, SLOW)
    with ExitStack() as stack:
        pair = start(stack, ledger, "slow")
        for number in range(1, times + 1):
            until(lambda number=number: len(ledger.counts()) >= number * len(ids) / (times + 1))  # type: ignore[misc]
            do()
            await_more(ledger, time.monotonic(), "it", lambda: is_empty(layer))
        until(lambda: is_empty(layer))
        end(*pair)
        assert all("Traceback" not in worker.log for worker in pair)
    check(ledger, ids, most_repeats)
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_script_flush_again_and_again(layer: Any, ledger: Ledger, server: ValkeyServer) -> None:
    with server.client() as client:
        again_and_again(layer, ledger, 10, client.script_flush)


def test_a_black_hole_for_a_while(layer: Any, ledger: Ledger, proxy: Proxy) -> None:
    """Nothing breaks, and nothing arrives, of new connections neither."""
    ids = send("slow", 700, SLOW)
    with ExitStack() as stack:
        pair = start(stack, ledger, "slow")
        until(lambda: len(ledger.counts()) >= 170)
        proxy.hold()
        until(lambda: all_of(pair, OUTAGE))
        check_idle(pair, 3.0)
        proxy.mend()
        await_more(ledger, time.monotonic(), "the network was back", lambda: is_empty(layer))
        until(lambda: is_empty(layer))
        end(*pair)
    check(ledger, ids, 0)
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_connections_half_closed_again_and_again(layer: Any, ledger: Ledger, proxy: Proxy) -> None:
    again_and_again(layer, ledger, 8, proxy.half_close)


def test_a_slow_network(layer: Any, ledger: Ledger, proxy: Proxy) -> None:
    ids = send("ledger", 200)
    proxy.delay = 0.05
    with ExitStack() as stack:
        pair = start(stack, ledger, "ledger")
        until(lambda: is_empty(layer))
        end(*pair)
        assert all(OUTAGE not in worker.log for worker in pair)
    check(ledger, ids, 0)


# -- a full server ---------------------------------------------------------------------------------------------------


def fill(server: ValkeyServer) -> None:
    """The memory is full from here on."""
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 1)


def test_a_full_server_refuses_sends_and_is_drained(layer: Any, ledger: Ledger, server: ValkeyServer) -> None:
    ids = send("slow", 200, SLOW)
    id = str(layer.enqueue([Message("behave", {"do": "raise"})])[0])
    fill(server)
    with pytest.raises(LayerUnavailable, match=rf"127\.0\.0\.1:{server.port}.* it is full .*maxmemory"):
        Channel("slow").send(SLOW)
    with pytest.raises(LayerUnavailable, match="it is full"):
        Channel("slow").send(SLOW, lane="a", key="a")
    assert layer.stats()["slow"].ready == 200
    with ExitStack() as stack, server.client() as client:
        client.config_set("maxmemory", 1)  # it stays full while it is drained
        pair = start(stack, ledger, "slow", "behave", "rated")
        until(lambda: is_empty(layer))
        until(lambda: len(layer.workers()) == 4, what="their signs of life")
        client.config_set("maxmemory", 0)
        ids |= send("slow", 10, SLOW)
        until(lambda: is_empty(layer))
        end(*pair)
    [dead] = dead_on(layer, "behave")
    assert str(dead.message.id) == id and dead.message.attempt == 3
    check(ledger, ids, 0)


def test_every_verb_but_send_works_on_a_full_server(layer: Any, server: ValkeyServer) -> None:
    ids = layer.enqueue([Message("work", {"n": n}, lane="l" if n % 2 else None) for n in range(20)])
    layer.enqueue([Message("work", {}, key="k", expires=time.time() + 3600)])
    with server.client() as client:
        client.config_set("maxmemory", 1)
    claims = layer.claim("one", {"work": 100}, 15.0).claims
    assert layer.renew(claims, 15.0) == [] and layer.release(claims[:2]) == []
    assert layer.retry(claims[2], 0.0, "again") == [] and layer.bury(claims[3], "dead") == []
    assert layer.finish(claims[4:6]) == []
    layer.advance_time(16)  # the leases of the others are over
    again = layer.claim("two", {"work": 100}, 15.0).claims
    assert {claim.losses for claim in again} == {0, 1}
    assert layer.requeue("work", [claims[3].id]) == [claims[3].id]
    assert layer.cancel("work", [claims[3].id]) == [claims[3].id]
    layer.pause("work")
    assert layer.claim("two", {"work": 100}, 15.0).claims == []
    layer.resume("work")
    layer.heartbeat("two", {})
    assert [worker.id for worker in layer.workers()] == ["two"]
    assert layer.take("bucket", 1, Rate(1, 1.0)).granted == 1
    assert layer.poll(["work"]) is not None and set(layer.stats()) == {"work"}
    assert len(ids) == 20


# -- lanes ---------------------------------------------------------------------------------------------------------


def test_lanes_run_one_at_a_time_and_in_order_on_all_workers(layer: Any, ledger: Ledger) -> None:
    """Whatever fails, and however often: three failures bury a message, and the next one of its lane begins."""
    sends = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=40)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(sends)
    def run(sends: list[tuple[str, int]]) -> None:
        begun = len(ledger.lines())
        lanes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        messages = [Message("in-lanes", {"failures": failures}, lane=lane) for lane, failures in sends]
        for (lane, failures), id in zip(sends, map(str, layer.enqueue(messages)), strict=True):
            lanes[lane].append((id, failures))
        until(lambda: is_empty(layer))
        lines = ledger.lines()[begun:]
        for of_lane in lanes.values():
            ids = {id for id, _ in of_lane}
            found = [(line.what, line.id, line.attempt) for line in lines if line.id in ids]
            assert found == [step for id, failures in of_lane for step in expected(id, failures)]

    with ExitStack() as stack:
        pair = start(stack, ledger, "in-lanes")
        until(lambda: len(layer.workers()) == 4)
        run()
        end(*pair)


def expected(id: str, failures: int) -> list[tuple[str, str, int]]:
    """What a message that fails so often leaves in the ledger."""
    begun = [("began", id, attempt) for attempt in range(1, min(failures, 2) + 2)]
    return begun if failures >= 3 else [*begun, ("ran", id, failures + 1)]
