"""Faults each layer on a server has to bear: workers killed and stopped, connections ended, cut wires, lost answers.

Written once, run on each. A ledger counts what ran.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connections

from mailrail import Channel
from mailrail.layers import get_layer
from mailrail.messages import Message

from ..listed import dead_on
from ..processes import Ledger, WorkerProcess, until
from ..proxy import Proxy
from ..servers import PostgresServer, ValkeyServer
from .checks import OUTAGE, THREADS, all_of, await_more, check, check_idle, finished
from .checks import start as start_on
from .conftest import end, is_empty

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(300),
]

SLOW = {"seconds": 0.03}
"""For "slow": so that work is left when a fault is over."""


@dataclass(frozen=True)
class Place:
    """A layer on a server, and what this server's faults look like. ``alias``: the layer's in the workers' settings."""

    alias: str
    layer: Any
    port: int
    lead_through: Callable[[Proxy], None]  # workers that start from now on
    end_connections: Callable[[], object]  # those of everybody else
    may_claim: Callable[[bytes], bool]  # what goes to the server: is it a claim, perhaps?
    rounds: int  # of killed workers …
    messages_a_round: int  # … which have so many messages for each

    def start(self, stack: ExitStack, ledger: Ledger, *channels: str, number: int = 2) -> list[WorkerProcess]:
        return start_on(self.alias, stack, ledger, *channels, number=number)


