"""A task with a key is enqueued once while it waits, or until it is finished, on every layer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connections, transaction
from django.test import override_settings

from mailrail import testing
from mailrail.layers import DurableLayer
from mailrail.moments import aware
from mailrail.tasks import ChannelBackend, TaskRecord, control, enqueue_many, running
from mailrail.tasks.compat import InvalidTask, task_backends, task_enqueued
from mailrail.tasks.errors import TaskLost
from mailrail.tasks.keys import HOLDER, _holder

from . import defined

pytestmark = pytest.mark.usefixtures("on_layer")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    defined.ran.clear()


@pytest.fixture
def enqueued() -> Iterator[list[str]]:
    """The ids of which receivers hear that they are enqueued."""
    heard: list[str] = []

    def note(task_result: Any, **facts: Any) -> None:
        heard.append(task_result.id)

    task_enqueued.connect(note, sender=ChannelBackend)
    yield heard
    task_enqueued.disconnect(note, sender=ChannelBackend)


def database() -> str:
    backend: Any = task_backends["default"]
    return str(backend.database)


def test_a_twin_of_a_waiting_task_is_that_task_until_it_begins(enqueued: list[str]) -> None:
    first = defined.once.enqueue(1)
    assert defined.once.enqueue(1, what="other").id == first.id
    others = [defined.once.enqueue(2), defined.once.enqueue(0), defined.once.enqueue(0)]
    elsewhere = [
        defined.add.using(key="number-1").enqueue(1),
        defined.once.using(queue_name="reports").enqueue(1),
    ]
    ids = [first.id, *(result.id for result in others + elsewhere)]
    assert enqueued == ids and len(set(ids)) == 6 == len(testing.tasks())
    testing.drain()
    assert sorted(defined.ran, key=str) == [(1, 0), 0, 0, 1, 1, 2]
    assert defined.once.enqueue(1).id not in ids


def test_a_task_that_waits_for_another_attempt_has_begun_and_so_has_no_key() -> None:
    first = defined.once.using(attempts=2, backoff=60).enqueue(1, "raise")
    testing.drain(raise_errors=False)
    first.refresh()
    assert (first.status, first.attempts) == ("READY", 1)
    assert defined.once.enqueue(1).id != first.id


def test_with_while_running_a_twin_of_a_running_or_retried_task_is_that_task() -> None:
    first = defined.once_at_a_time.enqueue(1, "twin")
    assert defined.once_at_a_time.enqueue(1).id == first.id
    testing.drain()
    first.refresh()
    assert first.return_value == [first.id, first.id] and testing.tasks() == []
    second = defined.once_at_a_time.enqueue(1, "raise")
    testing.drain(raise_errors=False)
    assert second.id != first.id and defined.once_at_a_time.enqueue(1).id == second.id
    testing.advance(60)
    testing.drain(raise_errors=False)
    second.refresh()
    assert second.status == "FAILED" and defined.once_at_a_time.enqueue(1).id != second.id


def test_a_cancelled_task_keeps_its_key_while_it_still_runs_as_two_would_run_otherwise() -> None:
    first = defined.once_at_a_time.enqueue(1, "cancelled")
    testing.drain()
    first.refresh()
    assert first.return_value == [first.id, first.id] and testing.tasks() == []
    assert defined.once_at_a_time.enqueue(1).id != first.id


def test_expiry_and_the_death_of_workers_free_a_key(on_layer: DurableLayer) -> None:
    expired = defined.once_at_a_time.using(expires=30).enqueue(1)
    testing.advance(31)
    testing.drain()
    dies = defined.once_at_a_time.enqueue(1)
    testing.advance(0)  # sends what waits for the test's transaction
    for _ in range(3):
        assert on_layer.claim("dies", {"tasks.default": 1}, 10.0).claims
        assert defined.once_at_a_time.enqueue(1).id == dies.id != expired.id
        testing.advance(11)
    testing.drain(raise_errors=False)
    dies.refresh()
    assert dies.errors[0].exception_class is TaskLost and defined.once_at_a_time.enqueue(1).id != dies.id


@pytest.mark.parametrize("task", [defined.once, defined.once_at_a_time])
def test_cancelling_frees_a_key_and_nobody_runs_a_task_again_beside_its_twin(task: Any) -> None:
    first = task.enqueue(1)
    assert control.cancel(first)
    second = task.enqueue(1)
    assert second.id != first.id
    for again in (control.retry_all, control.run_again_all):
        [reason] = again([UUID(first.id)]).refused.values()
        assert "another task with its key" in reason
    testing.drain()
    assert control.retry_all([UUID(first.id)]).done and task.enqueue(1).id == first.id
    testing.drain()
    [copied] = control.run_again_all([UUID(first.id)]).copies.values()
    assert task.enqueue(1).id == str(copied)
    testing.drain()
    assert defined.ran == [1, 1, 1]


def test_the_earlier_time_and_the_later_expiry_of_two_twins_hold(
    django_capture_on_commit_callbacks: Any,
) -> None:
    later = defined.once.using(run_after=timedelta(seconds=100), expires=200)
    first = later.enqueue(1)
    assert later.using(run_after=timedelta(seconds=150), expires=100).enqueue(1).id == first.id
    testing.advance(0)  # sends what waits for the test's transaction
    with django_capture_on_commit_callbacks(using=database(), execute=True):
        soon = later.using(run_after=timedelta(seconds=50), expires=300).enqueue(1)
    assert soon.id == first.id and soon.task.run_after < first.task.run_after
    testing.advance(49)
    assert testing.drain() == []
    testing.advance(2)
    testing.drain()
    assert defined.ran == [1]
    first = defined.once.using(expires=60, run_after=timedelta(seconds=50)).enqueue(1)
    assert defined.once.using(expires=600, run_after=timedelta(seconds=50)).enqueue(1).id == first.id
    testing.advance(70)
    testing.drain()
    assert defined.ran == [1, 1]


def test_an_expired_twin_that_is_joined_before_it_has_failed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    first = defined.once.using(expires=30).enqueue(1)
    testing.advance(31)
    real, joined = running.fail, list[str]()

    def join_first(record: Any, why: Exception, backend: Any) -> bool:
        joined.append(defined.once.using(expires=600).enqueue(1).id)
        return real(record, why, backend)

    monkeypatch.setattr(running, "fail", join_first)
    testing.drain()
    assert joined == [first.id] and defined.ran == [1]


def test_twins_among_the_calls_of_enqueue_many_are_one(enqueued: list[str]) -> None:
    waiting = defined.once.enqueue(3)
    results = enqueue_many(defined.once, [((n,), {}) for n in (1, 0, 3, 1, 2, 0)])
    assert [result.args[0] for result in results] == [1, 0, 3, 1, 2, 0]
    assert results[0].id == results[3].id and results[2].id == waiting.id and results[1].id != results[5].id
    assert enqueued == [waiting.id, *(results[n].id for n in (0, 1, 4, 5))]


def test_a_key_of_what_was_rolled_back_is_free() -> None:
    with transaction.atomic(database()):
        first = defined.once.enqueue(1)
        transaction.set_rollback(True, database())
    second = defined.once.enqueue(1)
    assert second.id != first.id and [result.id for result in testing.tasks()] == [second.id]


def test_without_results_the_message_has_the_key(on_layer: DurableLayer) -> None:
    defined.once_alone.enqueue(1)
    testing.advance(0)
    twins = [
        defined.once_alone.enqueue(1),
        *enqueue_many(defined.once_alone, [((1,), {}), ((1,), {}), ((2,), {})]),
    ]
    defined.add.using(results=False, key="number-1").enqueue(1)
    defined.once_alone.using(key="k" * 255).enqueue(3)
    testing.advance(0)
    assert len(testing.tasks()) == 4 and len({twin.id for twin in twins}) >= 2
    testing.drain()
    assert sorted(defined.ran, key=str) == [(1, 0), 1, 2, 3]


def test_a_lane_keeps_its_order_where_only_some_calls_have_a_key() -> None:
    calls: list[tuple[tuple[int], dict[str, Any]]] = [
        ((0,), {}),
        ((1,), {}),
        ((0,), {}),
        ((0,), {}),
        ((2,), {}),
        ((0,), {}),
    ]
    enqueue_many(defined.once_alone.using(lane="x"), calls)
    while testing.drain():
        pass
    assert defined.ran == [args[0] for args, _ in calls]


def test_a_holder_of_a_key_is_found_by_the_index_that_makes_it_unique() -> None:
    using = database()
    first = defined.once.enqueue(1)
    record = TaskRecord.objects.using(using).get(pk=first.id)
    with connections[using].cursor() as cursor:
        plan = "EXPLAIN"
        if connections[using].vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        else:
            plan = "EXPLAIN QUERY PLAN"
        cursor.execute(
            f"{plan} {HOLDER}", {"namespace": "", "queue": "default", "key": "a", "task": record.task}
        )
        assert "mailrail_tasks_key" in str(cursor.fetchall())
    assert _holder(record, using) == record


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"while_running": True}, "while_running=True needs a key"),
        (
            {"while_running": True, "key": "a", "results": False},
            "needs a record, which says that the task runs",
        ),
        ({"while_running": 1, "key": "a"}, "while_running must be True or False"),
        ({"key": 7}, "key must be a string"),
        ({"key": ""}, "key must be 1 to 255 printable characters"),
    ],
)
def test_what_cannot_be_is_refused_when_the_task_is_defined(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidTask, match=text):
        defined.add.using(**options)


def test_a_key_function_that_returns_no_key_is_refused_and_nothing_is_enqueued() -> None:
    with pytest.raises(TypeError, match="key must be a string, not 7"):
        defined.add.using(key=lambda a: 7).enqueue(1)
    assert testing.tasks() == []


def test_a_key_can_be_in_settings_and_is_pickled() -> None:
    options = {"TASKS": {"tests.tasks.defined.add": {"key": "sum", "while_running": True}}}
    with override_settings(
        TASKS={"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": options}}
    ):
        assert defined.add.enqueue(1).id == defined.add.enqueue(2).id
    task = defined.add.using(key="sum", while_running=True)
    assert pickle.loads(pickle.dumps(task)) == copy.deepcopy(task) == task  # noqa: S301 - it is our own


def test_run_after_and_expires_may_be_aware_without_use_tz(settings: Any) -> None:
    settings.USE_TZ = False
    soon, later = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (55, 60))
    first = defined.once.using(run_after=later, expires=later).enqueue(1)
    assert defined.once.using(run_after=soon, expires=soon).enqueue(1).id == first.id
    record = TaskRecord.objects.using(database()).get(pk=first.id)
    assert record.run_after is not None and record.expires_at is not None
    assert (aware(record.run_after), aware(record.expires_at)) == (soon, later)
