"""A transaction of somebody else has locked a record on PostgreSQL: no other task waits for it, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from mailrail import testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.routing import Routing
from mailrail.tasks import TaskRecord, cancel, keys
from mailrail.worker import Worker

from . import defined
from .conftest import layer_settings

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture(autouse=True)
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    settings.CHANNEL_LAYERS = layer_settings("postgres", request)
    defined.ran.clear()
    yield get_layer()
    get_layer().stop_listening()
    connections["postgres"].close()


def drain_beside(seconds: float = 30.0) -> threading.Thread:
    """Run a worker until nothing is due, beside this thread's transaction, and return its thread once it has ended."""
    worker = Worker(get_layer(), Routing.of_layer(), drain=True, threads=4)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread


@pytest.mark.parametrize("how", ["cancel", "join"])
def test_others_run_while_a_transaction_has_locked_a_record_that_waits(how: str) -> None:
    first = defined.once.using(expires=600).enqueue(1)
    for number in range(5):
        (defined.add_async if number % 2 else defined.add).enqueue(number)
    with transaction.atomic("postgres"):
        if how == "cancel":
            cancel(first)
        else:
            assert defined.once.using(expires=700).enqueue(1).id == first.id
        drain_beside()
        assert sorted(defined.ran) == [(n, 0) for n in range(5)]
    testing.advance(2)
    testing.drain()
    assert (1 in defined.ran) == (how == "join")


@pytest.mark.parametrize("slow", [defined.add, defined.add_async])
def test_others_end_while_a_record_is_locked_whose_attempt_runs(
    slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = slow.enqueue(-1)
    others = [defined.do.enqueue("done") for _ in range(5)] + [defined.do_async.enqueue("done")]
    has_begun, is_locked = threading.Event(), threading.Event()

    class Gate(list[Any]):
        def append(self, item: Any) -> None:
            has_begun.set()
            assert is_locked.wait(30)

    monkeypatch.setattr(defined, "ran", Gate())
    worker = Worker(get_layer(), Routing.of_layer(), drain=True, threads=4)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    assert has_begun.wait(30)
    records = TaskRecord.objects.using("postgres")
    with transaction.atomic("postgres"):
        records.select_for_update().get(pk=locked.id)
        is_locked.set()
        unfinished = records.filter(pk__in=[other.id for other in others]).exclude(status="SUCCESSFUL")
        until(lambda: not unfinished.exists())
    thread.join(30)
    assert not thread.is_alive() and records.get(pk=locked.id).status == "SUCCESSFUL"


def test_a_twin_begins_after_the_commit_of_the_transaction_that_was_given_its_result() -> None:
    first = defined.once.enqueue(1)
    with transaction.atomic("postgres"):
        assert defined.once.enqueue(1).id == first.id
        drain_beside()
        assert defined.ran == []
    testing.advance(2)
    testing.drain()
    assert defined.ran == [1]


@pytest.mark.parametrize("options", [{}, {"expires": 900}])
def test_a_holder_that_begins_between_two_looks_is_not_joined(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = defined.once.using(expires=600).enqueue(1)
    holder, waits = TaskRecord.objects.using("postgres").filter(pk=first.id), keys._waits

    def begin_then_look(record: TaskRecord) -> bool:
        holder.update(started_at=timezone.now())
        return waits(record)

    monkeypatch.setattr(keys, "_waits", begin_then_look)
    assert defined.once.using(**options).enqueue(1).id != first.id


def until(condition: Any) -> None:
    has_waited, event = 0.0, threading.Event()
    while not condition():
        assert has_waited < 30, "it did not happen in time"
        event.wait(0.05)
        has_waited += 0.05
