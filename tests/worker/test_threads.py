"""Runs that are expected to be short: they follow one another on a thread, and are ended together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import pytest

from mailrail.layers import InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routing import route
from mailrail.worker import IncomingMessage, threads
from mailrail.worker.consume import ConsumerRun
from mailrail.worker.incoming import Ending, Remainder, current_message
from mailrail.worker.outcomes import OutcomeKind
from mailrail.worker.threads import SHORT_RUN_S, Threads


@dataclass
class Together(Ending):
    """An ending that notes with which others, and on which thread, it was carried out. ``answer``: what it calls."""

    message: IncomingMessage
    ended: list[tuple[list[Any], int]]
    answer: Any = None

    def end_all(self, endings: Sequence[Together]) -> Iterator[Remainder]:
        self.ended.append(([each.message["n"] for each in endings], threading.get_ident()))
        for each in endings:
            yield each.message, each.finish

    def finish(self) -> None:
        assert current_message.get() is self.message
        if isinstance(self.answer, Exception):
            raise self.answer
        if callable(self.answer):
            self.answer()


class Pool:
    """Threads whose consumer calls what a message holds, and leaves the end of its run for later if it may."""

    def __init__(self, size: int) -> None:
        self.threads = Threads(size, InMemoryChannelLayer())
        self.over: SimpleQueue[ConsumerRun] = SimpleQueue()
        self.ended: list[tuple[list[Any], int]] = []
        self.ran_on: dict[Any, int] = {}
        self._route = route("work", self._consume)

    def _consume(self, message: IncomingMessage) -> None:
        self.ran_on[message["n"]] = threading.get_ident()
        answer = message["do"]()
        if message.may_end_later:
            message.ending = Together(message, self.ended, answer)

    def submit(self, n: Any, do: Callable[[], Any] = lambda: None, *, is_short: bool = True) -> ConsumerRun:
        message = IncomingMessage(Message("work", {"n": n, "do": do}), self._route)
        message.is_short = is_short
        run = ConsumerRun(self._route, [message], {})
        self.threads.busy += 1
        self.threads.submit(run, self.over.put)
        return run

    def ends(self, count: int) -> list[Any]:
        return [self.over.get(timeout=30).messages[0]["n"] for _ in range(count)]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed in the test, so that what waits for it runs on."""
    gate = threading.Event()
    yield gate
    gate.set()


def begun(pool: Pool, gate: threading.Event) -> ConsumerRun:
    """Submit a short run that waits for the gate, and return it once it has begun."""
    has_begun = threading.Event()

    def wait() -> None:
        has_begun.set()
        gate.wait(30)

    run = pool.submit("first", wait)
    assert has_begun.wait(30)
    return run


def test_short_runs_end_together_on_the_thread_that_ran_them(gate: threading.Event) -> None:
    pool = Pool(1)
    begun(pool, gate)
    for number in (1, 2, 3):
        pool.submit(number)
    gate.set()
    assert pool.ends(4) == ["first", 1, 2, 3]
    assert pool.ended == [(["first", 1, 2, 3], pool.ran_on["first"])]
    assert set(pool.ran_on.values()) == {pool.ran_on["first"]}
    pool.threads.close()


def test_a_run_that_may_take_its_time_keeps_none_waiting_that_has_returned(gate: threading.Event) -> None:
    pool, may_end = Pool(1), threading.Event()
    begun(pool, gate)
    pool.submit("long", lambda: may_end.wait(30), is_short=False)
    gate.set()
    assert pool.ends(1) == ["first"]  # while the other one runs
    may_end.set()
    assert pool.ends(1) == ["long"]
    assert [numbers for numbers, _ in pool.ended] == [["first"]]
    pool.threads.close()


def test_what_waits_goes_on_beside_a_run_that_takes_longer_than_expected(gate: threading.Event) -> None:
    pool, is_stuck, all_wait = Pool(2), threading.Event(), threading.Event()

    def get_stuck() -> None:
        is_stuck.set()
        gate.wait(30)

    begun(pool, all_wait)
    pool.submit("stuck", get_stuck)
    pool.submit("behind")
    all_wait.set()
    assert is_stuck.wait(30)
    while pool.over.qsize() < 2:
        pool.threads.look()
    assert sorted(pool.ends(2)) == ["behind", "first"]
    assert pool.ran_on["stuck"] not in [thread for _, thread in pool.ended]
    gate.set()
    assert pool.ends(1) == ["stuck"]
    pool.threads.close()


