"""Tasks with ``results=False`` are messages alone, on every layer."""

from __future__ import annotations

import copy
import logging
import pickle
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from mailrail import Channel, testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.tasks import ChannelBackend, TaskRecord, enqueue_many
from mailrail.tasks.compat import (
    InvalidTask,
    TaskResultDoesNotExist,
    task_backends,
    task_enqueued,
    task_started,
)
from mailrail.tasks.errors import TaskDiscarded, TaskLost, TaskNotFound
from mailrail.testing.messages import send_deferred

from . import defined

pytestmark = pytest.mark.usefixtures("on_layer")
both = pytest.mark.parametrize("task", [defined.send_alone, defined.send_alone_async])
ALONE = {"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": {"results": False}}}


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    defined.ran.clear()


def dead() -> list[Any]:
    layer = get_layer()
    page = layer.list_messages(["tasks.default"], 100, "dead")
    return layer.get("tasks.default", [summary.id for summary in page], dead=True)


@both
def test_a_task_without_results_runs_and_has_no_record(task: Any) -> None:
    result = task.using(priority=5).enqueue("a", number=7)
    assert (result.status, result.args, result.kwargs, result.attempts) == ("READY", ["a"], {"number": 7}, 0)
    [waiting] = testing.tasks(task)
    assert (waiting.id, waiting.args, waiting.task) == (result.id, ["a"], task.using(priority=5))
    assert testing.tasks(defined.add) == testing.tasks(task, queue="reports") == []
    [ran] = testing.drain()
    assert (ran.outcome, defined.ran, testing.tasks()) == ("finished", [("a", 7)], [])
    backend: Any = task_backends["default"]
    assert not TaskRecord.objects.using(backend.database).exists() and backend.supports_get_result
    for look in (lambda: task.get_result(result.id), result.refresh):
        with pytest.raises(TaskResultDoesNotExist):
            look()


@both
def test_receivers_of_signals_see_what_a_result_would_say(task: Any, ended: list[Any]) -> None:
    heard = []

    def note(signal: Any, sender: Any, task_result: Any, **facts: Any) -> None:
        heard.append((signal, sender, task_result.status, task_result.attempts))

    for signal in (task_enqueued, task_started):
        signal.connect(note)
    result = task.enqueue("x")
    testing.drain()
    for signal in (task_enqueued, task_started):
        signal.disconnect(note)
    assert heard == [
        (task_enqueued, ChannelBackend, "READY", 0),
        (task_started, ChannelBackend, "RUNNING", 1),
    ]
    [told] = ended
    assert (told.id, told.status, told.return_value) == (result.id, "SUCCESSFUL", "x")
    assert told.enqueued_at <= told.started_at <= told.finished_at and all(told.worker_ids)


@both
@pytest.mark.parametrize("listens", [True, False])
@pytest.mark.parametrize(("what", "kind"), [("raise", defined.Broken), ("exit", SystemExit)])
def test_a_task_that_fails_for_the_last_time_is_a_dead_message_that_can_run_again(
    task: Any, what: str, kind: type, listens: bool, request: pytest.FixtureRequest
) -> None:
    ended = request.getfixturevalue("ended") if listens else []
    task.using(attempts=2, backoff=[10]).enqueue(what)
    testing.drain(raise_errors=False)
    assert len(defined.ran) == 1 and not dead() and not ended
    testing.advance(10)
    testing.drain(raise_errors=False)
    [message] = dead()
    assert kind.__name__ in message.error and "defined.py" in message.error and len(defined.ran) == 2
    if listens:
        [told] = ended
        assert (told.status, told.attempts, told.errors[0].exception_class) == ("FAILED", 2, kind)
    assert get_layer().requeue("tasks.default", [message.id])
    testing.drain(raise_errors=False)
    assert len(defined.ran) == 3


@both
def test_what_discard_on_and_retry_on_name_decides(task: Any, ended: list[Any]) -> None:
    task.using(attempts=3, backoff=0, discard_on=[defined.Hopeless]).enqueue("hopeless")
    task.using(attempts=3).enqueue("discard")
    assert [ran.outcome for ran in testing.drain(raise_errors=False)] == ["discarded"] * 2 and not dead()
    assert [told.errors[0].exception_class for told in ended] == [TaskDiscarded] * 2
    task.using(attempts=3, retry_on=[defined.Hopeless]).enqueue("raise")
    [ran] = testing.drain(raise_errors=False)
    assert ran.outcome == "buried"
    task.using(attempts=3).enqueue("retry")
    testing.drain(raise_errors=False)
    assert 99 < (get_layer().poll(["tasks.default"]) or 0) <= 100


@pytest.mark.parametrize("task", [defined.send_alone, defined.do_async.using(results=False)])
def test_a_keyboard_interrupt_is_no_attempt(task: Any) -> None:
    task.enqueue("interrupt")
    with pytest.raises(KeyboardInterrupt):
        testing.drain(raise_errors=False)
    [message] = testing.sent("tasks.default")
    assert message.attempt == 0 and not dead()


@pytest.mark.parametrize("what", ["progress", "metadata", "save"])
def test_what_needs_a_record_says_so(what: str, ended: list[Any]) -> None:
    defined.look_alone.enqueue()
    testing.drain()
    assert defined.ran == [(1, [], 1)]
    defined.look_alone.using(attempts=1).enqueue(what)
    testing.drain(raise_errors=False)
    assert ended[-1].errors[0].exception_class is InvalidTask
    assert "look_alone needs a record, and the task has results=False. Leave" in dead()[0].error


