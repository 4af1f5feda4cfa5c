"""``route(…, limiter=…)``: what a limiter allows starts, and what it does not waits untouched."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest

from mailrail.errors import InvalidSettings, LayerUnavailable
from mailrail.layers import DurableLayer, InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routing import Allowance, Limiter, Rate, Routing, route
from mailrail.worker.capacity import Capacity
from mailrail.worker.claim_loop import ClaimLoop, Shared
from mailrail.worker.lifecycle import Event, WorkerLifecycle
from mailrail.worker.rate_limiter import ChannelLimiter, limiter_of
from mailrail.worker.recycling import RecyclingLimits
from mailrail.worker.threads import Threads

from ..listed import waiting_on
from ..routes import first, second
from .test_worker import Running, Seen, send, until, work


@pytest.fixture
def memory() -> DurableLayer:
    return InMemoryChannelLayer()


class Budget(Limiter):
    """Allow as many messages as ``budget`` says, and note each question and answer."""

    def __init__(self, channel: str, layer: DurableLayer, budget: int = 0) -> None:
        super().__init__(channel, layer)
        self.budget, self.refuse, self.error = budget, 0, ""
        self.asked, self.got = 0, 0

    def allow(self, wanted: int) -> Allowance:
        self.asked += 1
        if self.error:
            raise RuntimeError(self.error)
        return Allowance(min(wanted, self.budget), 3600.0)

    def claimed(self, messages: Sequence[Message]) -> Sequence[Message]:
        self.got += len(messages)
        self.budget -= len(messages)
        return messages[: self.refuse]


def test_a_limiter_that_cannot_be_made_keeps_its_own_channel_waiting_until_it_can(
    layer: DurableLayer, caplog: pytest.LogCaptureFixture
) -> None:
    tenants, asked, seen, others = list[str](), list[str](), Seen(), Seen()

    def make(channel: str, layer: DurableLayer) -> Budget:
        if not tenants:
            asked.append(channel)
            raise LookupError("no such tenant")
        return Budget(channel, layer, 5)

    send(layer, n=5)
    layer.enqueue([Message("other", {"n": n}) for n in range(3)])
    with Running(layer, route("work", seen, limiter=make), route("other", others)):
        until(lambda: len(others) == 3 and layer.stats().keys() == {"work"} and asked)
        assert not seen
        tenants.append("one")
        until(lambda: len(seen) == 5)
    assert [r.getMessage() for r in caplog.records if "the limiter of channel" in r.message] == [
        "the limiter of channel work failed, so its messages wait: LookupError: no such tenant"
    ]


def given(limiter: Budget) -> Any:
    """Return a factory that gives this object to the claim loop."""

    def make(channel: str, layer: DurableLayer) -> Budget:
        limiter.layer = layer
        return limiter

    return make


def test_what_a_limiter_does_not_allow_is_not_claimed_and_reopen_lets_it_start_at_once(
    layer: DurableLayer,
) -> None:
    seen, limiter = Seen(), Budget("work", layer, 5)
    send(layer, n=20)
    with Running(layer, route("work", seen, limiter=given(limiter))):
        until(lambda: len(seen) == 5 and layer.stats()["work"].ready == 15 and limiter.open_at)
        assert {m.attempt for m in waiting_on(layer, "work")} == {0} and limiter.got == 5
        limiter.budget = 15
        limiter.reopen()  # it would be asked again in an hour
        until(lambda: len(seen) == 20)
    assert layer.stats() == {}


def test_a_closed_channel_keeps_no_other_waiting(layer: DurableLayer) -> None:
    seen = Seen()
    send(layer, n=3)
    send(layer, channel="free", n=3)
    closed = route("work", seen, limiter=given(Budget("work", layer)))
    with Running(layer, closed, route("free", seen)):
        until(lambda: len(seen) == 3)
    assert {m.channel for m in seen} == {"free"} and layer.stats()["work"].ready == 3


def test_what_claimed_returns_is_released_without_an_attempt(layer: DurableLayer) -> None:
    seen, limiter = Seen(), Budget("work", layer, 3)
    limiter.refuse = 1
    send(layer)
    with Running(layer, route("work", seen, limiter=given(limiter))):
        until(lambda: limiter.got)
        limiter.refuse = 0
        until(lambda: len(seen) == 1)
    assert [m.attempt for m in seen] == [1]


def test_a_limiter_that_raises_is_logged_once_and_keeps_its_own_channel_waiting(
    layer: DurableLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailrail.worker.rate_limiter.CLOSED_FOR", 0.05)
    seen, limiter = Seen(), Budget("work", layer, 1)
    limiter.error = "the quota cannot be asked"
    send(layer)
    send(layer, channel="free")
    faulty = route("work", seen, limiter=given(limiter))
    with caplog.at_level(logging.ERROR, "mailrail"), Running(layer, faulty, route("free", seen)):
        until(lambda: limiter.asked > 3 and len(seen) == 1)
        limiter.error = ""
        until(lambda: len(seen) == 2)
    text = "the limiter of channel work failed, so its messages wait: RuntimeError: the quota cannot be asked"
    assert [record.getMessage() for record in caplog.records] == [text]
    assert [m.channel for m in seen] == ["free", "work"]


def test_a_limiter_and_a_rate_both_hold_and_unused_tokens_are_given_back(memory: DurableLayer) -> None:
    limiter = Budget("work", memory, 4)
    plan = Routing([route("work", first, rate="6/h", limiter=given(limiter))]).plans["work"]
    both = limiter_of(plan, memory)
    assert both is not None
    messages = [Message("work", {"n": n}) for n in range(9)]
    assert both.allow(9) == 1 and both.reconcile(messages[:1]) == []  # a rate's first look is for one
    assert both.allow(9) == 3 and both.reconcile(messages[1:3]) == []
    assert limiter.budget == 1 and memory.take("channel:work", 9, Rate.parse("6/h")).granted == 3
    assert both.allow(9) == 1 and both.reconcile(messages[3:4]) == messages[3:4]  # the bucket is empty
    assert both.open_at > time.monotonic() and both.allow(9) == 0


def test_tokens_that_no_claim_used_are_given_back_at_once(memory: DurableLayer) -> None:
    rate = Rate.parse("6/h")
    plans = Routing([route("work", first, rate=rate), route("other", first)]).plans
    worker = Capacity(memory, plans, Threads(4, memory))
    share = worker.share_of(memory)
    both = limiter_of(plans["work"], memory)
    assert both is not None
    share.limiters["work"] = both
    assert both.allow(1) == 1 and both.reconcile([Message("work", {})]) == []  # it has a backlog now
    assert memory.take("channel:work", 0, rate).granted == 0

    worker.recycling = RecyclingLimits(max_messages=1)
    worker.recycling.count(1)
    assert share.room() == ({}, 0)  # the bucket was asked, and then the limit of the process
    worker.recycling = None
    assert memory.take("channel:work", 5, rate).granted == 5
    memory.take("channel:work", -5, rate)

    both.allow(1), both.reconcile([Message("work", {})])
    assert share.room()[0]["work"] == 4  # and now the claim fails
    share.reconcile_unclaimed()
    assert memory.take("channel:work", 4, rate).granted == 4


def test_a_limiter_hears_of_each_claim_that_fails_also_while_the_worker_ends(memory: DurableLayer) -> None:
    counts: list[int] = []

    class Noting(Limiter):
        def allow(self, wanted: int) -> Allowance:
            return Allowance(wanted)

        def claimed(self, messages: Sequence[Message]) -> Sequence[Message]:
            counts.append(len(messages))
            return ()

    class Away(InMemoryChannelLayer):
        def claim(self, *arguments: Any, **options: Any) -> Any:
            raise LayerUnavailable("away")

    layer = Away()
    plans = Routing([route("work", first, limiter=Noting)]).plans
    capacity, lifecycle = Capacity(layer, plans, Threads(4, layer)), WorkerLifecycle(drain=False)
    loop = ClaimLoop(Shared(layer, "w", lifecycle, capacity, None), layer)
    for _ in range(2):
        with pytest.raises(LayerUnavailable):
            loop._claim()
    assert counts == [0]
    lifecycle.on(Event.TOLD_TO_STOP)
    loop._claim(), loop._claim()
    assert counts == [0, 0]


@pytest.mark.parametrize("answer", [None, 3, (1,), Allowance(0, -5.0)])
def test_no_answer_makes_the_worker_spin(memory: DurableLayer, answer: Any) -> None:
    limiter = Budget("work", memory)
    limiter.allow = lambda wanted: answer  # type: ignore[method-assign]
    asked = ChannelLimiter("work", [limiter])
    assert asked.allow(5) == 0 and 0 < asked.open_at - time.monotonic() <= 1


def test_a_limiter_belongs_to_the_channel_and_can_be_called() -> None:
    with pytest.raises(InvalidSettings, match="disagree on limiter"):
        Routing([route("a", first, limiter=Budget), route("a", second, limiter=Limiter)])
    with pytest.raises(
        TypeError, match=r"limiter must be a subclass of mailrail\.routing\.Limiter, not 'never'"
    ):
        route("a", first, limiter="never")  # type: ignore[arg-type]


def test_a_limiter_without_allow_says_so(layer: DurableLayer, caplog: pytest.LogCaptureFixture) -> None:
    send(layer)
    with Running(layer, route("work", Seen(), limiter=Limiter)):
        until(lambda: "Limiter has to define allow()" in caplog.text)


def test_drain_ends_while_a_limiter_lets_nothing_start(layer: DurableLayer) -> None:
    send(layer, n=3)
    seen = Seen()
    work(layer, route("work", seen, limiter=given(Budget("work", layer, 2))))
    assert len(seen) == 2 and layer.stats()["work"].ready == 1


def test_a_reopen_while_a_channel_is_being_closed_is_not_lost(memory: DurableLayer) -> None:
    class Reopened(Budget):
        """Another thread calls ``reopen`` just before the wait is written."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "open_at" and value:
                self.reopen()
            super().__setattr__(name, value)

    limiter = Reopened("work", memory)
    assert ChannelLimiter("work", [limiter]).allow(5) == 0
    assert limiter.open_at == 0.0