def test_a_look_is_due_while_a_run_is_expected_to_be_short_and_once_it_is_not() -> None:
    pool, gate = Pool(1), threading.Event()
    run = begun(pool, gate)
    assert run.started_at is not None and run.message is not None
    look_at = pool.threads.next_look
    assert look_at([run]) in (run.started_at + SHORT_RUN_S, float("inf"))
    run.message.is_short = False
    assert look_at([run]) == float("inf") and look_at([]) == float("inf")
    gate.set()
    assert pool.ends(1) == ["first"]
    pool.threads.close()


def test_an_end_that_fails_is_the_failure_of_its_own_message(gate: threading.Event) -> None:
    pool = Pool(1)
    runs = [begun(pool, gate), pool.submit(1, lambda: ValueError("this one")), pool.submit(2)]
    gate.set()
    assert pool.ends(3) == ["first", 1, 2]
    outcomes = [run.messages[0].outcome for run in runs]
    kinds = [outcome and outcome.kind for outcome in outcomes]
    assert kinds == [OutcomeKind.FINISHED, OutcomeKind.RETRIED, OutcomeKind.FINISHED]
    assert outcomes[1] is not None and "this one" in outcomes[1].error
    pool.threads.close()


def test_no_run_is_left_if_what_ends_them_raises(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Together, endings: Sequence[Together]) -> Iterator[Remainder]:
        yield endings[0].message, endings[0].finish
        raise RuntimeError("broken")

    monkeypatch.setattr(Together, "end_all", refuse)
    pool = Pool(1)
    runs = [begun(pool, gate), pool.submit(1), pool.submit(2)]
    gate.set()
    assert pool.ends(3) == ["first", 1, 2]
    kinds = [run.messages[0].outcome and run.messages[0].outcome.kind for run in runs]
    assert kinds == [OutcomeKind.FINISHED, OutcomeKind.RETRIED, OutcomeKind.RETRIED]
    assert "failed to end runs" in caplog.text
    pool.threads.close()


def test_a_run_with_a_short_time_limit_is_ended_at_once(gate: threading.Event) -> None:
    pool = Pool(1)
    pool._route = route("work", pool._consume, timeout=0.5)
    begun(pool, gate)
    pool.submit(1)
    gate.set()
    assert pool.ends(2) == ["first", 1] and pool.ended == []
    pool.threads.close()


def test_what_is_left_for_one_keeps_none_of_the_others_from_ending(gate: threading.Event) -> None:
    """As when a receiver of a signal blocks, or a record is locked."""
    pool, may_begin, is_stuck = Pool(1), threading.Event(), [threading.Event(), threading.Event()]

    def get_stuck(number: int) -> Callable[[], None]:
        def wait() -> None:
            is_stuck[number].set()
            gate.wait(30)

        return wait

    runs = [begun(pool, may_begin)]
    runs += [pool.submit("stuck", lambda: get_stuck(0)), pool.submit("stuck, too", lambda: get_stuck(1))]
    runs += [pool.submit("behind")]
    may_begin.set()
    assert is_stuck[0].wait(30)
    now = time.monotonic()
    assert now < pool.threads.next_look(runs) <= time.monotonic() + SHORT_RUN_S
    while pool.over.qsize() < 2:
        pool.threads.look()
    assert is_stuck[1].is_set() and pool.ends(2) == ["first", "behind"]
    assert pool.threads.next_look(runs) == float("inf")  # nothing waits behind the others
    assert [numbers for numbers, _ in pool.ended] == [["first", "stuck", "stuck, too", "behind"]]
    gate.set()
    assert sorted(pool.ends(2)) == ["stuck", "stuck, too"]
    pool.threads.close()


def test_runs_that_wait_for_their_end_let_no_further_one_come_first(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "SHORT_RUN_S", 0.0)  # so each has waited long enough at once
    pool = Pool(1)
    begun(pool, gate)
    for number in (1, 2):
        pool.submit(number)
    gate.set()
    assert pool.ends(3) == ["first", 1, 2]
    assert [numbers for numbers, _ in pool.ended] == [["first"], [1], [2]]
    pool.threads.close()


def test_one_look_lets_all_go_on_that_wait_behind_a_run(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, are_stuck = Pool(5), [threading.Event() for _ in range(5)]

    def get_stuck(number: int) -> Callable[[], None]:
        def wait() -> None:
            are_stuck[number].set()
            gate.wait(30)

        return wait

    pool.submit(0, get_stuck(0))
    assert are_stuck[0].wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(pool.threads, "_wake", lambda: None)  # as if they had come before the first one began
        for number in range(1, 5):
            pool.submit(number, get_stuck(number))
    monkeypatch.setattr(threads, "SHORT_RUN_S", 0.0)  # so it has taken longer than that
    pool.threads.look()
    assert all(is_stuck.wait(15) for is_stuck in are_stuck)
    gate.set()
    assert len(pool.ends(5)) == 5
    pool.threads.close()