@pytest.fixture(params=["postgresql", "valkey"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def on_postgresql(
    on_postgres: Any, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Place:
    def end_connections() -> None:
        with postgres_server.connect() as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'mailrail' AND pid <> pg_backend_pid()"
            )
        connections.close_all()

    return Place(
        alias="postgres",
        layer=on_postgres,
        port=postgres_server.port,
        lead_through=lambda proxy: monkeypatch.setenv("MAILRAIL_TEST_POSTGRES_PORT", str(proxy.port)),
        end_connections=end_connections,
        # Bind to a prepared statement, or its first text.
        may_claim=lambda data: b"_pg3_" in data or b"SKIP LOCKED" in data,
        rounds=int(os.environ.get("MAILRAIL_FAULT_ROUNDS", "8")),
        messages_a_round=400,
    )


@pytest.fixture
def on_valkey(valkey: ValkeyServer, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", valkey.url)
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.RedisChannelLayer", "CONFIG": {"hosts": [valkey.url]}}
    }

    def lead_through(proxy: Proxy) -> None:  # workers wait for an answer for 1 s
        monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=1")

    def end_connections() -> None:
        with valkey.client() as client:
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    yield Place(
        alias="redis",
        layer=get_layer(),
        port=valkey.port,
        lead_through=lead_through,
        end_connections=end_connections,
        # What adopts claims whose answer was lost is one, too, and its answers are lost as well.
        may_claim=lambda data: b"EVALSHA" in data,
        rounds=int(os.environ.get("MAILRAIL_FAULT_ROUNDS", "4")),
        messages_a_round=1_000,
    )
    get_layer().stop_listening()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    """Between the workers and the server."""
    proxy = Proxy(place.port)
    place.lead_through(proxy)
    yield proxy
    proxy.close()


def send(channel: str, count: int, content: dict[str, Any] | None = None) -> set[str]:
    return {str(id) for id in Channel(channel).send_many([content or {}] * count)}


# -- workers that die, or stand still ---------------------------------------------------------------------------


def test_kill_9_of_all_workers_again_and_again(place: Place, ledger: Ledger, seed: int) -> None:
    """A third of the messages lies in 50 lanes, and each of those runs in its order."""
    chance, layer = random.Random(seed), place.layer
    lanes = [f"lane-{n % 50}" if n % 3 == 0 else None for n in range(place.rounds * place.messages_a_round)]
    ids = [str(id) for id in layer.enqueue([Message("ledger", {}, lane=lane) for lane in lanes])]
    in_flight, everybody = 0, []
    for _ in range(place.rounds):
        enough = ledger.total() + chance.randrange(50, place.messages_a_round)
        with ExitStack() as stack:
            pair = place.start(stack, ledger, "ledger")
            begun = time.monotonic()
            until(lambda enough=enough: ledger.total() >= enough or is_empty(layer))  # type: ignore[misc]
            print(f"killed {time.monotonic() - begun:.2f} s after their start")
            for worker in pair:
                worker.kill_all()
        everybody += pair
        in_flight += layer.stats()["ledger"].claimed if "ledger" in layer.stats() else 0
        layer.advance_time(16)  # the leases of the dead lapse
    with ExitStack() as stack:
        everybody += place.start(stack, ledger, "ledger", "--drain", number=1)
        assert everybody[-1].wait(200) == 0
    check(ledger, set(ids), in_flight)
    assert in_flight <= place.rounds * 2 * 2 * THREADS
    assert is_empty(layer) and not dead_on(layer, "ledger")
    done = finished(*everybody)
    assert len(done) == len(set(done)), "finished twice"
    first_run = {id: n for n, id in enumerate(dict.fromkeys(line.id for line in ledger.lines("ran")))}
    for lane in set(lanes) - {None}:
        of_lane = [first_run[id] for id, its in zip(ids, lanes, strict=True) if its == lane]
        assert of_lane == sorted(of_lane), f"{lane} ran out of order"


def test_a_worker_stopped_past_its_lease_settles_nothing_when_it_goes_on(
    place: Place, ledger: Ledger
) -> None:
    gate, layer = ledger.path.with_name("gate"), place.layer
    id = str(Channel("held").send({"gate": str(gate)}))
    with ExitStack() as stack:
        [first] = place.start(stack, ledger, "held", number=1)
        until(lambda: ledger.lines("began"))
        os.killpg(first.process.pid, signal.SIGSTOP)
        until(lambda: layer.poll(["held"]) == 0)  # its lease of 1 s lapses
        [claim] = layer.claim("other", {"held": 1}, 60.0).claims
        gate.touch()
        os.killpg(first.process.pid, signal.SIGCONT)
        until(lambda: f"lost held {id}" in first.log)
        assert (claim.attempt, claim.losses) == (1, 1)
        assert layer.finish([claim]) == []


# -- connections that end, wires that are cut ---------------------------------------------------------------------


def test_every_connection_ended_again_and_again(place: Place, ledger: Ledger) -> None:
    ids, cuts = send("slow", 1000, SLOW), 6
    with ExitStack() as stack:
        pair = place.start(stack, ledger, "slow")
        for number in range(1, cuts + 1):
            until(lambda number=number: len(ledger.counts()) >= number * len(ids) / (cuts + 1))  # type: ignore[misc]
            place.end_connections()
            await_more(ledger, time.monotonic(), "the end of every connection", lambda: is_empty(place.layer))
        until(lambda: is_empty(place.layer))
        end(*pair)
        assert all("Traceback" not in worker.log for worker in pair)
    check(ledger, ids, 0)  # nobody died: what ran is settled later
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_a_network_that_is_cut_for_a_while(place: Place, ledger: Ledger, proxy: Proxy) -> None:
    ids = send("slow", 700, SLOW)
    with ExitStack() as stack:
        pair = place.start(stack, ledger, "slow")
        until(lambda: len(ledger.counts()) >= 170)
        proxy.cut()
        until(lambda: all_of(pair, OUTAGE))
        check_idle(pair, 2.0)
        proxy.mend()
        await_more(ledger, time.monotonic(), "the network was back", lambda: is_empty(place.layer))
        until(lambda: is_empty(place.layer))
        end(*pair)
    check(ledger, ids, 0)
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_answers_to_claims_lost_on_the_wire_waste_no_lease(
    place: Place, ledger: Ledger, proxy: Proxy, seed: int
) -> None:
    chance = random.Random(seed)

    def now_and_then(data: bytes) -> bool:
        return place.may_claim(data) and proxy.swallowed < 10 and chance.random() < 0.3

    with ExitStack() as stack:
        pair = place.start(stack, ledger, "slow")
        until(lambda: len(place.layer.workers()) == 4)
        proxy.lose_answer_to(now_and_then)
        begun = time.monotonic()
        ids = send("slow", 700, SLOW)
        until(lambda: is_empty(place.layer))
        print(f"{proxy.swallowed} answers lost, all done after {time.monotonic() - begun:.1f} s")
        assert time.monotonic() - begun < 14  # no lease of 15 s was waited for
        proxy.lose_answer_to(None)
        end(*pair)
    assert proxy.swallowed >= 5
    check(ledger, ids, 0)
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}


# -- pause, and rate ------------------------------------------------------------------------------------------------


def test_pausing_is_seen_within_a_second(place: Place, ledger: Ledger) -> None:
    layer = place.layer
    with ExitStack() as stack:
        [worker] = place.start(stack, ledger, "ledger", number=1)
        until(lambda: len(layer.workers()) == 2)
        layer.pause("ledger")
        id = str(Channel("ledger").send({}))
        with pytest.raises(AssertionError, match="did not happen"):
            until(lambda: ledger.counts(), timeout=1.5)
        layer.resume("ledger")
        resumed_at = time.monotonic()
        until(lambda: ledger.counts() == {id: 1})
        print(f"it ran {time.monotonic() - resumed_at:.2f} s after resume")
        assert time.monotonic() - resumed_at < 1.5
        end(worker)


def test_a_rate_is_kept_over_all_workers(place: Place, ledger: Ledger) -> None:
    """20 per second: a bucket of 20, full at first."""
    send("rated", 60)
    with ExitStack() as stack:
        pair = place.start(stack, ledger, "rated")
        until(lambda: ledger.lines("ran"))
        begun = time.monotonic()
        until(lambda: is_empty(place.layer))
        assert time.monotonic() - begun >= 1.8  # 40 of them had to wait for a token
        end(*pair)
    assert set(ledger.counts().values()) == {1} and len(ledger.counts()) == 60
