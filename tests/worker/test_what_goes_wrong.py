"""What could cost a worker a thread, a lease or its promise, and must not."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections, transaction

from mailrail import Discard, LayerUnavailable, Retry
from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer
from mailrail.messages import Claimed, Message
from mailrail.routing import Routing, route
from mailrail.signals import message_finished, message_started
from mailrail.worker import IncomingMessage, Worker, leases, settle
from mailrail.worker.child import Job
from mailrail.worker.maintenance import RELAY_INTERVAL_S
from mailrail.worker.supervisor import Supervisor

from ..listed import waiting_on
from .test_worker import Running, Seen, send, until, work


class Later(Retry):
    """With an ``__init__`` of its own, as exceptions often have."""

    def __init__(self, response: int) -> None:
        self.response = response


class Never(Discard):
    def __str__(self) -> str:
        raise RuntimeError("it cannot be shown")


class TestExceptions:
    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    def test_a_retry_that_has_an_init_of_its_own_waits_for_the_backoff(
        self, layer: DurableLayer, is_async: bool
    ) -> None:
        def consume(message: IncomingMessage) -> None:
            raise Later(503)

        async def consume_async(message: IncomingMessage) -> None:
            raise Later(503)

        send(layer)
        work(layer, route("work", consume_async if is_async else consume, attempts=3, backoff=[100]))
        assert layer.poll(["work"]) == pytest.approx(100, abs=5)
        [message] = waiting_on(layer, "work")
        assert message.attempt == 1

    def test_a_discard_that_cannot_be_shown_discards(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        def consume(message: IncomingMessage) -> None:
            raise Never

        send(layer)
        work(layer, route("work", consume))
        assert layer.stats() == {} and "discarded work" in caplog.text

    def test_a_failure_of_our_own_costs_neither_the_thread_nor_the_message(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from mailrail.worker import threads

        def tidy_before() -> None:
            if not failed:
                failed.append(True)
                raise RuntimeError("nobody thought of this")

        failed: list[bool] = []
        seen = Seen()
        monkeypatch.setattr(threads, "tidy_before", tidy_before)
        send(layer, n=3)
        with Running(layer, route("work", seen), threads=1):
            until(lambda: not layer.stats())
        assert len(seen) == 3 and {m.attempt for m in seen} == {1}
        assert "nobody thought of this" in caplog.text


@pytest.mark.django_db(transaction=True)
class TestConnections:
    def test_a_connection_that_cannot_be_tidied_is_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        layer = DatabaseChannelLayer()
        broken: list[Any] = []

        def fail() -> None:
            raise ValueError("not a connection of this pool")

        def consume(message: IncomingMessage) -> None:
            connection.ensure_connection()
            if not broken:
                broken.append(connections["default"])
                broken[0].errors_occurred = True  # so it is looked at
                broken[0].close_if_unusable_or_obsolete = fail

        send(layer, n=5)
        work(layer, route("work", consume), threads=1)
        assert layer.stats() == {} and "is given up" in caplog.text
        assert broken[0].connection is None

    def test_a_connection_that_the_projects_code_keeps_for_itself_is_left_alone(self) -> None:
        layer = DatabaseChannelLayer()
        kept: list[Any] = []

        def consume(message: IncomingMessage) -> None:
            if not kept:
                kept.append(connection.copy())
                kept[0].set_autocommit(False)  # as it is after a message, a worker would close it

        send(layer, n=2)
        work(layer, route("work", consume), threads=1)
        [own] = kept
        driver = own.connection
        assert layer.stats() == {} and driver is not None
        driver.close()


@pytest.mark.django_db(transaction=True, databases=["postgres"])
def test_async_consumers_go_on_after_their_thread_has_lost_its_connection(elsewhere: Any) -> None:
    layer = InMemoryChannelLayer()
    pids: list[int] = []

    def ask(question: str) -> int:
        with connections["postgres"].cursor() as cursor:
            cursor.execute(question)
            [(answer,)] = cursor.fetchall()
            return int(answer)

    async def consume(message: IncomingMessage) -> None:
        pids.append(await sync_to_async(ask)("SELECT pg_backend_pid()"))

    def run() -> None:
        send(layer)
        work(layer, route("work", consume, attempts=2, backoff=0))

    try:
        run()
        run()
        assert pids[0] == pids[1]
        elsewhere(
            ask, f"SELECT pg_terminate_backend({pids[0]}, 10000)::int"
        )  # as a restart of the server does
        run()
        assert len(pids) == 3 and pids[2] != pids[0]
        assert layer.stats() == {}
    finally:
        asyncio.run(sync_to_async(connections.close_all)())


class TestConcurrency:
    """``concurrency`` is how many run at once, also of messages that have to run apart."""

    @pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
    def test_messages_of_a_failed_batch_run_one_by_one(self, layer: DurableLayer, is_async: bool) -> None:
        at_once: list[int] = []
        running: list[int] = []

        def enter(messages: Sequence[IncomingMessage]) -> None:
            running.append(1)
            at_once.append(len(running))
            if len(messages) > 1:
                running.pop()
                raise RuntimeError("one of them")

        def consume(messages: list[IncomingMessage]) -> None:
            enter(messages)
            time.sleep(0.02)
            running.pop()

        async def consume_async(messages: list[IncomingMessage]) -> None:
            enter(messages)
            await asyncio.sleep(0.02)
            running.pop()

        send(layer, n=6)
        consumer = consume_async if is_async else consume
        work(layer, route("work", consumer, batch=6, concurrency=1, backoff=0, attempts=2))
        assert len(at_once) == 7 and max(at_once) == 1
        assert layer.stats() == {}

    def test_batches_of_two_routes_share_their_channels_slots(self, layer: DurableLayer) -> None:
        at_once: list[int] = []
        running: list[int] = []

        def consume(messages: list[IncomingMessage]) -> None:
            running.append(1)
            at_once.append(len(running))
            time.sleep(0.05)
            running.pop()

        layer.enqueue([Message("work", {"kind": kind}) for kind in ("a", "b") * 3])
        routes = [route("work", consume, batch=10, concurrency=1, kind=kind) for kind in ("a", "b")]
        work(layer, *routes)
        assert at_once == [1, 1] and layer.stats() == {}

    def test_those_that_wait_for_a_slot_are_released_when_the_worker_stops(self, layer: DurableLayer) -> None:
        entered, gate = threading.Event(), threading.Event()

        def consume(messages: list[IncomingMessage]) -> None:
            if len(messages) > 1:
                raise RuntimeError("one of them")
            entered.set()
            gate.wait(20)

        send(layer, n=4)
        worker = Worker(
            layer, Routing([route("work", consume, batch=4, concurrency=1, backoff=0)], layer.supports_atomic)
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        entered.wait(20)
        worker.stop(0)
        thread.join(20)
        gate.set()
        waiting = waiting_on(layer, "work")
        assert len(waiting) == 4 and {(m.attempt, m.losses) for m in waiting} == {(1, 0)}


class TestLeases:
    def test_the_lease_counts_from_before_the_claim_however_late_its_answer(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entered, gate, late = threading.Event(), threading.Event(), [0.0]
        usual_clock, usual_claim = leases.clock, layer.claim

        def claim(*args: Any) -> Claimed:
            claimed = usual_claim(*args)
            if claimed.claims and not late[0]:
                late[0] = 50.0  # as after a network that kept the answer back
                layer.advance_time(50)
            return claimed

        def consume(message: IncomingMessage) -> None:
            entered.set()
            gate.wait(20)

        monkeypatch.setattr(leases, "clock", lambda: usual_clock() + late[0])
        monkeypatch.setattr(layer, "claim", claim)
        send(layer)
        with Running(layer, route("work", consume, lease=60)):
            entered.wait(20)
            try:
                until(lambda: (layer.poll(["work"]) or 0) > 30, timeout=8)  # whole again
            finally:
                gate.set()

    def test_a_receiver_that_takes_its_time_costs_no_lease(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        renewed: set[Any] = set()
        is_receiving, gate = threading.Event(), threading.Event()
        usual = layer.renew

        def renew(claims: Sequence[Message], lease: Any) -> list[Message]:
            renewed.update(claim.id for claim in claims)
            return usual(claims, lease)

        def receiver(message: IncomingMessage, **facts: Any) -> None:
            if message.id == first.id:
                is_receiving.set()
                gate.wait(20)

        monkeypatch.setattr(layer, "renew", renew)
        [first] = send(layer)
        [second] = send(layer)
        message_finished.connect(receiver, sender="work")
        try:
            with Running(layer, route("work", Seen(), lease=0.6, concurrency=1)):
                is_receiving.wait(20)
                until(lambda: second.id in renewed, timeout=10)
                gate.set()
                until(lambda: not layer.stats())
        finally:
            gate.set()
            message_finished.disconnect(receiver, sender="work")


class TestTelling:
    @pytest.mark.parametrize("kind", ["buried", "retried"])
    def test_an_outcome_whose_answer_was_lost_is_told_as_it_is(
        self, layer: DurableLayer, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose_the_answer(*args: Any) -> list[Message]:
            lost: list[Message] = usual(*args)
            if not answers:
                answers.append(lost)
                raise LayerUnavailable("the connection broke")
            answers.append(lost)
            return lost

        def receiver(outcome: str, **facts: Any) -> None:
            outcomes.append(outcome)

        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        verb = "bury" if kind == "buried" else "retry"
        answers: list[list[Message]] = []
        outcomes: list[str] = []
        usual = getattr(layer, verb)
        monkeypatch.setattr(layer, verb, lose_the_answer)
        send(layer)
        message_finished.connect(receiver, sender="work")
        try:
            work(layer, route("work", consume, attempts=1 if kind == "buried" else 2, backoff=[100]))
        finally:
            message_finished.disconnect(receiver, sender="work")
        assert [len(lost) for lost in answers] == [0, 1]
        assert outcomes == [kind]

    def test_one_that_another_worker_has_had_meanwhile_is_lost(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail_once(*args: Any) -> list[Message]:
            if failed:
                return usual_bury(*args)
            failed.append(True)
            late[0] = 61.0  # the outage outlasts the lease
            layer.advance_time(61)
            [claim] = layer.claim("other", {"work": 1}, 60.0).claims
            layer.finish([claim])
            raise LayerUnavailable("the connection broke")

        def receiver(outcome: str, **facts: Any) -> None:
            outcomes.append(outcome)

        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        failed: list[bool] = []
        outcomes: list[str] = []
        late = [0.0]
        usual_clock, usual_bury = leases.clock, layer.bury
        for module in (leases, settle):
            monkeypatch.setattr(module, "clock", lambda: usual_clock() + late[0])
        monkeypatch.setattr(layer, "bury", fail_once)
        send(layer)
        message_finished.connect(receiver, sender="work")
        try:
            work(layer, route("work", consume, attempts=1, lease=60, concurrency=1))
        finally:
            message_finished.disconnect(receiver, sender="work")
        assert outcomes == ["lost"]

    def test_receivers_that_take_their_time_take_none_of_a_consumers_limit(self, layer: DurableLayer) -> None:
        def receiver(**facts: Any) -> None:
            time.sleep(0.5)

        async def consume(message: IncomingMessage) -> None:
            await asyncio.sleep(0.01)
            seen(message)

        seen = Seen()
        send(layer)
        message_started.connect(receiver, sender="work")
        try:
            work(layer, route("work", consume, timeout=0.4, attempts=1))
        finally:
            message_started.disconnect(receiver, sender="work")
        assert len(seen) == 1 and layer.stats() == {}


@pytest.mark.django_db(transaction=True, databases=["postgres"])
class TestLocks:
    @pytest.fixture
    def locked(self, elsewhere: Any) -> Iterator[None]:
        """Somebody has locked the table of the dead: VACUUM FULL, a migration that waits."""
        done = threading.Event()
        ready = threading.Event()

        def lock() -> None:
            with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
                cursor.execute("LOCK TABLE mailrail_dead IN ACCESS EXCLUSIVE MODE")
                ready.set()
                done.wait(60)

        locking = elsewhere.submit(lock)
        ready.wait(20)
        yield
        done.set()
        locking.result(20)

    def test_a_look_at_all_channels_that_takes_long_costs_no_lease(self, locked: None) -> None:
        layer = DatabaseChannelLayer(using="postgres")
        runs: list[int] = []

        def consume(message: IncomingMessage) -> None:
            runs.append(message.losses)
            time.sleep(RELAY_INTERVAL_S + 3)

        send(layer)
        with (
            # no room for more, so neither renews in order to claim
            Running(layer, route("work", consume, lease=0.9, concurrency=1)),
            Running(layer, route("work", consume, lease=0.9, concurrency=1)),
        ):
            until(lambda: runs and layer.poll(["work"]) is None)
        assert runs == [0]


def test_a_signal_while_processes_are_about_to_be_replaced_stops_the_supervisor() -> None:
    class Due(float):
        """The signal comes while the first one is looked at."""

        def __le__(self, now: float) -> bool:
            supervisor._on_signal(signal.SIGTERM, None)
            return False

    supervisor = Supervisor(Job())
    supervisor._restart_at.update({"one": Due(), "other": Due()})
    supervisor._start_due()
    assert supervisor._restart_at == {} and supervisor._children == []


def test_a_signal_just_before_the_next_start_is_noted_waits_for_no_start() -> None:
    supervisor = Supervisor(Job(processes=0))
    supervisor._signals = 1
    supervisor._restart_at["one"] = (at := time.monotonic() + 30)
    supervisor.run()
    assert time.monotonic() < at


def test_a_supervisor_freezes_what_workers_share_so_that_a_collection_copies_none_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(Supervisor, "_start_worker", lambda *start: frozen.append(gc.get_freeze_count()))
    Supervisor(Job()).run()
    assert frozen[0] > 10_000 and gc.get_freeze_count() < 1_000
