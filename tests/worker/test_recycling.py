"""What makes a worker process ask to be replaced, in one process."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mailrail.layers import InMemoryChannelLayer
from mailrail.messages import Message
from mailrail.routing import Routing, route
from mailrail.worker import Worker, recycling
from mailrail.worker.recycling import RecyclingLimits, resident


def test_without_limits_nothing_wears_out() -> None:
    unlimited = RecyclingLimits()
    unlimited.count(10**9)
    assert unlimited.reason() is None and unlimited.left == float("inf")


def test_limits_differ_by_a_tenth_so_that_processes_do_not_end_together() -> None:
    lefts = {RecyclingLimits(max_messages=1000).left for _ in range(200)}
    assert len(lefts) > 20 and min(lefts) >= 900 and max(lefts) <= 1000


def test_one_message_is_one_message() -> None:
    assert {RecyclingLimits(max_messages=1).left for _ in range(50)} == {1}


def test_memory_is_what_the_system_says_of_this_process() -> None:
    before = resident()
    ballast = b"x" * 100 * 1024**2
    assert 90 * 1024**2 < resident() - before < 120 * 1024**2, len(ballast)


def test_memory_is_the_most_it_ever_had_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    now = resident()
    monkeypatch.setattr(recycling, "_STATM", tmp_path / "missing")
    assert resident() >= now * 0.9


def test_memory_counts_from_the_first_message_on() -> None:
    tight = RecyclingLimits(max_memory=1)
    assert tight.reason() is None
    tight.count(1)
    assert "of memory; its limit is 0M" in (tight.reason() or "")


def test_memory_is_looked_at_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(recycling, "resident", lambda: len(looks.append(0.0) or looks))  # type: ignore[func-returns-value]
    monkeypatch.setattr(recycling, "MEMORY_CHECK_INTERVAL_S", 3600.0)
    tight = RecyclingLimits(max_memory=10**9)
    for _ in range(100):
        tight.count(1)
        assert tight.reason() is None
    assert len(looks) == 1


def test_a_worn_out_worker_waits_for_its_consumer_longer_than_for_a_shutdown(settings: Any) -> None:
    settings.MAILRAIL = {"SHUTDOWN_TIMEOUT": 0}
    layer = InMemoryChannelLayer()
    layer.enqueue([Message("work", {}), Message("work", {})])
    gate, done = threading.Event(), []

    def consume(message: Any) -> None:
        gate.wait(20)
        done.append(message.losses)

    worker = Worker(layer, Routing([route("work", consume)]), recycling=RecyclingLimits(max_messages=1))
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and worker.should_recycle
    gate.set()
    thread.join(20)
    assert done == [0] and layer.stats()["work"].ready == 1 and layer.stats()["work"].claimed == 0
