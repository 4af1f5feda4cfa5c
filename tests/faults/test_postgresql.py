"""Faults on PostgreSQL: workers and servers killed, wires cut, answers lost. A ledger counts what ran."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from mailrail import Channel
from mailrail.layers import DurableLayer, get_layer

from ..processes import Ledger, WorkerProcess, until, workers
from ..proxy import Proxy
from ..servers import PostgresServer

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "postgres"]),
    pytest.mark.timeout(300),
]

ROUNDS = int(os.environ.get("MAILRAIL_FAULT_ROUNDS", "20"))
THREADS = 4


@pytest.fixture
def layer(settings: Any) -> Iterator[Any]:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": "postgres"}}
    }
    yield get_layer()
    connections["postgres"].close()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def proxy(postgres_server: PostgresServer) -> Iterator[Proxy]:
    proxy = Proxy(postgres_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def seed() -> int:
    print(f"seed: {(seed := random.randrange(10**6))}")
    return seed


def start(stack: ExitStack, ledger: Ledger, *arguments: str, number: int = 2) -> list[WorkerProcess]:
    """Workers of two processes each, on PostgreSQL."""
    options = ("--layer", "postgres", "--processes", "2", "--threads", str(THREADS))
    return stack.enter_context(workers(ledger, *arguments, *options, number=number))


def is_empty(layer: DurableLayer) -> bool:
    return all(s.ready + s.scheduled + s.claimed == 0 for s in layer.stats().values())


def end(*running: WorkerProcess) -> None:
    until(lambda: all(worker.log for worker in running), what="the start of all workers")
    for worker in running:
        worker.signal(signal.SIGTERM)
    for worker in running:
        assert worker.wait() == 0, worker.log[-3000:]


def check(ledger: Ledger, ids: set[str], most_repeats: int) -> None:
    """Every id ran; no more ran again than may have been in flight."""
    ran = ledger.counts()
    assert set(ran) == ids, f"{len(ids - set(ran))} lost"
    repeats = sum(ran.values()) - len(ids)
    print(f"{len(ids)} messages, {repeats} repeats, {most_repeats} may have been in flight")
    assert repeats <= most_repeats


def finished(*running: WorkerProcess) -> list[str]:
    """The ids that these workers say they have finished."""
    return [line.split()[5] for w in running for line in w.log.splitlines() if " finished ledger " in line]


def test_kill_9_of_all_workers_again_and_again(layer: Any, ledger: Ledger, seed: int) -> None:
    chance = random.Random(seed)
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 20_000)}
    in_flight, everybody = 0, []
    for _ in range(ROUNDS):
        before = len(ledger.counts())
        with ExitStack() as stack:
            pair = start(stack, ledger, "ledger")
            enough = before + chance.randrange(50, 10_000 // ROUNDS)
            until(lambda enough=enough: len(ledger.counts()) >= enough or is_empty(layer))  # type: ignore[misc]
            for worker in pair:
                worker.kill_all()
        everybody += pair
        in_flight += layer.stats()["ledger"].claimed if "ledger" in layer.stats() else 0
        layer.shift(16)  # the leases of the dead lapse
    with ExitStack() as stack:
        everybody += start(stack, ledger, "ledger", "--drain", number=1)
        assert everybody[-1].wait(200) == 0
    check(ledger, ids, in_flight)
    assert in_flight <= ROUNDS * 2 * 2 * THREADS
    assert is_empty(layer) and not layer.dead("ledger")
    done = finished(*everybody)
    assert len(done) == len(set(done)), "finished twice"


def test_a_worker_stopped_past_its_lease_settles_nothing_when_it_goes_on(layer: Any, ledger: Ledger) -> None:
    gate = ledger.path.with_name("gate")
    id = str(Channel("held").send({"gate": str(gate)}))
    with ExitStack() as stack:
        [first] = start(stack, ledger, "held", number=1)
        until(lambda: ledger.lines("began"))
        os.killpg(first.process.pid, signal.SIGSTOP)
        until(lambda: layer.poll(["held"]) == 0)  # its lease of 1 s lapses
        [claim] = layer.claim("other", {"held": 1}, 60.0).claims
        gate.touch()
        os.killpg(first.process.pid, signal.SIGCONT)
        until(lambda: f"lost held {id}" in first.log)
        assert (claim.attempt, claim.losses) == (1, 1)
        assert layer.finish([claim]) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_restart_of_the_server_in_mid_drain(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer, how: signal.Signals
) -> None:
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 3000)}
    with ExitStack() as stack:
        pair = start(stack, ledger, "ledger")
        for share in (0.2, 0.5):
            until(lambda share=share: len(ledger.counts()) >= share * len(ids))  # type: ignore[misc]
            postgres_server.stop(how)
            postgres_server.start()
            back_at, before = time.monotonic(), len(ledger.counts())
            until(lambda before=before: len(ledger.counts()) > before)  # type: ignore[misc]
            print(f"the first one {time.monotonic() - back_at:.2f} s after the server was back")
        connections.close_all()
        until(lambda: is_empty(layer))
        end(*pair)
    check(ledger, ids, 2 * 2 * 2 * THREADS)
    assert not layer.dead("ledger")


def test_every_connection_terminated_again_and_again(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 3000)}
    cuts = 5
    with ExitStack() as stack, postgres_server.connect() as killer:
        pair = start(stack, ledger, "ledger")
        for number in range(1, cuts + 1):
            until(lambda number=number: len(ledger.counts()) >= number * len(ids) / (cuts + 1))  # type: ignore[misc]
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'mailrail' AND pid <> pg_backend_pid()"
            )
        connections.close_all()
        until(lambda: is_empty(layer))
        end(*pair)
        assert all("Traceback" not in worker.log for worker in pair)
    check(ledger, ids, 0)  # nobody died: what ran is settled later
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_a_network_that_is_cut_for_a_while(
    layer: Any, ledger: Ledger, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 2000)}
    monkeypatch.setenv("MAILRAIL_TEST_POSTGRES_PORT", str(proxy.port))
    with ExitStack() as stack:
        pair = start(stack, ledger, "ledger")
        until(lambda: len(ledger.counts()) >= 500)
        proxy.cut()
        until(lambda: all("the layer cannot be used just now" in worker.log for worker in pair))
        proxy.mend()
        until(lambda: is_empty(layer))
        end(*pair)
    check(ledger, ids, 0)
    assert {line.losses for line in ledger.lines("ran")} == {0}


def test_an_answer_to_a_claim_lost_on_the_wire_wastes_no_lease(
    layer: Any, ledger: Ledger, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    monkeypatch.setenv("MAILRAIL_TEST_POSTGRES_PORT", str(proxy.port))

    def now_and_then(data: bytes) -> bool:
        # Bind to a prepared statement, or its first text: what claims and settles
        is_claim = b"_pg3_" in data or b"SKIP LOCKED" in data
        return is_claim and proxy.swallowed < 10 and chance.random() < 0.1

    with ExitStack() as stack:
        pair = start(stack, ledger, "ledger")
        until(lambda: len(layer.workers()) == 4)
        proxy.lose_answer_to(now_and_then)
        begun = time.monotonic()
        ids = {str(id) for id in Channel("ledger").send_many([{}] * 2000)}
        until(lambda: is_empty(layer))
        print(f"{proxy.swallowed} answers lost, all done after {time.monotonic() - begun:.1f} s")
        proxy.lose_answer_to(None)
        end(*pair)
    assert proxy.swallowed >= 5
    check(ledger, ids, 0)
    assert {(line.attempt, line.losses) for line in ledger.lines("ran")} == {(1, 0)}


def test_full_connection_slots_are_waited_out(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 200)}
    hogs = []
    with ExitStack() as stack:
        with suppress(psycopg.OperationalError):
            while True:
                hogs.append(postgres_server.connect())
        [worker] = start(stack, ledger, "ledger", number=1)
        until(lambda: "the layer cannot be used just now" in worker.log, what="its word of it")
        for hog in hogs:
            hog.close()
        until(lambda: is_empty(layer))
        end(worker)
    check(ledger, ids, 0)


def test_an_idle_session_that_the_server_ends_is_made_anew(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    with ExitStack() as stack, postgres_server.connect() as admin:
        admin.execute("ALTER DATABASE mailrail SET idle_session_timeout = '300ms'")
        try:
            [worker] = start(stack, ledger, "ledger", number=1)
            until(lambda: len(layer.workers()) == 2)
            for _ in range(3):
                connections.close_all()
                ended = postgres_server.log.count("idle-session timeout")
                until(lambda ended=ended: postgres_server.log.count("idle-session timeout") >= ended + 2)  # type: ignore[misc]
                id = str(Channel("ledger").send({}))
                until(lambda id=id: id in ledger.counts())  # type: ignore[misc]
            end(worker)
        finally:
            admin.execute("ALTER DATABASE mailrail RESET idle_session_timeout")
    assert set(ledger.counts().values()) == {1}


def test_an_error_of_the_disk_loses_nothing(
    layer: Any, ledger: Ledger, postgres_server: PostgresServer
) -> None:
    """SQLSTATE 53100 from a trigger: what a server without room says to every write."""
    ids = {str(id) for id in Channel("ledger").send_many([{}] * 300)}
    with ExitStack() as stack, postgres_server.connect(dbname="mailrail") as admin:
        [worker] = start(stack, ledger, "ledger", number=1)
        until(lambda: len(ledger.counts()) >= 50)
        admin.execute(
            """
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
            CREATE TRIGGER full_disk BEFORE UPDATE OR DELETE ON mailrail_message
            FOR EACH STATEMENT EXECUTE FUNCTION full_disk()
            """
        )
        try:
            until(lambda: "no space left on device" in worker.log)
        finally:
            admin.execute("DROP FUNCTION full_disk CASCADE")
        until(lambda: is_empty(layer))
        end(worker)
    check(ledger, ids, 0)


def test_pausing_is_seen_within_a_second(layer: Any, ledger: Ledger) -> None:
    with ExitStack() as stack:
        [worker] = start(stack, ledger, "ledger", number=1)
        until(lambda: len(layer.workers()) == 2)
        layer.pause("ledger")
        id = str(Channel("ledger").send({}))
        with pytest.raises(AssertionError, match="did not happen"):
            until(lambda: ledger.counts(), timeout=1.5)
        layer.resume("ledger")
        resumed_at = time.monotonic()
        until(lambda: ledger.counts() == {id: 1})
        assert time.monotonic() - resumed_at < 1.5
        end(worker)


def test_a_rate_is_kept_over_all_workers(layer: Any, ledger: Ledger) -> None:
    """20 per second: a bucket of 20, full at first."""
    Channel("rated").send_many([{}] * 60)
    with ExitStack() as stack:
        pair = start(stack, ledger, "rated")
        until(lambda: ledger.lines("ran"))
        begun = time.monotonic()
        until(lambda: is_empty(layer))
        assert time.monotonic() - begun >= 1.8  # 40 of them had to wait for a token
        end(*pair)
    assert set(ledger.counts().values()) == {1} and len(ledger.counts()) == 60
