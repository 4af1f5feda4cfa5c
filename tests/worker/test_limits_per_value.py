"""``route(…, concurrency=(n, function))``: at most n at once over all workers for each value of the function."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mailrail import Channel, routing
from mailrail.layers import DurableLayer, InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import IncomingMessage

from ..listed import dead_on, waiting_on
from .test_worker import Running, Seen, send, until, work


def tenant_of(message: Any) -> Any:
    return message["tenant"]


class Gate:
    """A consumer that holds what it gets until it is told, and counts what runs at once of each tenant."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.done: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    def __call__(self, message: IncomingMessage) -> None:
        tenant = message["tenant"]
        with self._lock:
            self.running[tenant] += 1
            self.most[tenant] = max(self.most[tenant], self.running[tenant])
        self.open.wait(20)
        with self._lock:
            self.running[tenant] -= 1
            self.done.append((tenant, message.attempt))


def of_tenants(layer: DurableLayer, tenants: str, **fields: Any) -> None:
    layer.enqueue([Message("work", {"tenant": tenant}, **fields) for tenant in tenants])


@pytest.mark.parametrize("is_placed", [True, False], ids=["sender knows", "only workers know"])
def test_no_more_than_n_of_a_value_run_over_several_workers_and_others_are_not_held_up(
    layer: DurableLayer, is_placed: bool
) -> None:
    gate = Gate()
    limited = route("work", gate, concurrency=(2, tenant_of))
    for tenant in "aaaaaaaabc":
        of_tenants(layer, tenant, **{"lane": tenant, "places": 2} if is_placed else {})
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Running(layer, limited, threads=4))
        until(lambda: sum(gate.running.values()) == 4)
        assert gate.running == {"a": 2, "b": 1, "c": 1}
        gate.open.set()
        until(lambda: len(gate.done) == 10)
        until(lambda: not layer.stats())
    assert gate.most == {"a": 2, "b": 1, "c": 1}
    assert {attempt for _, attempt in gate.done} == {1}


def test_what_waits_for_a_place_is_neither_claimed_nor_looked_for(
    layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, calls = Gate(), list[Any]()
    of_tenants(layer, "a" * 50, lane="a", places=1)
    claim = type(layer).claim

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return claim(*args, **kwargs)

    monkeypatch.setattr(type(layer), "claim", counted)
    with Running(layer, route("work", gate, concurrency=(1, tenant_of))):
        until(lambda: gate.running["a"] == 1)
        until(lambda: layer.poll(["work"]) != 0)
        number = len(calls)
        layer.wait(["work"], 0.2)
        assert len(calls) <= number + 5
        assert [m.attempt for m in waiting_on(layer, "work", 100)] == [0] * 49
        gate.open.set()
        until(lambda: len(gate.done) == 50)


@pytest.mark.parametrize("how", ["raises", "retries", "releases", "dies"])
def test_a_run_that_ends_badly_gives_its_place_to_the_next(layer: DurableLayer, how: str) -> None:
    seen = list[Any]()

    def consume(message: IncomingMessage) -> None:
        seen.append((message["n"], message.attempt))
        if message["n"] == 0 and how == "raises":
            raise RuntimeError("boom")
        if message["n"] == 0 and how in ("retries", "releases"):
            message.retry(3600) if how == "retries" else message.release(3600)

    for n in range(3):
        send(layer, content={"n": n, "tenant": "a"})
    if how == "dies":
        layer.claim("killed", {"work": 1}, 15.0)
        layer.advance_time(16)
    work(layer, route("work", consume, concurrency=(1, tenant_of), attempts=2, backoff=[3600.0]), threads=4)
    assert sorted(n for n, _ in seen) == [0, 1, 2]
    assert len(waiting_on(layer, "work")) == (0 if how == "dies" else 1)


def test_a_value_may_be_a_number_and_none_is_no_limit(layer: DurableLayer) -> None:
    gate = Gate()
    of_tenants(layer, "aaa")
    with Running(layer, route("work", gate, concurrency=(1, lambda message: None)), threads=3):
        until(lambda: gate.running["a"] == 3)
        gate.open.set()
    seen = Seen()
    of_tenants(layer, "abc")
    work(layer, route("work", seen, concurrency=(1, lambda message: 7)))
    assert {message.lane for message in seen} == {"7"}


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda message: message["nothing"], "KeyError: 'nothing'"),
        (lambda message: ["a"], "must be text, a number or None, not ['a']"),
        (lambda message: True, "must be text, a number or None, not True"),
        (lambda message: "x" * 256, "must be 1 to 255 printable characters"),
        ("tests.worker.nowhere.function", "nowhere"),
    ],
)
def test_a_message_without_a_value_dies_with_the_reason_and_holds_nobody_up(
    layer: DurableLayer, function: Any, error: str, settings: Any
) -> None:
    settings.MAILRAIL = {"ATTEMPTS": 1}
    seen = Seen()
    send(layer, content={"tenant": "a"})
    work(layer, route("work", seen, concurrency=(1, function)))
    [dead] = dead_on(layer, "work")
    assert error in dead.error and not seen


