"""The worker in one process, on every layer: what becomes of messages, whatever their consumers do."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DataError, IntegrityError, OperationalError, connections
from django.utils.asyncio import async_unsafe

from mailrail import Discard, Later, Retry
from mailrail.errors import LayerUnavailable, MailrailError
from mailrail.layers import DurableLayer, InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routes import Route
from mailrail.routing import Routing, route
from mailrail.signals import (
    message_buried,
    message_discarded,
    message_finished,
    message_retried,
    message_started,
)
from mailrail.worker import IncomingMessage, Worker, capacity, finish_all, leases
from mailrail.worker.capacity import Share
from mailrail.worker.child import Job
from mailrail.worker.consume import CANCELLATION_GRACE, ConsumerRun
from mailrail.worker.pools import EventLoop

from ..listed import dead_on, get_one, waiting_on


def send(layer: DurableLayer, channel: str = "work", n: int = 1, **fields: Any) -> list[Message]:
    messages = [Message(channel, fields.pop("content", None) or {"n": i}, **fields) for i in range(n)]
    layer.enqueue(messages)
    return messages


def work(layer: DurableLayer, *routes: Route, **options: Any) -> Worker:
    """Run a worker until nothing is due."""
    worker = Worker(layer, Routing(routes, layer.supports_atomic), drain=True, **options)
    worker.run()
    return worker


class Seen(list[Any]):
    """A consumer that remembers."""

    def __call__(self, message: Any, **arguments: Any) -> None:
        self.append(message)


class Running:
    """A worker on a thread of its own, stopped at the end."""

    def __init__(self, layer: DurableLayer, *routes: Route, **options: Any) -> None:
        self.worker = Worker(layer, Routing(routes, layer.supports_atomic), **options)
        self.thread = threading.Thread(target=self.worker.run)

    def __enter__(self) -> Worker:
        self.thread.start()
        return self.worker

    def __exit__(self, *error: object) -> None:
        self.worker.stop(5)
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def slow_servers_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a claim may take long, and what it returns be released: an outcome that nobody here expects."""
    monkeypatch.setattr(capacity, "RESERVED_FOR_S", 30.0)


def until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Wait for something that must happen; fail if it does not."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return result


def hang_about(where: str, gate: threading.Event) -> None:
    """What an atomic consumer does for longer than anybody waits."""
    numbers = "WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c)"
    with connections["default"].cursor() as cursor:
        if where == "in a statement":
            cursor.execute(f"{numbers} SELECT COUNT(*) FROM c")
        if where == "between rows":
            cursor.execute(f"{numbers} SELECT i FROM c")
            cursor.fetchone()
        gate.wait(20)


