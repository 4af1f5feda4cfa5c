"""What claim loops share, without threads: who may claim, who waits, and what a loop leaves when it fails or ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest

from mailrail.errors import LayerUnavailable
from mailrail.layers import InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import IncomingMessage, capacity, leases
from mailrail.worker.capacity import Capacity, Share
from mailrail.worker.claim_loop import ClaimLoop, Shared
from mailrail.worker.consume import ConsumerRun
from mailrail.worker.leases import LeaseKeeper
from mailrail.worker.lifecycle import Event, State, WorkerLifecycle
from mailrail.worker.outcomes import Outcome
from mailrail.worker.recycling import RecyclingLimits
from mailrail.worker.threads import Threads

from ..processes import until


@pytest.fixture(autouse=True)
def slow_servers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "RESERVED_FOR_S", 30.0)


def consume(message: IncomingMessage) -> None: ...


RATED = route("work", consume, rate="1000/s")
PLAIN = route("work", consume, concurrency=9)


def shared(threads: int, *, used: Any = PLAIN) -> Shared:
    layer = InMemoryChannelLayer()
    plans = Routing([used]).plans
    return Shared(
        layer, "w", WorkerLifecycle(drain=False), Capacity(layer, plans, Threads(threads, layer)), None
    )


def due(n: int = 1) -> InMemoryChannelLayer:
    layer = InMemoryChannelLayer()
    layer.enqueue([Message("work", {}) for _ in range(n)])
    return layer


def started(share: Share) -> ConsumerRun:
    """A consumer that runs on a thread."""
    run = ConsumerRun(PLAIN, [IncomingMessage(Message("work", {}), PLAIN)], {})
    share.occupy(run)
    return run


def test_one_thread_goes_round_all_loops_that_wait_for_it() -> None:
    """The quickest of them always asks first. Whoever is told of room gets the thread, so no claim is made in vain."""
    worker = shared(threads=1)
    shares = [worker.capacity.share_of(due()) for _ in range(3)]
    turns = Counter[int]()
    for _ in range(30):
        for number, share in enumerate(shares):
            limits, total = share.room()
            assert bool(limits) == bool(total)
            if not total:
                share.awaited()
                continue
            turns[number] += 1
            run = started(share)
            share.done()
            for other in shares:
                other.awaited()
            share.free(run)
            break
    assert turns == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_in_a_process_of_its_own_takes_a_thread_and_gives_it_back(is_async: bool) -> None:
    async def consume_on_loop(message: IncomingMessage) -> None: ...

    apart = route("work", consume_on_loop if is_async else consume, isolate=True)
    share = shared(threads=1, used=apart).capacity.share_of(due(2))
    assert share.room() == ({"work": 1}, 1)
    run = ConsumerRun(apart, [IncomingMessage(Message("work", {}), apart)], {})
    run.is_isolated = True
    share.occupy(run)
    share.done()
    assert share.room() == ({}, 0)
    share.free(run)
    assert share.room() == ({"work": 1}, 1)


def test_a_loop_that_asks_and_takes_nothing_loses_no_turn() -> None:
    worker = shared(threads=1)
    one, other = (worker.capacity.share_of(due()) for _ in range(2))
    running = started(other)
    for _ in range(5):
        assert one.room() == ({}, 0)
    assert one.claimed_at == 0.0
    other.free(running)
    assert one.room() == ({"work": 1}, 1) and one.claimed_at > 0


def test_a_loop_whose_server_is_away_lets_go_of_its_wait_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def be_away(*arguments: Any) -> None:
        waited.append(loop.share.is_waiting)
        raise LayerUnavailable("away")

    waited: list[bool] = []
    worker = shared(threads=1)
    one = worker.capacity.share_of(due())
    loop = ClaimLoop(worker, due())
    running = started(one)
    monkeypatch.setattr(loop.layer, "wait", be_away)
    loop._try_round()
    assert waited == [True] and not loop.share.is_waiting
    assert loop._lifecycle.state is State.RECOVERING
    one.free(running)
    assert one.room() == ({"work": 1}, 1)


def test_leases_that_get_shorter_are_renewed_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(InMemoryChannelLayer):
        def renew(self, claims: Any, lease: Any) -> Any:
            renewed.append(lease)
            return super().renew(claims, lease)

    monkeypatch.setattr(leases, "LONGEST_INTERVAL_S", 600.0)
    renewed: list[Any] = []
    layer, seconds = Counting(), dict[str, float]()
    keeper = LeaseKeeper(layer, lambda: seconds)
    keeper.start()
    try:
        seconds = {"work": 0.3}
        keeper.wake()
        layer.enqueue([Message("work", {})])
        keeper.keep(layer.claim("w", {"work": 1}, seconds).claims)
        until(lambda: len(renewed) >= 3)
    finally:
        keeper.stop()


def test_a_loop_that_ends_claims_no_more_whatever_channels_it_is_given() -> None:
    worker = shared(threads=2)
    worker.layer.is_sharded = True
    loop = ClaimLoop(worker, layer := due(3))
    loop.share.serve(())  # they have moved to another shard
    assert not loop._should_continue()
    loop._lifecycle.on(Event.TOLD_TO_STOP)
    loop.share.serve(["work"])  # and back
    loop._shut_down()
    assert not loop._should_continue() and worker.lifecycle.state is State.RUNNING
    assert (layer.stats()["work"].ready, layer.stats()["work"].claimed) == (3, 0)


def test_a_rate_that_cannot_be_asked_keeps_its_own_channel_waiting_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def be_away(*arguments: Any) -> Any:
        raise LayerUnavailable("away")

    worker = shared(threads=4, used=RATED)
    worker.capacity.serve(Routing([route("other", consume)]).plans)
    share = worker.capacity.share_of(layer := due(3))
    share.serve(["work", "other"])
    assert share.room()[0] == {"work": 1, "other": 4}
    claims = layer.claim("w", {"work": 2}, 15.0).claims
    monkeypatch.setattr(layer, "take", be_away)
    refusals = list[tuple[Message, Outcome]]()
    assert list(share.admit(claims, lambda *refusal: refusals.append(refusal))) == []
    assert {claim.id for claim, _ in refusals} == {claim.id for claim in claims}
    assert {(outcome.kind, outcome.delay) for _, outcome in refusals} == {("released", 0.0)}
    assert share.room()[0] == {"other": 4} and share.awaited()[0] == ["other"]


@pytest.mark.parametrize("ending", [Event.NOTHING_DUE, Event.TOLD_TO_STOP])
def test_a_loop_ends_with_its_worker_also_while_its_server_is_away(ending: Event) -> None:
    worker = shared(threads=1)
    loop = ClaimLoop(worker, due())
    loop._lifecycle.on(Event.FAILED)
    assert loop._lifecycle.state is State.RECOVERING and worker.lifecycle.state is State.RUNNING
    worker.lifecycle.on(ending)
    late = ClaimLoop(worker, due())
    for each in (loop, late):
        each._lifecycle.on(Event.SUCCEEDED)
        each._lifecycle.on(Event.FAILED)
        assert each._lifecycle.state is worker.lifecycle.state
        assert each._claim() == []


def test_a_loop_sleeps_no_longer_than_the_limit_of_what_has_not_begun_yet() -> None:
    """It goes to sleep before a thread begins what it has started, and nobody wakes it for that."""
    worker = shared(threads=1, used=(limited := route("work", consume, timeout=0.5)))
    loop = ClaimLoop(worker, due(0))
    run = ConsumerRun(limited, [IncomingMessage(Message("work", {}), limited)], {})
    loop.running.add(run)
    begun = time.monotonic()
    loop._wait(loop.layer.wakes)
    assert 0.3 < time.monotonic() - begun < 3.0 and run.overdue_at == float("inf")
    run.begin()
    assert worker.capacity.threads.next_look([run]) == run.overdue_at < float("inf")


def test_a_loop_sleeps_no_longer_than_a_limit_that_a_function_has_just_named() -> None:
    limited = route("work", consume, timeout=lambda message: 0.01)
    loop = ClaimLoop(shared(threads=1, used=limited), due(0))
    run = ConsumerRun(limited, [IncomingMessage(Message("work", {}), limited)], {})
    loop.share._capacity.threads.submit = lambda run, on_end: run.ask_limit()  # type: ignore[method-assign]
    seen = loop.layer.wakes
    loop._start(run)
    assert loop.layer.wakes > seen and run.limit == 0.01
    assert loop.share._capacity.threads.next_look([run]) < time.monotonic() + 1


def test_a_consumer_that_no_thread_can_run_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def consume_on_loop(message: IncomingMessage) -> None: ...

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for used in (PLAIN, route("work", consume_on_loop)):
        loop = ClaimLoop(shared(threads=2, used=used), layer := due(2))
        for _ in range(2):
            loop._try_round()
        assert not loop.running and not loop._keeper._kept
        assert layer.stats()["work"].claimed == 0
        assert loop.share.room()[1] > 0  # no slot is lost


@pytest.mark.parametrize("where", ["close", "_consume"])
def test_claims_that_a_fault_keeps_from_being_started_are_given_back(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("a fault of ours")

    loop = ClaimLoop(shared(threads=2), layer := due(2))
    with monkeypatch.context() as patch:
        patch.setattr(loop if where == "_consume" else loop._settler, where, fail)
        loop._try_round()
    loop._collect()
    assert not loop._keeper._kept
    [message, _] = layer.list_messages(["work"], 2)
    assert (layer.stats()["work"].claimed, layer.stats()["work"].scheduled) == (0, 2)
    assert message.attempt == 0 and message.losses == 0


def test_a_loop_with_a_limit_of_memory_looks_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    worker = shared(threads=1)
    worker.capacity.recycling = RecyclingLimits(max_memory=2**40)
    loop = ClaimLoop(worker, due(0))
    monkeypatch.setattr(loop.layer, "wait", lambda channels, timeout, seen: waits.append(timeout))
    loop._wait(0)
    worker.capacity.recycling = None
    loop._wait(0)
    assert waits[0] <= 1.0 < 3.0 < waits[1]
