"""A task starts no more often than its rate allows, whatever else is in its queue, on every layer."""

from __future__ import annotations

import copy
import pickle
from typing import Any
from uuid import UUID

import pytest
from django.test import override_settings

from mailrail import testing
from mailrail.layers import DurableLayer
from mailrail.tasks import control, enqueue_many, rates
from mailrail.tasks.compat import InvalidTask, task_backends
from mailrail.tasks.errors import TaskExpired

from . import defined

pytestmark = pytest.mark.usefixtures("on_layer")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    defined.ran.clear()
    rates.forget()


@pytest.mark.parametrize("task", [defined.rated, defined.rated_async])
@pytest.mark.parametrize("results", [True, False])
def test_a_task_over_its_rate_waits_without_an_attempt_and_others_pass_it(task: Any, results: bool) -> None:
    limited = enqueue_many(task.using(results=results), [((n,), {}) for n in range(7)])
    other = defined.add.enqueue(1)
    testing.drain()
    other.refresh()
    assert other.status == "SUCCESSFUL" and sorted(defined.ran, key=str) == [(1, 0), 0, 1]
    for waiting in testing.tasks(task):
        assert (waiting.status, waiting.attempts) == ("READY", 0)
    for seconds, count in ((4, 2), (6, 4), (10, 6), (10, 7), (10, 7)):
        testing.advance(seconds)
        testing.drain()
        assert len(defined.ran) == count + 1
    assert [n for n in defined.ran if n != (1, 0)] == list(range(7))
    if results:
        limited[6].refresh()
        assert (limited[6].status, limited[6].attempts) == ("SUCCESSFUL", 1)


def test_what_waits_for_its_rate_is_claimed_once_for_each_place_and_asks_the_bucket_once(
    on_layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    take = on_layer.take

    def note(*values: Any) -> Any:
        asked.append(values)
        return take(*values)

    monkeypatch.setattr(on_layer, "take", note)
    enqueue_many(defined.rated, [((n,), {}) for n in range(20)])
    assert len(testing.drain()) == 20 and len(asked) == 3 and len(defined.ran) == 2
    assert testing.drain() == []
    testing.advance(4)
    assert testing.drain() == []
    testing.advance(1)
    assert [ran.outcome for ran in testing.drain()] == ["finished"]


@pytest.mark.parametrize("task", [defined.rated, defined.rated_async])
def test_a_task_over_its_rate_fails_when_it_expires_and_takes_no_token(
    task: Any, on_layer: DurableLayer
) -> None:
    limited = task.using(rate="1/h", expires=10, key="a")
    task.using(rate="1/h").enqueue(1)
    testing.drain()
    expires = limited.enqueue(2)
    testing.drain()
    assert limited.enqueue(3).id == expires.id
    testing.advance(12)
    testing.drain()
    expires.refresh()
    assert expires.status == "FAILED" and expires.errors[0].exception_class is TaskExpired
    assert limited.enqueue(4).id != expires.id
    testing.drain()
    assert defined.ran == [1]


def test_a_task_without_a_token_always_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = rates.TaskRate("tasks.default", "a.b:1000/s")
    monkeypatch.setattr(limited, "_tokens", lambda item: False)
    assert limited.admit() > 0


def test_a_rate_is_of_a_task_in_all_queues_and_of_what_a_call_says() -> None:
    defined.rated.enqueue(1)
    defined.rated.using(queue_name="reports").enqueue(2)
    defined.rated.enqueue(3)
    defined.rated.using(rate="1/h").enqueue(4)
    defined.rated.using(rate="1 / h").enqueue(5)
    while testing.drain():
        pass
    assert sorted(defined.ran) == [1, 2, 4]


def test_a_task_that_is_not_to_run_leaves_its_token_to_the_next_one() -> None:
    results = enqueue_many(defined.rated.using(rate="1/h", expires=5), [((n,), {}) for n in range(3)])
    testing.advance(6)
    testing.drain()
    defined.rated.using(rate="1/h").enqueue(3)
    testing.drain()
    for result in results:
        result.refresh()
        assert (result.status, result.attempts) == ("FAILED", 0)
    assert defined.ran == [3]


def test_a_copy_of_a_task_has_its_rate() -> None:
    result = defined.rated.using(rate="1/h").enqueue(1)
    control.run_again_all([UUID(result.id)])
    testing.drain()
    assert defined.ran == [1]


def test_far_places_are_spread_over_the_last_half_hour_and_lines_end() -> None:
    defined.add.enqueue(1)
    rate = rates.known_rate("tasks.default", rates.rate_of("a.b", "1/h"))
    assert rate.admit() == 0
    waits = [rate.admit() for _ in range(100)]
    assert 3599 <= waits[0] <= 3600 and all(1800 <= wait <= 3600 for wait in waits) and len(set(waits)) > 50


@pytest.mark.parametrize("value", ["often", "0/m", 5, ""])
def test_what_is_no_rate_is_refused_when_the_task_is_defined(value: Any) -> None:
    with pytest.raises(InvalidTask, match='rate must look like "10/s", "100/m"'):
        defined.add.using(rate=value)
    options = {"TASKS": {"a.b": {"rate": value}}}
    with override_settings(
        TASKS={"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": options}}
    ):
        backend: Any = task_backends["default"]
        assert "['a.b']['rate'] must look like" in backend.check()[0].msg


def test_a_rate_can_be_in_settings_and_is_pickled() -> None:
    options = {"rate": "1/h", "TASKS": {"tests.tasks.defined.do": {"rate": "2/h"}}}
    with override_settings(
        TASKS={"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": options}}
    ):
        for n in range(3):
            defined.add.enqueue(n)
            defined.do.enqueue("x")
        assert [ran.outcome for ran in testing.drain()].count("finished") == 3
    task = defined.add.using(rate="5/m")
    assert pickle.loads(pickle.dumps(task)) == copy.deepcopy(task) == task  # noqa: S301 - it is our own