def test_run_after_expires_and_lane_hold_as_with_results() -> None:
    defined.send_alone.using(run_after=timedelta(seconds=60), lane="a").enqueue("later")
    defined.send_alone.using(lane="a").enqueue("behind it")
    defined.send_alone.using(run_after=timedelta(seconds=60), expires=30).enqueue("never")
    testing.drain()
    assert defined.ran == []
    testing.advance(60)
    testing.drain()
    assert defined.ran == [("later", 0), ("behind it", 0)]


def test_a_time_limit_and_lost_processes_end_it_as_they_end_messages(
    ended: list[Any], on_layer: DurableLayer
) -> None:
    task = defined.hang_async.using(results=False, attempts=1)
    task.enqueue("")
    testing.drain(raise_errors=False)
    assert ended.pop().errors[0].exception_class is TimeoutError and "0.2 seconds" in dead()[0].error
    on_layer.discard("tasks.default", [message.id for message in dead()])
    defined.send_alone.enqueue("lost")
    send_deferred(on_layer)
    for _ in range(4):
        on_layer.claim("gone", {"tasks.default": 1}, 0.0)
    testing.drain(raise_errors=False)
    assert ended.pop().errors[0].exception_class is TaskLost and "lost" in dead()[0].error


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"discard_on": [TimeoutError]}, "discarded"),
        ({"retry_on": [defined.Hopeless]}, "buried"),
        ({"retry_on": [TimeoutError], "backoff": [70]}, "retried"),
    ],
)
def test_options_decide_what_follows_a_time_limit(
    options: dict[str, Any], outcome: str, ended: list[Any]
) -> None:
    defined.hang_async.using(results=False, attempts=3, timeout=0.02, **options).enqueue("")
    [ran] = testing.drain(raise_errors=False)
    assert ran.outcome == outcome and bool(dead()) == (outcome == "buried")
    if outcome == "retried":
        assert 60 < (get_layer().poll(["tasks.default"]) or 0) <= 70 and not ended
    else:
        kind = TaskDiscarded if outcome == "discarded" else TimeoutError
        assert ended.pop().errors[0].exception_class is kind and not ended


def test_dead_messages_without_records_are_kept_where_tasks_with_records_are_failed() -> None:
    Channel("tasks.default").send({"task": "tests.gone.task"}, attempts=1)
    testing.drain(raise_errors=False)
    [message] = dead()
    assert TaskNotFound.__name__ in message.error
    import_module("mailrail.tasks.consumers").fail_dead()  # after the databases of tests are known
    assert [message.id] == [message.id for message in dead()]


def test_all_calls_of_enqueue_many_are_sent_in_their_lanes_or_none() -> None:
    task = defined.in_lane.using(results=False)
    results = enqueue_many(task, [((n % 2, n), {}) for n in range(6)])
    assert [result.args for result in results] == [[n % 2, n] for n in range(6)]
    assert {result.id for result in testing.tasks()} == {result.id for result in results}
    testing.drain()
    assert [n for customer, n in defined.ran if customer == 0] == [0, 2, 4]
    with pytest.raises(TypeError, match="args"):
        enqueue_many(task, [((0, 1), {}), ((0, object()), {})])
    assert enqueue_many(task, []) == testing.tasks() == []


def test_rolled_back_means_never_enqueued() -> None:
    with transaction.atomic(get_layer().using):
        defined.send_alone.enqueue("x")
        transaction.set_rollback(True, get_layer().using)
    assert testing.tasks() == [] and not testing.drain()


@override_settings(TASKS=ALONE)
def test_an_alias_without_results_says_so_and_a_task_may_have_one_all_the_same() -> None:
    backend: Any = task_backends["default"]
    assert not backend.supports_get_result and backend.check() == []
    alone, recorded = defined.add.enqueue(1), defined.add.using(results=True).enqueue(2)
    testing.drain()
    recorded.refresh()
    assert recorded.return_value == 2
    with pytest.raises(TaskResultDoesNotExist):
        defined.add.get_result(alone.id)


@pytest.mark.parametrize("value", ["no", 0])
def test_results_must_be_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidTask, match=r"results must be True or False, not "):
        defined.add.using(results=value)
    options = {"TASKS": {"a.b": {"results": value}}, "results": value}
    with override_settings(TASKS={"default": {**ALONE["default"], "OPTIONS": options}}):
        backend: Any = task_backends["default"]
        assert len([error for error in backend.check() if "must be True or False" in error.msg]) == 2


def test_a_task_without_results_can_be_pickled_and_copied() -> None:
    task = defined.add.using(results=False)
    made = pickle.loads(pickle.dumps(task))  # noqa: S301 - it is our own
    assert made == copy.deepcopy(task) == task and made.results is False


@testing.eager_tasks()
@both
def test_eager_tasks_return_what_ended(task: Any) -> None:
    assert task.enqueue("x").return_value == "x"
    failed = task.enqueue("raise")
    assert failed.status == "FAILED" and failed.errors[0].exception_class is defined.Broken


def test_an_attempt_that_is_not_the_last_is_a_warning_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    defined.send_alone.using(attempts=2).enqueue("raise")
    with caplog.at_level(logging.WARNING, "mailrail.tasks"):
        testing.drain(raise_errors=False)
    [line] = [record for record in caplog.records if record.name == "mailrail.tasks"]
    assert line.exc_info and "attempt 1 of 2; again in" in line.message


@both
def test_a_task_that_asks_to_come_later_has_used_no_attempt(task: Any, ended: list[Any]) -> None:
    task.enqueue("come again")
    for _ in range(2):
        [ran] = testing.drain()
        assert (ran.outcome, ran.error) == ("released", "the partner is closed")
        assert not testing.drain()
        testing.advance(100)
    assert len(defined.ran) == 2 and not dead() and not ended