class TestConsumers:
    def test_a_consumer_sees_what_was_sent(self, layer: DurableLayer) -> None:
        seen = Seen()
        [sent] = send(layer, content={"id": 7}, headers={"tenant": "a"}, key="k", priority=2)
        work(layer, route("work", seen))
        [message] = seen
        assert (message.id, message.channel, message.content) == (sent.id, "work", {"id": 7})
        assert (message.headers, message.attempt, message.losses) == ({"tenant": "a"}, 1, 0)
        assert (message.key, message.lane, message.priority) == ("k", None, 2)
        assert (message["id"], message.get("id"), message.get("x", 5), "id" in message) == (7, 7, 5, True)
        assert (list(message), len(message), dict(message.content)) == (["id"], 1, {"id": 7})
        assert abs(message.sent_at - datetime.now(UTC)) < timedelta(seconds=10)
        with pytest.raises(KeyError):
            message["nothing"]
        assert layer.stats() == {}

    def test_an_async_consumer_runs_on_the_loop(self, layer: DurableLayer) -> None:
        seen: list[Any] = []

        async def consume(message: IncomingMessage) -> None:
            await asyncio.sleep(0)
            seen.append((message["n"], asyncio.get_running_loop()))

        send(layer, n=20)
        work(layer, route("work", consume))
        assert sorted(n for n, _ in seen) == list(range(20)) and len({id(loop) for _, loop in seen}) == 1
        assert layer.stats() == {}

    def test_all_of_many_run_once(self, layer: DurableLayer) -> None:
        seen = Seen()
        send(layer, n=500)
        work(layer, route("work", seen))
        assert sorted(m["n"] for m in seen) == list(range(500))
        assert layer.stats() == {}

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("boom"),
            SystemExit(3),
            KeyboardInterrupt(),
            GeneratorExit(),
            MemoryError(),
            RecursionError("deep"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_whatever_is_raised_is_retried_then_buried_with_its_traceback(
        self, layer: DurableLayer, error: BaseException
    ) -> None:
        attempts = []

        def consume(message: IncomingMessage) -> None:
            attempts.append(message.attempt)
            raise error

        [bad] = send(layer)
        work(layer, route("work", consume, attempts=3, backoff=0))
        assert attempts == [1, 2, 3]
        [dead] = dead_on(layer, "work")
        assert dead.message.id == bad.id and dead.message.attempt == 3
        assert type(error).__name__ in dead.error and "in consume" in dead.error

    @pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3), asyncio.CancelledError()])
    def test_the_same_for_async_consumers(self, layer: DurableLayer, error: BaseException) -> None:
        async def consume(message: IncomingMessage) -> None:
            raise error

        send(layer)
        work(layer, route("work", consume, attempts=2, backoff=0))
        [dead] = dead_on(layer, "work")
        assert type(error).__name__ in dead.error and dead.message.attempt == 2

    def test_endless_recursion_is_a_failure_like_others(self, layer: DurableLayer) -> None:
        def consume(message: Any) -> None:
            consume(message)

        send(layer)
        work(layer, route("work", consume, attempts=1))
        [dead] = dead_on(layer, "work")
        assert "RecursionError" in dead.error and len(dead.error) < 25_000

    def test_an_exception_that_cannot_be_shown_is_buried_all_the_same(self, layer: DurableLayer) -> None:
        class Unprintable(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        def consume(message: IncomingMessage) -> None:
            raise Unprintable

        send(layer)
        work(layer, route("work", consume, attempts=1))
        assert "Unprintable" in dead_on(layer, "work")[0].error

    @pytest.mark.parametrize(
        "value", [object(), {"x": 1}, NotImplemented, Exception("returned"), iter("abc")]
    )
    def test_nonsense_returned_is_ignored(self, layer: DurableLayer, value: Any) -> None:
        send(layer)
        work(layer, route("work", lambda message: value))
        assert layer.stats() == {}

    def test_a_coroutine_returned_by_a_plain_function_is_run(self, layer: DurableLayer) -> None:
        seen: list[int] = []

        async def inner(message: IncomingMessage) -> None:
            seen.append(message["n"])

        send(layer)
        work(layer, route("work", lambda message: inner(message)))
        assert seen == [0]

    def test_a_generator_returned_is_an_error_for_its_body_never_ran(self, layer: DurableLayer) -> None:
        send(layer)
        work(layer, route("work", lambda message: (x for x in "abc"), attempts=1))
        assert "returned a generator" in dead_on(layer, "work")[0].error

    def test_retry_comes_again_after_its_time(self, layer: DurableLayer) -> None:
        attempts = []

        def consume(message: IncomingMessage) -> None:
            attempts.append(message.attempt)
            if message.attempt < 3:
                raise Retry("not yet", after=timedelta(seconds=60))

        send(layer)
        for _ in range(4):
            work(layer, route("work", consume))
            layer.advance_time(61)
        assert attempts == [1, 2, 3] and layer.stats() == {}

    def test_retry_at_the_last_attempt_is_buried(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            raise Retry(after=0)

        send(layer)
        work(layer, route("work", consume, attempts=2))
        assert dead_on(layer, "work")[0].message.attempt == 2

    @pytest.mark.parametrize("seconds", [60, 1.5, timedelta(minutes=1)])
    def test_a_time_that_stands_in_place_of_a_reason_says_where_it_belongs(self, seconds: Any) -> None:
        with pytest.raises(TypeError, match=r"Write Retry\(after="):
            Retry(seconds)

    def test_a_time_as_text_is_refused(self) -> None:
        with pytest.raises(
            TypeError,
            match=r"^after must be seconds or a timedelta, .*, not '60'",
        ):
            Retry(after="60")  # type: ignore[arg-type]

    @pytest.mark.parametrize("after", [float("nan"), float("inf"), -1, timedelta(seconds=-1)])
    def test_a_retry_at_no_time_at_all_is_an_error_of_its_consumer(
        self, layer: DurableLayer, after: Any
    ) -> None:
        seen = Seen()

        def consume(message: IncomingMessage) -> None:
            if message["n"] == 0:
                message.retry(after=after)
            seen(message)

        send(layer, n=3)
        work(layer, route("work", consume, attempts=1))
        assert len(seen) == 2 and "after must be seconds" in dead_on(layer, "work")[0].error

    @pytest.mark.parametrize("delay", [float("nan"), float("inf")])
    def test_a_backoff_of_no_time_at_all_does_not_lose_the_message(
        self, layer: DurableLayer, delay: float
    ) -> None:
        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        send(layer)
        work(layer, route("work", consume, backoff=lambda attempt: delay))
        assert layer.stats()["work"].scheduled == 1

    def test_reasons_that_are_no_text_are_made_text(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            if message["n"] == 0:
                message.bury(ValueError("no"))  # type: ignore[arg-type]
            else:
                message.retry(after=100, why=None)  # type: ignore[arg-type]

        send(layer, n=2)
        work(layer, route("work", consume))
        assert layer.stats()["work"].scheduled == 1 and dead_on(layer, "work")[0].error == "no"

    @pytest.mark.parametrize("error", [ValueError("no"), IntegrityError("no"), DataError("no")])
    def test_an_outcome_the_layer_refuses_is_set_aside_and_the_others_are_settled(
        self,
        layer: DurableLayer,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def retry(claim: Message, *args: Any) -> list[Message]:
            if claim.id == refused.id:
                raise error
            return usual(claim, *args)

        def consume(message: IncomingMessage) -> None:
            message.retry(after=100)

        usual = layer.retry
        monkeypatch.setattr(layer, "retry", retry)
        refused, *_ = send(layer, n=3)
        work(layer, route("work", consume, lease=60))
        stats = layer.stats()["work"]
        assert (stats.scheduled, stats.claimed) == (2, 1)
        assert "cannot be retried; it will count as lost" in caplog.text

    def test_discard_drops_for_good(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            raise Discard("not needed")

        send(layer)
        work(layer, route("work", consume))
        assert layer.stats() == {}

    @pytest.mark.parametrize("kind", ["sync", "async", "batch", "isolated"])
    def test_later_brings_messages_again_after_its_time_and_counts_no_attempt(
        self, layer: DurableLayer, kind: str
    ) -> None:
        seen: list[tuple[int, bool]] = []

        def consume(message: Any) -> None:
            messages = message if isinstance(message, list) else [message]
            seen.extend((m.attempt, m.claim.alone) for m in messages)
            messages[0].finish() if len(messages) == 3 else None
            raise Later("not now", after=timedelta(minutes=1))

        async def aconsume(message: Any) -> None:
            consume(message)

        entry = route(
            "work", aconsume if kind == "async" else consume, attempts=1, batch=3 if kind == "batch" else None
        )
        send(layer, n=3 if kind == "batch" else 1)
        for _ in range(2):
            if kind == "isolated":
                claims = layer.claim("w", {"work": 1}, 60.0).claims
                Worker(layer, Routing([entry]), preclaimed=claims).run()
            else:
                work(layer, entry)
            assert not dead_on(layer, "work") and layer.poll(["work"]) == pytest.approx(60, abs=20)
            layer.advance_time(60)
        # Of the batch, the consumer has finished one: the two others came again, together.
        assert seen == [(1, False)] * (5 if kind == "batch" else 2)

    def test_later_undoes_what_an_atomic_consumer_has_written(self, layer: DurableLayer) -> None:
        if not layer.supports_atomic:
            pytest.skip("no atomic consumers on this layer")

        def consume(message: IncomingMessage) -> None:
            send(layer, "other")
            raise Later(after=60)

        send(layer)
        work(layer, route("work", consume, atomic=True))
        stats = layer.stats()
        assert list(stats) == ["work"] and stats["work"].scheduled == 1

    @pytest.mark.parametrize(
        ("make", "kind", "text"),
        [
            (lambda: Later(60), TypeError, r"Write Later\(after=60\)"),  # type: ignore[arg-type]
            (lambda: Later("why"), TypeError, "Later needs after"),
            (lambda: Later(after=-1), ValueError, "after must be seconds or a timedelta"),
            (lambda: Later(after="60"), TypeError, "after must be seconds or a timedelta"),  # type: ignore[arg-type]
        ],
    )
    def test_later_says_what_is_wrong_with_its_arguments(
        self, make: Callable[[], Later], kind: type[Exception], text: str
    ) -> None:
        with pytest.raises(kind, match=text):
            make()

    def test_a_message_may_carry_its_own_number_of_attempts(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        send(layer, max_attempts=1)
        work(layer, route("work", consume, attempts=9, backoff=0))
        assert dead_on(layer, "work")[0].message.attempt == 1

    def test_the_default_is_five_attempts_with_growing_jittered_waits(self, layer: DurableLayer) -> None:
        waits = []

        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        def retried(delay: float, **kwargs: Any) -> None:
            waits.append(delay)

        message_retried.connect(retried)
        send(layer)
        try:
            for _ in range(6):
                work(layer, route("work", consume))
                layer.advance_time(4000)
        finally:
            message_retried.disconnect(retried)
        assert dead_on(layer, "work")[0].message.attempt == 5
        assert len(waits) == 4 and all(0 <= w <= 15 * 2**n for n, w in enumerate(waits))

    def test_a_backoff_that_raises_does_not_lose_the_message(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            raise RuntimeError

        def backoff(attempt: int) -> float:
            raise ZeroDivisionError

        send(layer)
        work(layer, route("work", consume, backoff=backoff))
        assert layer.stats()["work"].scheduled == 1

    def test_one_bad_message_stops_nobody_else(self, layer: DurableLayer) -> None:
        seen = Seen()

        def consume(message: IncomingMessage) -> None:
            if message["n"] % 10 == 0:
                raise RuntimeError
            seen(message)

        send(layer, n=100)
        work(layer, route("work", consume, attempts=3, backoff=0))
        assert len(seen) == 90 and {m.attempt for m in seen} == {1}
        assert len(dead_on(layer, "work")) == 10

    def test_settling_by_hand(self, layer: DurableLayer) -> None:
        def consume(message: IncomingMessage) -> None:
            if message["n"] == 0:
                message.bury("for a person")
            elif message["n"] == 1:
                message.retry(after=100)
            else:
                message.finish()
                with pytest.raises(MailrailError, match="finished already"):
                    message.retry()

        send(layer, n=3)
        work(layer, route("work", consume))
        stats = layer.stats()["work"]
        assert (stats.dead, stats.scheduled, stats.ready, stats.claimed) == (1, 1, 0, 0)
        assert dead_on(layer, "work")[0].error == "for a person"


class TestBatches:
    def test_a_batch_consumer_gets_lists(self, layer: DurableLayer) -> None:
        sizes = []

        def consume(messages: list[IncomingMessage]) -> None:
            sizes.append(len(messages))

        send(layer, n=95)
        work(layer, route("work", consume, batch=10, concurrency=2))
        assert sum(sizes) == 95 and max(sizes) == 10 and layer.stats() == {}

    def test_each_may_be_settled_and_returning_finishes_the_rest(self, layer: DurableLayer) -> None:
        def consume(messages: list[IncomingMessage]) -> None:
            for message in messages:
                if message["n"] == 0:
                    message.bury("no")
                elif message["n"] == 1:
                    message.retry(after=100)
                elif message["n"] == 2:
                    message.finish()

        send(layer, n=10)
        work(layer, route("work", consume, batch=10))
        stats = layer.stats()["work"]
        assert (stats.dead, stats.scheduled, stats.ready) == (1, 1, 0)

    def test_raising_retries_the_unsettled_one_by_one(self, layer: DurableLayer) -> None:
        runs: list[list[int]] = []

        def consume(messages: list[IncomingMessage]) -> None:
            runs.append(sorted(m["n"] for m in messages))
            messages[0].finish()
            if any(m["n"] == 5 for m in messages):
                raise RuntimeError("5 is bad")

        send(layer, n=10)
        work(layer, route("work", consume, batch=10, attempts=2, backoff=0, concurrency=1))
        assert runs[0] == list(range(10))
        assert all(len(run) == 1 for run in runs[1:]) and len(runs) == 10
        assert layer.stats() == {}  # 5 was finished by hand when it was alone

    def test_early_outcomes_are_settled_before_the_batch_returns(self, layer: DurableLayer) -> None:
        gate, first_done = threading.Event(), threading.Event()

        def consume(messages: list[IncomingMessage]) -> None:
            messages[0].finish()
            first_done.set()
            gate.wait(20)

        send(layer, n=2)
        with Running(layer, route("work", consume, batch=2)):
            first_done.wait(20)
            until(lambda: layer.stats()["work"].claimed == 1)
            gate.set()
            until(lambda: not layer.stats())

    def test_several_finished_together_are_settled_before_the_batch_returns(
        self, layer: DurableLayer
    ) -> None:
        gate, finished = threading.Event(), threading.Event()

        def consume(messages: list[IncomingMessage]) -> None:
            messages[0].bury("no")
            finish_all(messages[:3])  # but for the one that has its outcome
            finished.set()
            gate.wait(20)

        send(layer, n=4)
        with Running(layer, route("work", consume, batch=4)):
            finished.wait(20)
            until(lambda: (layer.stats()["work"].claimed, layer.stats()["work"].dead) == (1, 1))
            gate.set()
            until(lambda: not layer.stats()["work"].claimed)
        assert layer.stats()["work"].dead == 1

    def test_async_batches(self, layer: DurableLayer) -> None:
        sizes = []

        async def consume(messages: list[IncomingMessage]) -> None:
            sizes.append(len(messages))

        send(layer, n=30)
        work(layer, route("work", consume, batch=10))
        assert sum(sizes) == 30 and layer.stats() == {}


class TestRouting:
    def test_first_match_wins_and_named_groups_become_arguments(self, layer: DurableLayer) -> None:
        seen: list[Any] = []

        def paid(message: IncomingMessage, kind: str) -> None:
            seen.append(("paid", kind))

        def other(message: IncomingMessage) -> None:
            seen.append(("other", message["kind"]))

        for kind in ("paid", "free", 3):
            send(layer, content={"kind": kind})
        work(layer, route("work", paid, kind=r"^(?P<kind>paid)$"), route("work", other))
        assert sorted(map(str, seen)) == ["('other', 'free')", "('other', 3)", "('paid', 'paid')"]

    def test_a_message_no_filter_matches_is_kept_and_looked_at_ever_later(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "mailrail")
        send(layer, content={"kind": ["a", "list"]})
        work(layer, route("work", Seen(), kind=r"^paid$"))
        assert layer.stats()["work"].scheduled == 1
        assert 0 < (layer.poll(["work"]) or 0) <= 1
        assert "no route of channel 'work' matches" in caplog.text
        layer.advance_time(500)
        work(layer, route("work", Seen(), kind=r"^paid$"))
        assert layer.poll(["work"]) == pytest.approx(500, abs=5)
        layer.advance_time(100_000)
        work(layer, route("work", Seen(), kind=r"^paid$"))
        assert layer.poll(["work"]) == pytest.approx(3600, abs=5)
        assert waiting_on(layer, "work")[0].attempt == 0

    def test_an_unrouted_channel_is_kept_and_said_once(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "mailrail")
        send(layer, "nobody", n=3)
        with Running(layer, route("work", Seen())):
            until(lambda: "channel nobody has 3 messages and no route" in caplog.text)
        assert layer.stats()["nobody"].ready == 3

    def test_middleware_wraps_consumers_first_one_outermost(self, layer: DurableLayer, settings: Any) -> None:
        settings.MAILRAIL = {"CONSUMER_MIDDLEWARE": [f"{__name__}.outer", f"{__name__}.inner"]}
        order.clear()
        send(layer)
        work(layer, route("work", lambda message: order.append("consumer")))
        assert order == ["outer", "inner", "consumer", "inner done", "outer done"]


order: list[str] = []


def _middleware(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(consume: Callable[..., Any]) -> Callable[..., Any]:
        def call(message: Any, **arguments: Any) -> Any:
            order.append(name)
            try:
                return consume(message, **arguments)
            finally:
                order.append(f"{name} done")

        return call

    return wrap


outer, inner = _middleware("outer"), _middleware("inner")


class TestLimits:
    def test_concurrency_is_never_exceeded(self, layer: DurableLayer) -> None:
        lock, now, most = threading.Lock(), [0], [0]

        def consume(message: IncomingMessage) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.002)
            with lock:
                now[0] -= 1

        send(layer, n=60)
        work(layer, route("work", consume, concurrency=3))
        assert most[0] == 3 or most[0] == 2

    def test_claims_never_exceed_concurrency_times_batch(self, layer: DurableLayer) -> None:
        gate, entered = threading.Event(), threading.Semaphore(0)

        def consume(messages: list[IncomingMessage]) -> None:
            entered.release()
            gate.wait(20)

        send(layer, n=50)
        with Running(layer, route("work", consume, concurrency=2, batch=5)):
            assert entered.acquire(timeout=20) and entered.acquire(timeout=20)
            assert layer.stats()["work"].claimed == 10
            gate.set()

    def test_threads_are_shared_by_channels(self, layer: DurableLayer) -> None:
        gate, entered = threading.Event(), threading.Semaphore(0)

        def consume(message: IncomingMessage) -> None:
            entered.release()
            gate.wait(20)

        for channel in ("a", "b", "c"):
            send(layer, channel, n=5)
        with Running(layer, route(["a", "b", "c"], consume), threads=4):
            for _ in range(4):
                assert entered.acquire(timeout=20)
            assert sum(s.claimed for s in layer.stats().values()) == 4
            gate.set()

    def test_async_concurrency_may_exceed_the_threads(self, layer: DurableLayer) -> None:
        together = asyncio.Event()
        count = [0]

        async def consume(message: IncomingMessage) -> None:
            count[0] += 1
            if count[0] == 40:
                together.set()
            await asyncio.wait_for(together.wait(), 20)

        send(layer, n=40)
        work(layer, route("work", consume, concurrency=40, attempts=1), threads=2)
        assert count[0] == 40 and layer.stats() == {}

    def test_a_rate_is_kept_over_two_workers(self, layer: DurableLayer) -> None:
        seen = Seen()
        limited = route("work", seen, rate="20/s", concurrency=2)
        send(layer, n=60)
        begun = time.monotonic()
        with Running(layer, limited), Running(layer, limited):
            until(lambda: len(seen) == 60)
        assert time.monotonic() - begun > (60 - 20) / 20 - 0.2  # a full bucket, then 20 a second
        assert {m.attempt for m in seen} == {1} and len({m.id for m in seen}) == 60

    def test_a_rate_that_is_used_up_leaves_the_rest_untouched(self, layer: DurableLayer) -> None:
        seen = Seen()
        send(layer, n=20)
        with Running(layer, route("work", seen, rate="5/h")):
            until(lambda: len(seen) == 5)
            until(lambda: layer.stats()["work"].ready == 15)
        assert len(seen) == 5 and {m.attempt for m in waiting_on(layer, "work")} == {0}

    def test_an_idle_rated_channel_takes_no_tokens(self, layer: DurableLayer) -> None:
        seen = Seen()
        with Running(layer, route("work", seen, rate="3/h")):
            for n in range(3):
                send(layer, content={"n": n})
                until(lambda n=n: len(seen) == n + 1)  # type: ignore[misc]

    def test_a_sync_consumer_past_its_limit_is_retried_and_its_slot_is_free(
        self, layer: DurableLayer
    ) -> None:
        gate, runs = threading.Event(), []

        def consume(message: IncomingMessage) -> None:
            runs.append(message.attempt)
            if message.attempt == 1:
                gate.wait(20)

        send(layer)
        worker = work(layer, route("work", consume, timeout=0.1, backoff=0), threads=1)
        gate.set()
        assert runs == [1, 2] and worker.should_recycle and layer.stats() == {}

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_function_that_takes_long_to_name_a_limit_keeps_no_other_channel_waiting(
        self, is_async: bool
    ) -> None:
        layer, gate, asked, seen = InMemoryChannelLayer(), threading.Event(), threading.Event(), Seen()

        def name_limit(message: IncomingMessage) -> float:
            asked.set()
            gate.wait(20)
            return 30.0

        async def consume(message: IncomingMessage) -> None:
            seen(message)

        limited = route("slow", consume if is_async else seen, timeout=name_limit)
        send(layer, "slow")
        with Running(layer, limited, route("work", lambda message: seen(message))):
            assert asked.wait(20)
            send(layer)
            until(lambda: [m.channel for m in seen] == ["work"])
            gate.set()
            until(lambda: len(seen) == 2)

    def test_a_function_that_names_no_limit_in_time_runs_into_that_of_the_settings(
        self, settings: Any
    ) -> None:
        settings.MAILRAIL = {"TIMEOUT": 0.1}
        layer, gate, seen = InMemoryChannelLayer(), threading.Event(), Seen()
        send(layer)
        limited = route("work", seen, timeout=lambda message: gate.wait(20) and 5.0, attempts=1)
        worker = work(layer, limited)
        gate.set()
        assert worker.should_recycle and seen == []
        assert "ran longer than its limit of 0.1 seconds" in dead_on(layer, "work")[0].error

    def test_an_async_consumer_past_its_limit_is_cancelled(self, layer: DurableLayer) -> None:
        ended: list[str] = []

        async def consume(message: IncomingMessage) -> None:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        send(layer)
        work(layer, route("work", consume, timeout=0.05, attempts=2, backoff=0))
        assert ended == ["cancelled"] * 2
        assert "longer than its limit of 0.05 seconds" in dead_on(layer, "work")[0].error

    @pytest.mark.parametrize("how", ["blocks the loop", "refuses to be cancelled"])
    def test_an_async_consumer_that_does_not_end_at_its_limit_is_given_up_without_spinning(
        self, layer: DurableLayer, how: str
    ) -> None:
        gate = threading.Event()

        async def consume(message: IncomingMessage) -> None:
            if message.attempt > 1:
                return
            if how == "blocks the loop":
                gate.wait(20)
            while not gate.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        send(layer)
        consumer = route("work", consume, timeout=0.1, attempts=2, backoff=0, lease=60)
        with Running(layer, consumer) as worker:
            until(lambda: worker.should_recycle)
            gate.set()
            until(lambda: not layer.stats())

    def test_a_worker_that_waits_for_a_late_async_consumer_sleeps(self, layer: DurableLayer) -> None:
        entered, gate = threading.Event(), threading.Event()

        async def consume(message: IncomingMessage) -> None:
            entered.set()
            gate.wait(20)

        send(layer)
        with Running(layer, route("work", consume, timeout=0.01, lease=60)) as worker:
            assert entered.wait(20)
            used = time.process_time()
            until(lambda: worker.should_recycle)
            used = time.process_time() - used
            gate.set()
        assert used < 0.8 * CANCELLATION_GRACE

    def test_a_task_that_exits_fails_its_consumer_and_the_loop_goes_on(self, layer: DurableLayer) -> None:
        seen = Seen()

        async def leave() -> None:
            sys.exit(3)

        async def consume(message: IncomingMessage) -> None:
            if message["n"] == 0:
                await asyncio.gather(leave())
            seen(message)

        send(layer, n=3)
        work(layer, route("work", consume, attempts=1, concurrency=1))
        assert [m["n"] for m in seen] == [1, 2] and "SystemExit" in dead_on(layer, "work")[0].error

    def test_consumers_cancelled_before_they_began_are_given_back(self, layer: DurableLayer) -> None:
        async def consume(message: IncomingMessage) -> None:
            raise AssertionError("it was cancelled")

        send(layer, n=3)
        works = route("work", consume)
        loop, ended, held = EventLoop(), threading.Semaphore(0), threading.Event()
        loop.loop.call_soon_threadsafe(held.wait, 20)
        messages = [IncomingMessage(claim, works) for claim in layer.claim("w", {"work": 3}, 60.0).claims]
        for message in messages:
            loop.submit(ConsumerRun(works, [message], {}), lambda run: ended.release())
        loop.loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks()])
        held.set()  # they are started and cancelled in one turn of the loop
        assert all(ended.acquire(timeout=20) for _ in messages)
        loop.close()
        assert [message.outcome and message.outcome.kind for message in messages] == ["released"] * 3

    def test_a_timeout_inside_the_consumer_is_its_own_error(self, layer: DurableLayer) -> None:
        async def consume(message: IncomingMessage) -> None:
            raise TimeoutError("upstream")

        send(layer)
        work(layer, route("work", consume, timeout=5, attempts=1))
        assert "upstream" in dead_on(layer, "work")[0].error


class TestLeases:
    def test_a_long_run_keeps_its_claim(self, layer: DurableLayer) -> None:
        runs = []

        def consume(message: IncomingMessage) -> None:
            runs.append(message.losses)
            time.sleep(1.2)

        send(layer)
        with (
            Running(layer, route("work", consume, lease=0.6)),
            Running(layer, route("work", consume, lease=0.6)),
        ):
            until(lambda: not layer.stats())
        assert runs == [0]

    def test_a_worker_whose_message_was_claimed_by_another_settles_nothing(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        entered, gate = threading.Event(), threading.Event()

        def consume(message: IncomingMessage) -> None:
            entered.set()
            gate.wait(20)

        send(layer)
        # one at a time: this worker has no room to claim it again itself
        with Running(layer, route("work", consume, lease=60, concurrency=1)):
            entered.wait(20)
            layer.advance_time(61)
            [other] = layer.claim("other", {"work": 1}, 60.0).claims
            caplog.set_level(logging.WARNING, "mailrail")
            gate.set()
            until(lambda: "lost work" in caplog.text)
        assert layer.finish([other]) == []

    def test_a_process_that_stood_still_past_its_leases_does_not_claim_what_it_runs(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entered, gate, slept, runs = threading.Event(), threading.Event(), [0.0], []

        def consume(message: IncomingMessage) -> None:
            runs.append(message.losses)
            entered.set()
            gate.wait(20)

        def room(share: Share) -> tuple[dict[str, int], int]:
            if entered.is_set() and not slept[0]:  # all at once, as after a SIGSTOP or a sleep of the machine
                slept[0] = 61.0
                layer.advance_time(61)
            return usual_room(share)

        usual_clock, usual_room = leases.clock, Share.room
        monkeypatch.setattr(leases, "clock", lambda: usual_clock() + slept[0])
        monkeypatch.setattr(Share, "room", room)
        send(layer)
        with Running(layer, route("work", consume, lease=60)):
            until(lambda: slept[0] and layer.stats()["work"].claimed)
            gate.set()
            until(lambda: not layer.stats())
        assert runs == [0]

    def test_three_losses_and_a_message_is_buried_instead_of_run(self, layer: DurableLayer) -> None:
        seen = Seen()
        send(layer)
        for _ in range(3):
            layer.renew(layer.claim("dying", {"work": 1}, 60.0).claims, 0.0)
        work(layer, route("work", seen))
        assert seen == [] and "It was lost 3 times" in dead_on(layer, "work")[0].error

    def test_two_losses_are_run(self, layer: DurableLayer) -> None:
        seen = Seen()
        send(layer)
        for _ in range(2):
            layer.renew(layer.claim("dying", {"work": 1}, 60.0).claims, 0.0)
        work(layer, route("work", seen))
        assert [m.losses for m in seen] == [2]

    @pytest.mark.parametrize(("losses", "sizes"), [(2, [2]), (3, [1, 1])], ids=["half of them", "more"])
    def test_a_route_that_bears_losses_runs_them_in_a_batch_until_half_of_them(
        self, layer: DurableLayer, losses: int, sizes: list[int]
    ) -> None:
        batches: list[int] = []
        send(layer)
        send(layer)
        for _ in range(losses):
            layer.renew(layer.claim("dying", {"work": 2}, 60.0).claims, 0.0)
        work(layer, route("work", lambda messages: batches.append(len(messages)), batch=10, losses=4))
        assert batches == sizes and not layer.stats()

    def test_a_route_that_bears_losses_buries_after_as_many(self, layer: DurableLayer) -> None:
        send(layer)
        for _ in range(4):
            layer.renew(layer.claim("dying", {"work": 1}, 60.0).claims, 0.0)
        work(layer, route("work", lambda message: None, losses=4))
        assert "It was lost 4 times" in dead_on(layer, "work")[0].error


class TestStopping:
    def test_stop_waits_for_what_runs(self, layer: DurableLayer) -> None:
        entered, done = threading.Event(), []

        def consume(message: IncomingMessage) -> None:
            entered.set()
            time.sleep(0.2)
            done.append(message.id)

        send(layer, n=30)
        with Running(layer, route("work", consume, concurrency=2)):
            entered.wait(20)
        stats = layer.stats()["work"]
        assert stats.claimed == 0 and stats.ready == 30 - len(done) and done
        assert {m.attempt for m in waiting_on(layer, "work")} == {0}

    def test_at_the_deadline_the_rest_is_released(self, layer: DurableLayer) -> None:
        entered, gate = threading.Event(), threading.Event()

        def consume(message: IncomingMessage) -> None:
            entered.set()
            gate.wait(20)

        send(layer)
        running = Running(layer, route("work", consume, lease=60))
        with running as worker:
            entered.wait(20)
            worker.stop(0.1)
            running.thread.join(20)
        gate.set()
        [message] = waiting_on(layer, "work")
        assert (message.attempt, message.losses) == (0, 0) and worker.should_recycle

    def test_all_that_is_released_at_the_deadline_is_one_step(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The supervisor kills a worker that takes long for it, and what it still holds would count as lost."""
        entered, gate, steps = threading.Event(), threading.Event(), []

        def consume(messages: list[IncomingMessage]) -> None:
            entered.set()
            gate.wait(20)

        def release(claims: Sequence[Message], delay: float = 0.0) -> list[Message]:
            steps.append(len(claims))
            return usual(claims, delay)

        usual = layer.release
        monkeypatch.setattr(layer, "release", release)
        send(layer, n=100)
        running = Running(layer, route("work", consume, lease=60, batch=100, concurrency=1))
        with running as worker:
            entered.wait(20)
            worker.stop(0.1)
            running.thread.join(20)
        gate.set()
        assert steps == [100]
        assert {(m.attempt, m.losses) for m in waiting_on(layer, "work")} == {(0, 0)}

    def test_a_claim_it_was_started_for_is_given_back_when_it_is_stopped_before_it_began(
        self, layer: DurableLayer
    ) -> None:
        seen = Seen()
        send(layer)
        claims = layer.claim("asked", {"work": 1}, 60.0).claims
        worker = Worker(layer, Routing([route("work", seen)]), preclaimed=claims)
        worker.stop()
        worker.run()
        [message] = waiting_on(layer, "work")
        assert seen == [] and (message.attempt, message.losses) == (0, 0)

    def test_heartbeats_while_it_lives_and_a_goodbye(self, layer: DurableLayer) -> None:
        with Running(layer, route("work", Seen()), worker_id="w1"):
            [info] = until(layer.workers)
            assert info.id == "w1" and info.info["pid"] == os.getpid() and info.info["channels"] == ["work"]
        assert layer.workers() == []


class TestOutages:
    @pytest.mark.parametrize(
        "error", [LayerUnavailable("down"), OperationalError("gone"), ConnectionResetError("reset")]
    )
    def test_an_unreachable_layer_is_waited_for_and_nothing_is_lost(
        self,
        layer: DurableLayer,
        error: Exception,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The layer fails at any verb, many times."""
        caplog.set_level(logging.ERROR, "mailrail")
        chance = random.Random(seed := random.randrange(10**6))
        print(f"seed: {seed}")

        failed: list[Any] = []

        def failing(verb: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                if not failed or chance.random() < 0.1:
                    failed.append(verb)
                    raise error
                return verb(*args, **kwargs)

            return call

        def consume(message: IncomingMessage) -> None:
            seen(message)
            if message["n"] % 4 == 0 and message.attempt == 1:
                raise RuntimeError
            if message["n"] % 5 == 0:
                message.bury("no")

        seen = Seen()
        send(layer, n=50)
        for verb in ("claim", "retry", "bury", "poll", "finish", "take"):
            monkeypatch.setattr(layer, verb, failing(getattr(layer, verb)))
        work(layer, route("work", consume, backoff=0, lease=60, rate="1000/s"))
        monkeypatch.undo()
        runs = [m["n"] for m in seen]
        assert set(runs) == set(range(50))
        assert len(runs) == 50 + len([n for n in range(50) if n % 4 == 0])
        assert len(dead_on(layer, "work")) == 10
        stats = layer.stats()["work"]
        assert (stats.ready, stats.scheduled, stats.claimed) == (0, 0, 0)
        assert "trying again until it can" in caplog.text


class TestTelling:
    @pytest.fixture
    def events(self) -> Iterator[list[Any]]:
        events: list[Any] = []

        def receiver(signal: Any, sender: str, message: IncomingMessage, **facts: Any) -> None:
            name = {id(s): n for n, s in signals.items()}[id(signal)]
            facts.pop("duration", None)
            events.append((name, sender, message["n"], facts.get("outcome", "")))

        signals = {
            "started": message_started,
            "finished": message_finished,
            "retried": message_retried,
            "buried": message_buried,
            "discarded": message_discarded,
        }
        for signal in signals.values():
            signal.connect(receiver)
        yield events
        for signal in signals.values():
            signal.disconnect(receiver)

    def test_signals_tell_each_step(self, layer: DurableLayer, events: list[Any]) -> None:
        def consume(message: IncomingMessage) -> None:
            if message["n"] == 1:
                raise RuntimeError
            if message["n"] == 2:
                raise Discard

        send(layer, n=3)
        work(layer, route("work", consume, attempts=2, backoff=0, concurrency=1))
        assert [event for event in events if event[2] == 0] == [
            ("started", "work", 0, ""),
            ("finished", "work", 0, "finished"),
        ]
        assert [event for event in events if event[2] == 2] == [
            ("started", "work", 2, ""),
            ("discarded", "work", 2, ""),
            ("finished", "work", 2, "discarded"),
        ]
        assert [(name, outcome) for name, _, n, outcome in events if n == 1] == [
            ("started", ""), ("retried", ""), ("finished", "retried"),
            ("started", ""), ("buried", ""), ("finished", "buried"),
        ]  # fmt: skip

    def test_a_receiver_of_one_channel_hears_of_that_alone(self, layer: DurableLayer) -> None:
        senders: list[str] = []

        def receiver(sender: str, message: IncomingMessage, **facts: Any) -> None:
            assert sender == message.channel
            senders.append(sender)

        for signal in (message_started, message_finished):
            signal.connect(receiver, sender="work")
        try:
            send(layer, n=2)
            send(layer, n=2, channel="other")
            work(layer, route("work", Seen()), route("other", Seen()))
        finally:
            for signal in (message_started, message_finished):
                signal.disconnect(receiver, sender="work")
        assert senders == ["work"] * 4

    def test_a_receiver_that_raises_changes_nothing(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        def receiver(**kwargs: Any) -> None:
            raise RuntimeError("receiver")

        message_finished.connect(receiver)
        message_started.connect(receiver)
        send(layer, n=3)
        work(layer, route("work", Seen()))
        message_finished.disconnect(receiver)
        message_started.disconnect(receiver)
        assert layer.stats() == {} and "a receiver of a Mailrail signal, raised" in caplog.text

    @pytest.mark.parametrize("fault", ["exits", "is async", "uses the database"])
    @pytest.mark.parametrize("signal", [message_started, message_finished], ids=["started", "finished"])
    def test_no_receiver_keeps_an_async_consumer_from_running(
        self, layer: DurableLayer, signal: Any, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        events = []

        def exits(**kwargs: Any) -> None:
            events.append(kwargs)
            sys.exit(3)

        async def is_async(**kwargs: Any) -> None:
            events.append(kwargs)

        query = async_unsafe(dict)  # refuses as Django's own does

        def uses_the_database(**kwargs: Any) -> None:
            events.append(query(**kwargs))

        receiver = {"exits": exits, "is async": is_async, "uses the database": uses_the_database}[fault]

        async def consume(message: IncomingMessage) -> None:
            seen(message)

        seen = Seen()
        send(layer, n=2)
        signal.connect(receiver)
        try:
            work(layer, route("work", consume, attempts=1))
        finally:
            signal.disconnect(receiver)
        assert len(seen) == len(events) == 2 and layer.stats() == {}
        assert ("receiver of a Mailrail signal" in caplog.text) == (fault == "exits")

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_log_handler_that_raises_changes_nothing(self, layer: DurableLayer, is_async: bool) -> None:
        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("the log server is gone")

        def consume(message: IncomingMessage) -> None:
            seen(message)
            if message.attempt == 1:
                raise RuntimeError

        async def consume_async(message: IncomingMessage) -> None:
            consume(message)

        seen, handler, ours = Seen(), Broken(), logging.getLogger("mailrail.worker")
        ours.addHandler(handler)
        send(layer, n=3)
        try:
            work(layer, route("work", consume_async if is_async else consume, attempts=2, backoff=0))
        finally:
            ours.removeHandler(handler)
        assert len(seen) == 6 and layer.stats() == {}

    def test_one_structured_line_per_outcome(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        def consume(message: IncomingMessage) -> None:
            if message["n"] == 1:
                raise RuntimeError("boom")

        caplog.set_level(logging.INFO, "mailrail")
        good, bad = send(layer, n=2)
        work(layer, route("work", consume, attempts=2, backoff=0))
        lines = {r.getMessage().splitlines()[0].split(" seconds=")[0] for r in caplog.records}
        assert lines == {
            f"finished work {good.id} attempt=1",
            f"retried work {bad.id} attempt=1",
            f"buried work {bad.id} attempt=2",
        }
        [record] = [r for r in caplog.records if getattr(r, "outcome", "") == "finished"]
        assert (record.channel, record.message_id, record.attempt) == ("work", str(good.id), 1)  # type: ignore[attr-defined]
        assert record.duration >= 0  # type: ignore[attr-defined]

    def test_expired_messages_are_told(self, layer: DurableLayer, events: list[Any]) -> None:
        send(layer, lifetime=5)
        layer.advance_time(6)
        work(layer, route("work", Seen()))
        assert events == [("finished", "work", 0, "expired")]


def test_a_job_names_its_worker() -> None:
    assert Job().worker_id != Job().worker_id
    assert sys.version_info >= (3, 11)


@pytest.mark.django_db(transaction=True)
class TestOnTheDatabase:
    """What only the database layer has: rows that people edit, and consumers in transactions."""

    @pytest.fixture
    def layer(self) -> DurableLayer:
        from mailrail.layers import DatabaseChannelLayer

        return DatabaseChannelLayer()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ("content = '{'", "its content is not JSON"),
            ("content = '[1]'", "its content is not a JSON object"),
            ("headers = 'x'", "its headers is not JSON"),
            ("v = 99", "its format version is 99"),
            ("max_attempts = 'many'", "its row cannot be read"),
            ("priority = 'high'", "its row cannot be read"),
            ("expires = 'later'", "its row cannot be read"),
            ("attempt = 9e999", "its row cannot be read"),
            ("content = CAST(x'7b2261223a22ff227d' AS TEXT)", "its content is not JSON"),
        ],
    )
    def test_a_row_edited_by_hand_is_buried_with_the_reason_and_the_worker_goes_on(
        self, layer: DurableLayer, change: str, reason: str
    ) -> None:
        bad, *_ = send(layer, n=3)
        with connections["default"].cursor() as cursor:
            cursor.execute(f"UPDATE mailrail_message SET {change} WHERE id = %s", [bad.id.hex])
        seen = Seen()
        work(layer, route("work", seen))
        assert len(seen) == 2
        [dead] = dead_on(layer, "work")
        assert dead.message.id == bad.id and reason in dead.error

    @pytest.mark.parametrize("id", ["'nope'", "x'ff00'", "CAST(x'ff' AS TEXT)", "UPPER(id) || '-'"])
    def test_a_message_whose_id_was_edited_by_hand_gets_another_and_runs(
        self, layer: DurableLayer, id: str
    ) -> None:
        send(layer, n=3)
        with connections["default"].cursor() as cursor:
            cursor.execute(f"UPDATE mailrail_message SET id = {id} WHERE content = %s", ['{"n":0}'])
        assert len(layer.list_messages(["work"], 10)) == 3
        seen = Seen()
        work(layer, route("work", seen))
        assert sorted(message["n"] for message in seen) == [0, 1, 2] and layer.stats() == {}

    @pytest.mark.parametrize("change", ["due = 'x'", "due = x'00'", "lane = x'ff', lane_seq = 1"])
    def test_what_else_is_edited_by_hand_keeps_nobody_from_working(
        self, layer: DurableLayer, change: str
    ) -> None:
        send(layer, n=3)
        with connections["default"].cursor() as cursor:
            cursor.execute(f"UPDATE mailrail_message SET {change} WHERE content = %s", ['{"n":0}'])
        seen = Seen()
        work(layer, route("work", seen))
        assert {1, 2} <= {message["n"] for message in seen}
        assert layer.poll(["work"]) is None

    @pytest.mark.parametrize("text", ["caf\udce9", "a zero \0 byte"], ids=["surrogate", "zero"])
    def test_errors_are_kept_whatever_their_text(self, layer: DurableLayer, text: str) -> None:
        def consume(message: IncomingMessage) -> None:
            raise ValueError(text)

        send(layer)
        work(layer, route("work", consume, attempts=1))
        [dead] = dead_on(layer, "work")
        assert text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0") in dead.error

    def test_an_atomic_consumer_commits_its_writes_its_sends_and_its_end_together(
        self, layer: DurableLayer
    ) -> None:
        from django.contrib.auth.models import Group

        from mailrail import Channel

        def consume(message: IncomingMessage) -> None:
            Group.objects.create(name=f"{message['n']}-{message.attempt}")
            Channel("next").send({"attempt": message.attempt})
            if message.attempt == 1:
                raise RuntimeError

        send(layer)
        work(layer, route("work", consume, atomic=True, backoff=0))
        assert [g.name for g in Group.objects.all()] == ["0-2"]
        assert [m.content for m in waiting_on(layer, "next")] == [{"attempt": 2}]
        assert "work" not in layer.stats()

    def test_an_atomic_consumer_that_lost_its_claim_leaves_nothing(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from django.contrib.auth.models import Group

        begin, stolen = layer.atomic, []

        def begin_too_late() -> Any:
            layer.advance_time(61)
            stolen.extend(layer.claim("other", {"work": 1}, 60.0).claims)
            return begin()

        monkeypatch.setattr(layer, "atomic", begin_too_late)
        send(layer)
        work(layer, route("work", lambda message: Group.objects.create(name="x"), atomic=True, lease=60))
        assert not Group.objects.exists()
        assert "lost work" in caplog.text and layer.finish(stolen) == []

    @pytest.mark.parametrize("hang", ["asleep", "in a statement", "between rows"])
    def test_an_atomic_consumer_past_its_limit_lets_go_of_the_database(
        self, layer: DurableLayer, hang: str
    ) -> None:
        from django.contrib.auth.models import Group

        gate, runs = threading.Event(), []

        def consume(message: IncomingMessage) -> None:
            runs.append(message.attempt)
            Group.objects.create(name=str(message.attempt))
            if message.attempt == 1:
                hang_about(hang, gate)

        send(layer)
        begun = time.monotonic()
        work(layer, route("work", consume, atomic=True, timeout=0.2, attempts=2, backoff=0, lease=60))
        gate.set()
        assert time.monotonic() - begun < 5 and runs == [1, 2]
        assert [group.name for group in Group.objects.all()] == ["2"] and layer.stats() == {}

    @pytest.mark.parametrize("hang", ["asleep", "in a statement", "between rows"])
    def test_an_atomic_consumer_at_the_deadline_lets_go_of_the_database(
        self, layer: DurableLayer, hang: str
    ) -> None:
        from django.contrib.auth.models import Group

        entered, gate = threading.Event(), threading.Event()

        def consume(message: IncomingMessage) -> None:
            Group.objects.create(name="x")
            entered.set()
            hang_about(hang, gate)

        send(layer)
        running = Running(layer, route("work", consume, atomic=True, lease=60))
        with running as worker:
            assert entered.wait(20)
            begun = time.monotonic()
            worker.stop(0.1)
            running.thread.join(20)
        gate.set()
        [message] = waiting_on(layer, "work")
        assert time.monotonic() - begun < 5 and not Group.objects.exists()
        assert (message.attempt, message.losses) == (0, 0)

    def test_an_atomic_consumer_that_nobody_waits_for_undoes_nothing_of_the_next_one(
        self, layer: DurableLayer
    ) -> None:
        """Its thread and connection are the next one's by the time its limit is over."""
        from mailrail.worker.consume import ConsumerRun, run_in_thread

        send(layer, n=2)
        atomic = route("work", Seen(), atomic=True)
        claims = layer.claim("w", {"work": 2}, 60.0).claims
        first, second = (ConsumerRun(atomic, [IncomingMessage(claim, atomic)], {}) for claim in claims)
        run_in_thread(first, layer)
        with layer.atomic():
            first.abandon()
            assert layer.finish([second.messages[0].claim]) == []
        assert layer.stats() == {}

    def test_atomic_consumers_of_a_channel_run_one_at_a_time(self, layer: DurableLayer) -> None:
        """There is one writer: the others would wait for it, on the time of their limits and leases."""
        claimed = []

        def consume(message: IncomingMessage) -> None:
            claimed.append(layer.stats()["work"].claimed)

        send(layer, n=5)
        work(layer, route("work", consume, atomic=True, concurrency=4))
        assert claimed == [1] * 5

    def test_waiting_for_the_database_is_no_attempt_and_no_part_of_the_limit(
        self, layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin, begun = layer.atomic, []

        def begin_late() -> Any:
            begun.append(time.monotonic())
            if len(begun) == 1:
                raise OperationalError("database is locked")
            until(lambda: time.monotonic() > begun[1] + 0.5)
            return begin()

        seen = Seen()
        monkeypatch.setattr(layer, "atomic", begin_late)
        send(layer)
        consumer = route("work", seen, atomic=True, attempts=1, timeout=0.2, lease=60)
        work(layer, consumer)
        [message] = waiting_on(layer, "work")
        assert (message.attempt, seen) == (0, [])
        layer.advance_time(2)
        assert not work(layer, consumer).should_recycle
        assert [m.attempt for m in seen] == [1] and layer.stats() == {}

    def test_a_hook_that_raises_after_the_commit_changes_nothing(
        self, layer: DurableLayer, caplog: pytest.LogCaptureFixture
    ) -> None:
        from django.contrib.auth.models import Group
        from django.db import transaction

        def hook() -> None:
            raise RuntimeError("hook")

        def consume(message: IncomingMessage) -> None:
            Group.objects.create(name="x")
            transaction.on_commit(hook)

        send(layer)
        work(layer, route("work", consume, atomic=True))
        assert Group.objects.count() == 1 and layer.stats() == {}
        assert "one of its on_commit hooks raised" in caplog.text

    def test_a_commit_that_fails_leaves_the_message_to_be_run_again(self, layer: DurableLayer) -> None:
        from django.contrib.auth.models import Permission

        def consume(message: IncomingMessage) -> None:
            if message.attempt == 1:  # a deferred constraint: found out at the commit
                Permission.objects.create(name="x", codename="x", content_type_id=999_999)

        send(layer)
        work(layer, route("work", consume, atomic=True, backoff=0))
        assert not Permission.objects.filter(codename="x").exists() and layer.stats() == {}

    @pytest.mark.parametrize("say", ["retry", "bury"])
    def test_an_atomic_consumer_that_settles_otherwise_leaves_nothing(
        self, layer: DurableLayer, say: str
    ) -> None:
        from django.contrib.auth.models import Group

        def consume(message: IncomingMessage) -> None:
            Group.objects.create(name="x")
            message.retry(after=100) if say == "retry" else message.bury("no")

        send(layer)
        work(layer, route("work", consume, atomic=True))
        assert not Group.objects.exists()
        stats = layer.stats()["work"]
        assert (stats.scheduled, stats.dead) == ((1, 0) if say == "retry" else (0, 1))

    def test_a_transaction_left_open_does_not_reach_the_next_consumer(self, layer: DurableLayer) -> None:
        from django.db import transaction

        open_at_start = []

        def consume(message: IncomingMessage) -> None:
            open_at_start.append(connections["default"].in_atomic_block)
            if message["n"] == 0:
                transaction.atomic().__enter__()

        send(layer, n=3)
        work(layer, route("work", consume), threads=1)
        assert open_at_start == [False] * 3 and layer.stats() == {}

    def test_connections_are_kept_between_consumers(self, layer: DurableLayer) -> None:
        from django.contrib.auth.models import Group

        used = []

        def consume(message: IncomingMessage) -> None:
            Group.objects.count()
            used.append(id(connections["default"].connection))

        send(layer, n=20)
        work(layer, route("work", consume), threads=1)
        assert len(used) == 20 and len(set(used)) == 1


SEVERAL_LINES = "column b does not exist\nLINE 1: SELECT b FROM a\n               ^"


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_consumer_that_raises_is_told_by_class_and_first_line_and_its_error_is_kept(
    layer: DurableLayer, caplog: pytest.LogCaptureFixture, level: str
) -> None:
    """The traceback is in the log under DEBUG, and at the last attempt."""

    def fail(message: IncomingMessage) -> None:
        raise ValueError(SEVERAL_LINES)

    caplog.set_level(level, "mailrail.worker")
    [message] = send(layer)
    work(layer, route("work", fail, attempts=2, backoff=[3600.0]))
    waiting = get_one(layer, "work", message.id)
    assert waiting is not None and waiting.error.startswith("Traceback")
    assert waiting.error.rstrip().endswith(f"ValueError: {SEVERAL_LINES}")
    [retried] = [record for record in caplog.records if record.getMessage().startswith("retried")]
    if level == "DEBUG":
        assert (
            SEVERAL_LINES.replace("\n", "\n  ") in retried.getMessage()
            and "Traceback" in retried.getMessage()
        )
    else:
        assert retried.getMessage().endswith("because='ValueError: column b does not exist'")
    assert retried.error == waiting.error  # type: ignore[attr-defined]

    layer.advance_time(3600.0)
    work(layer, route("work", fail, attempts=2))
    [buried] = [record for record in caplog.records if record.getMessage().startswith("buried")]
    assert "\n  Traceback" in buried.getMessage(), "indented, as all lines but the first"
    assert SEVERAL_LINES.replace("\n", "\n  ") in buried.getMessage()
    assert get_one(layer, "work", message.id) is None


def test_a_content_that_a_filter_stumbles_over_stops_nobody_and_is_buried_in_the_end(
    layer: DurableLayer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does over a number of 5,000 digits, which Python turns into no text."""
    settings.MAILRAIL = {**settings.MAILRAIL, "ATTEMPTS": 2}
    match = Route.match

    def stumble(self: Route, content: Any) -> Any:
        if content["n"] == 0:
            raise ValueError("Exceeds the limit")
        return match(self, content)

    monkeypatch.setattr(Route, "match", stumble)
    seen = Seen()
    bad, good = send(layer, n=2)
    for _ in range(3):
        work(layer, route("work", seen, n=r"\d"))
        layer.advance_time(36_000.0)
    assert [message.id for message in seen] == [good.id]
    [dead] = dead_on(layer, "work")
    assert dead.message.id == bad.id and "ValueError" in dead.error and dead.message.attempt == 2


def test_a_layer_that_raises_what_nobody_foresaw_ends_no_worker(
    layer: DurableLayer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, faults = layer.claim, [KeyError("a bug"), TypeError("another")]

    def stumble(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return claim(*arguments)

    monkeypatch.setattr(layer, "claim", stumble)
    seen = Seen()
    send(layer, n=2)
    work(layer, route("work", seen))
    assert len(seen) == 2 and not faults
    [told] = [record for record in caplog.records if "cannot be used just now" in record.getMessage()]
    assert told.exc_info is not None