def test_a_message_with_a_lane_of_its_own_dies_and_the_error_says_why(
    layer: DurableLayer, settings: Any
) -> None:
    settings.MAILRAIL = {"ATTEMPTS": 1}
    send(layer, content={"tenant": "a"}, lane="mine")
    work(layer, route("work", Seen(), concurrency=(1, tenant_of)))
    [dead] = dead_on(layer, "work")
    assert "It was sent with lane='mine'" in dead.error and "Send it without a lane" in dead.error


class TestSenders:
    """A process that has looked for consumers before puts what it sends into the lane itself."""

    @pytest.fixture
    def memory(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[DurableLayer]:
        layer = InMemoryChannelLayer()
        monkeypatch.setattr("mailrail.channel.get_layer", lambda alias: layer)
        routes = [
            route(["work", "tenant.*"], Seen(), concurrency=(2, tenant_of)),
            route("plain", Seen()),
        ]
        monkeypatch.setitem(routing._built, "default", Routing(routes))
        return layer

    @pytest.mark.parametrize("channel", ["work", "tenant.7"])
    def test_it_is_in_its_lane_from_the_start(self, memory: DurableLayer, channel: str) -> None:
        Channel(channel).send_many([{"tenant": "a"}, {"tenant": "a"}, {"tenant": 7}, {"tenant": None}])
        lanes = [m.lane for m in memory.claim("w", {channel: 9}, 15.0).claims]
        assert lanes == ["a", "a", "7", None]
        Channel(channel).send({"tenant": "a"})
        assert memory.claim("w", {channel: 9}, 15.0).claims == []

    def test_others_are_as_they_were(self, memory: DurableLayer) -> None:
        Channel("plain").send({"tenant": "a"})
        Channel("elsewhere").send({"tenant": "a"})
        assert [m.lane for m in memory.claim("w", {"plain": 1, "elsewhere": 1}, 15.0).claims] == [None, None]

    def test_what_the_function_cannot_read_is_left_to_the_worker(self, memory: DurableLayer) -> None:
        Channel("work").send({"customer": 7})
        assert [m.lane for m in memory.claim("w", {"work": 1}, 15.0).claims] == [None]

    def test_a_lane_beside_is_refused(self, memory: DurableLayer) -> None:
        with pytest.raises(
            ValueError, match=r"lane='mine'.*concurrency=\(2, function\).*Send it without a lane"
        ):
            Channel("work").send({"tenant": "a"}, lane="mine")


@pytest.mark.parametrize(
    ("concurrency", "error"),
    [
        (
            (0, tenant_of),
            r"the number in concurrency=\(number, function\) must be a whole number from 1, not 0",
        ),
        ((True, tenant_of), r"must be a whole number from 1, not True"),
        (("5", tenant_of), r"must be a whole number from 1, not '5'"),
        ((5, 7), r"concurrency must be a whole number, or \(number, function\)"),
        ((5,), r"concurrency must be a whole number, or \(number, function\)"),
        ((5, tenant_of, 7), r"concurrency must be a whole number, or \(number, function\)"),
        (0, r"concurrency must be a whole number from 1, not 0"),
    ],
)
def test_what_is_no_limit_is_refused_with_the_reason(concurrency: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        route("work", Seen(), concurrency=concurrency)


def test_neither_a_coroutine_function_nor_a_batch_goes_with_a_limit() -> None:
    async def of_it(message: Any) -> str:
        return "a"

    with pytest.raises(TypeError, match="no coroutine function"):
        route("work", Seen(), concurrency=(1, of_it))
    with pytest.raises(ValueError, match=r"concurrency=\(number, function\) and batch=… do not go together"):
        route("work", Seen(), concurrency=(1, tenant_of), batch=10)
