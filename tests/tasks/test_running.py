"""Tasks run as Django says, on every layer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.db import DataError, OperationalError
from django.utils import timezone

from mailrail import testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.reconciliation import reconcilers
from mailrail.tasks import ChannelBackend, ChannelResult, TaskRecord, attempts, cancel, enqueue_many, running
from mailrail.tasks import task as make_task
from mailrail.tasks.attempt import start_of
from mailrail.tasks.compat import (
    InvalidTask,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    task_backends,
    task_finished,
    task_started,
)
from mailrail.tasks.errors import TaskCancelled, TaskDiscarded, TaskExpired, TaskLost, TaskNotFound
from mailrail.worker import IncomingMessage

from . import defined

pytestmark = pytest.mark.usefixtures("on_layer")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    defined.ran.clear()


def run(result: ChannelResult) -> ChannelResult:
    """Run all that is due, and return the result as it is then."""
    testing.drain(raise_errors=False)
    result.refresh()
    return result


@pytest.mark.parametrize("task", [defined.add, defined.add_async])
def test_a_task_runs_and_its_result_can_be_read(task: Any) -> None:
    before = timezone.now()
    result = task.enqueue(1, b=2)
    assert UUID(result.id).version == 7 and len(result.id) < 64
    assert (result.status, result.args, result.kwargs, result.attempts) == ("READY", [1], {"b": 2}, 0)
    assert task.get_result(result.id) == result
    run(result)
    assert (result.status, result.return_value, result.errors) == ("SUCCESSFUL", 3, [])
    assert result.attempts == 1 and all(result.worker_ids)
    moments = [before, result.enqueued_at, result.started_at, result.finished_at, timezone.now()]
    assert moments == sorted(moments) and result.last_attempted_at == result.started_at
    assert task.get_result(result.id) == result


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("task", [defined.wrapped, defined.wrapped_async, defined.marked_async])
def test_decorated_functions_run_to_their_end(task: Any, results: bool) -> None:
    result = task.using(results=results).enqueue(7)
    [ran] = testing.drain()
    assert ran.outcome == "finished" and defined.ran == [7]
    if results:
        result.refresh()
        assert result.return_value == 7


@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("task", [defined.generator, defined.generator_async])
def test_a_generator_function_has_failed_as_its_body_does_not_run(
    task: Any, results: bool, ended: list[Any]
) -> None:
    task.using(results=results).enqueue(7)
    testing.drain(raise_errors=False)
    [error] = ended.pop().errors
    assert "generator: its body has not run" in error.traceback and defined.ran == []


def nested() -> Any:
    def function(a: int) -> int:
        return a

    return function


@pytest.mark.parametrize(
    "function",
    [
        *(nested(), any, defined.Holder, defined.Holder(), defined.Holder().method),
        *(partial(defined.add.func, 1), partial(defined.add_async.func, 1)),
    ],
)
def test_what_is_no_function_of_a_module_is_refused_as_django_refuses_it(function: Any) -> None:
    with pytest.raises(InvalidTask, match=r"^Task function must be defined at a module level"):
        make_task()(function)


@pytest.mark.parametrize("task", [defined.of_lambda, defined.of_static_method])
def test_what_no_worker_would_find_is_refused_when_it_is_enqueued(task: Any) -> None:
    with pytest.raises(InvalidTask, match="A worker would not find the task by its path"):
        task.enqueue(1)
    assert testing.drain() == []


@pytest.mark.parametrize("task", [defined.do, defined.do_async])
@pytest.mark.parametrize("what", ["raise", "exit", "unprintable"])
def test_whatever_a_task_raises_fails_it_after_its_only_attempt(task: Any, what: str) -> None:
    result = run(task.enqueue(what))
    assert (result.status, result.attempts) == ("FAILED", 1)
    [error] = result.errors
    assert error.exception_class is {"raise": defined.Broken, "exit": SystemExit}.get(
        what, defined.Unprintable
    )
    assert "defined.py" in error.traceback or what == "unprintable"


@pytest.mark.parametrize("task", [defined.do, defined.do_async])
def test_a_keyboard_interrupt_goes_up_and_is_no_failure_of_the_task(task: Any) -> None:
    result = task.enqueue("interrupt")
    with pytest.raises(KeyboardInterrupt):
        testing.drain(raise_errors=False)
    result.refresh()
    assert (result.status, result.errors, result.attempts) == ("READY", [], 1)
    assert len(testing.sent("tasks.default")) == 1


@pytest.mark.parametrize("task", [defined.do, defined.do_async])
@pytest.mark.parametrize(
    ("what", "kind"), [("lambda", TypeError), ("nan", ValueError), ("numbers as keys", TypeError)]
)
def test_a_return_value_that_is_no_json_fails_the_task_at_once(task: Any, what: str, kind: type) -> None:
    result = run(task.using(attempts=3).enqueue(what))
    assert (result.status, result.attempts) == ("FAILED", 1)
    assert result.errors[0].exception_class is kind and "the return value" in result.errors[0].traceback


def test_a_return_value_of_10_mib_is_kept() -> None:
    assert run(defined.do.enqueue("long")).return_value == "é" * (5 * 1024**2)


def test_text_that_databases_refuse_is_kept_in_arguments_and_return_values() -> None:
    result = run(defined.do.enqueue("odd text"))
    assert result.return_value == {"\0": "\ud800 \0"}
    assert run(defined.do.enqueue("\0\ud800")).return_value == "\0\ud800"


def test_a_long_traceback_is_cut_in_its_middle() -> None:
    [error] = run(defined.do.enqueue("long error")).errors
    assert len(error.traceback) <= 32 * 1024
    assert error.traceback.startswith("Traceback") and error.traceback.endswith("x\n")


def test_a_failing_task_waits_as_ready_is_tried_again_and_then_has_failed() -> None:
    result = defined.try_thrice.enqueue("raise")
    seen = []
    for wait in (0, 10, 20):
        testing.advance(wait)
        run(result)
        seen.append((result.status, result.attempts, len(result.errors), result.finished_at is None))
        run(result)  # not due
        assert result.attempts == seen[-1][1]
    assert seen == [("READY", 1, 1, True), ("READY", 2, 2, True), ("FAILED", 3, 3, False)]
    assert result.started_at < result.last_attempted_at


@pytest.mark.parametrize(
    ("task", "what", "status", "attempts", "kind"),
    [
        (defined.retry_broken, "raise", "FAILED", 3, defined.Broken),
        (defined.retry_broken, "hopeless", "FAILED", 1, defined.Hopeless),
        (defined.try_thrice, "hopeless", "FAILED", 1, TaskDiscarded),
        (defined.try_thrice, "discard", "FAILED", 1, TaskDiscarded),
        (defined.do, "discard", "FAILED", 1, TaskDiscarded),
        (defined.do, "retry", "FAILED", 1, None),
        (defined.retry_broken, "retry", "READY", 1, None),
        (defined.retry_broken, "busy", "FAILED", 3, defined.Busy),
    ],
)
def test_retry_on_discard_on_retry_and_discard_decide(
    task: Any, what: str, status: str, attempts: int, kind: type | None
) -> None:
    result = run(task.enqueue(what))
    assert (result.status, result.attempts) == (status, attempts)
    assert kind is None or result.errors[-1].exception_class is kind


@pytest.mark.parametrize("task", [defined.do, defined.do_async])
def test_a_task_that_asks_to_come_later_is_ready_and_has_used_no_attempt(
    task: Any, heard: list[tuple[Any, ...]], on_layer: DurableLayer
) -> None:
    result = task.enqueue("come again")
    for _ in range(2):
        [ran] = testing.drain()
        result.refresh()
        assert (ran.outcome, ran.error) == ("released", "the partner is closed")
        assert (result.status, result.attempts, result.errors) == ("READY", 0, [])
        again = task.get_result(result.id).task.run_after
        assert again - result.last_attempted_at == pytest.approx(
            timedelta(seconds=100), abs=timedelta(seconds=20)
        )
        assert not testing.drain()
        testing.advance(100)
    assert [kind for kind, *_ in heard] == ["started", "started"]
    records().filter(pk=result.id).update(args=["done"])
    run(result)
    assert (result.status, result.attempts) == ("SUCCESSFUL", 1)


@pytest.mark.parametrize("task", [defined.add, defined.add_async])
def test_a_task_whose_end_cannot_be_written_has_not_failed_and_runs_again(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> bool:
        raise OperationalError("the server is restarting")

    async def arefuse(*arguments: Any) -> bool:
        return refuse()

    result = task.enqueue(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(running, "DATABASE_TIMEOUT_S", 0.0)
        patch.setattr(attempts, "end", refuse)
        patch.setattr(attempts, "aend", arefuse)
        run(result)
    assert (result.status, result.errors) == ("RUNNING", [])
    testing.advance(60)
    assert run(result).status == "SUCCESSFUL" and result.return_value == 3


def test_an_interrupt_goes_up_also_if_it_cannot_be_written_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = defined.do.enqueue("interrupt")
    real, failures = attempts.end, list[Exception]([OperationalError("the server is restarting")])
    monkeypatch.setattr(running, "DATABASE_TIMEOUT_S", 0.0)
    monkeypatch.setattr(attempts, "end", partial(raise_first, failures, real))
    with pytest.raises(KeyboardInterrupt):
        testing.drain(raise_errors=False)
    result.refresh()
    assert (result.status, result.errors) == ("RUNNING", [])
    testing.advance(6)
    with pytest.raises(KeyboardInterrupt):
        testing.drain(raise_errors=False)
    result.refresh()
    assert (result.attempts, result.errors) == (2, [])


@pytest.mark.parametrize("task", [defined.add, defined.add_async])
def test_a_task_whose_value_the_database_refuses_has_failed(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, areal = attempts.end, attempts.aend
    failures: list[Exception] = [DataError("string too long to represent as jsonb string")]

    async def arefuse(*args: Any) -> bool:
        if failures:
            raise failures.pop()
        return await areal(*args)

    monkeypatch.setattr(attempts, "end", partial(raise_first, failures, real))
    monkeypatch.setattr(attempts, "aend", arefuse)
    result = run(task.using(attempts=3).enqueue(1, 2))
    assert (result.status, result.attempts, len(defined.ran)) == ("FAILED", 1, 1)
    assert result.errors[0].exception_class is DataError


def raise_first(failures: list[Exception], function: Callable[..., Any], *args: Any) -> Any:
    if failures:
        raise failures.pop()
    return function(*args)


def test_an_older_claim_neither_expires_nor_begins_a_task_that_a_later_one_runs(
    on_layer: DurableLayer,
) -> None:
    result = defined.soon.enqueue()
    testing.advance(0)
    [first] = on_layer.claim("slow", {"tasks.reports": 1}, 10.0).claims
    testing.advance(11)
    [second] = on_layer.claim("other", {"tasks.reports": 1}, 30.0).claims
    assert (start := start_of(IncomingMessage(second))) is not None
    assert attempts.begin(start, on_layer.using) is not None
    records().filter(pk=result.id).update(expires_at=timezone.now() - timedelta(seconds=1))
    running.run_task(IncomingMessage(first))
    result.refresh()
    assert (result.status, result.errors, result.attempts, defined.ran) == ("RUNNING", [], 1, [])


def test_the_newest_20_errors_are_kept() -> None:
    result = run(defined.retry_broken.using(attempts=25).enqueue("raise"))
    assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 25, 20)


def test_a_task_that_takes_its_context_knows_its_attempt() -> None:
    result = run(defined.look.enqueue())
    assert result.return_value == {"attempt": 2, "workers": 2, "status": "RUNNING"}


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_coroutine_past_its_time_limit_has_failed_and_may_be_tried_again(attempts: int) -> None:
    """The next attempt comes when its own backoff says. After the last one nothing is left that waits."""
    result = run(defined.hang_async.using(attempts=attempts, backoff=[70]).enqueue(""))
    assert result.errors[0].exception_class is TimeoutError and "0.2 seconds" in result.errors[0].traceback
    assert (result.status, result.attempts) == (["FAILED", "READY"][attempts - 1], 1)
    due_in = get_layer().poll(["tasks.default"])
    assert (due_in is None) if attempts == 1 else (60 < (due_in or 0) <= 70)
    testing.advance(71)
    run(result)
    assert (result.status, result.attempts) == (["FAILED", "SUCCESSFUL"][attempts - 1], attempts)


def test_a_task_says_how_far_it_is_and_its_next_attempt_goes_on_there() -> None:
    result = run(defined.count.enqueue("end"))
    progress = {"done": 4, "total": 5, "text": "number 4"}
    assert result.return_value == [3, progress, {"done": 4}]
    assert (result.progress, result.metadata) == (progress, {"done": 4, "last": "end"})
    assert run(defined.count_async.enqueue()).return_value == {"done": 1, "total": None, "text": ""}


def test_metadata_that_are_no_json_are_not_kept_and_the_task_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    result = defined.count.enqueue("end")
    monkeypatch.setattr(defined.count.func, "__defaults__", (object(),))
    records().filter(pk=result.id).update(args=[])
    run(result)
    assert result.status == "SUCCESSFUL" and result.metadata == {"done": 3}


def test_a_task_runs_not_before_its_time_and_higher_priorities_first() -> None:
    later = defined.add.using(run_after=timedelta(hours=1)).enqueue(9)
    for number, priority in enumerate((0, 50, -50, 100)):
        defined.add.using(priority=priority).enqueue(number)
    run(later)
    assert [a for a, _ in defined.ran] == [3, 1, 0, 2] and later.status == "READY"
    testing.advance(3600)
    assert run(later).return_value == 9


def test_tasks_of_a_lane_run_in_their_order() -> None:
    enqueue_many(defined.in_lane, [((n % 2, n), {}) for n in range(6)])
    assert {m.lane for m in testing.sent("tasks.default")} == {"customer-0", "customer-1"}
    testing.drain()
    for customer in (0, 1):
        numbers = [n for c, n in defined.ran if c == customer]
        assert numbers == sorted(numbers) and len(numbers) == 3


def test_a_task_whose_time_is_over_fails_and_does_not_run() -> None:
    result = defined.soon.enqueue()
    testing.advance(61)
    run(result)
    assert (result.status, result.attempts, defined.ran) == ("FAILED", 0, [])
    assert result.errors[0].exception_class is TaskExpired


def test_a_result_of_a_function_that_is_gone_can_be_read_and_its_task_cannot_be_enqueued() -> None:
    result = defined.add.enqueue(1)
    records().filter(pk=result.id).update(task="tests.tasks.defined.gone")
    testing.drain(raise_errors=False)
    found = task_backends["default"].get_result(result.id)
    assert (found.status, found.task.module_path) == ("FAILED", "tests.tasks.defined.gone")
    assert found.errors[0].exception_class is TaskNotFound
    with pytest.raises(Exception, match=r"gone is not there"):
        found.task.enqueue()
    with pytest.raises(ImportError, match=r"There is no task at 'tests\.tasks\.defined\.gone'"):
        found.task.call()


def test_a_task_has_no_results_of_other_tasks() -> None:
    result = defined.add.enqueue(1)
    with pytest.raises(TaskResultMismatch):
        defined.do.get_result(result.id)
    with pytest.raises(TaskResultMismatch):
        async_to_sync(defined.do.aget_result)(result.id)


def test_a_changed_signature_fails_the_attempt() -> None:
    result = run(defined.add.enqueue(1, 2, 3, c=4))
    assert result.status == "FAILED" and result.errors[0].exception_class is TypeError


@pytest.mark.parametrize(
    "id", ["", "123", "x" * 300, "\0", "{4f0c5a3e-7c43-7b6c-8f0e-3a8a3f1f6a55}", "4" * 32, 7, None]
)
def test_any_text_that_is_no_id_has_no_result(id: Any) -> None:
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result(id)


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, ...]]]:
    """What receivers that are connected to the backend's class hear."""
    found: list[tuple[Any, ...]] = []

    def started(task_result: Any, **kwargs: Any) -> None:
        found.append(("started", task_result.attempts, task_result.status, sys.exc_info()[0]))

    def finished(task_result: Any, **kwargs: Any) -> None:
        found.append(("finished", task_result.attempts, task_result.status, sys.exc_info()[0]))
        raise RuntimeError("a receiver of a worker's signal")

    for signal, function in ((task_started, started), (task_finished, finished)):
        signal.connect(function, sender=ChannelBackend)
    yield found
    for signal, function in ((task_started, started), (task_finished, finished)):
        signal.disconnect(function, sender=ChannelBackend)


@pytest.mark.parametrize("task", [defined.do, defined.do_async])
def test_signals_are_sent_for_each_attempt_and_once_at_the_end(
    task: Any, heard: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run(task.using(attempts=2, backoff=0).enqueue("raise"))
        run(task.enqueue("nothing"))
    assert heard == [
        ("started", 1, "RUNNING", None),
        ("started", 2, "RUNNING", None),
        ("finished", 2, "FAILED", defined.Broken),
        ("started", 1, "RUNNING", None),
        ("finished", 1, "SUCCESSFUL", None),
    ]
    [warning] = [r for r in caplog.records if r.name == "mailrail.tasks" and r.levelno == logging.WARNING]
    assert "attempt 1 of 2; again in 0.0 s" in warning.getMessage() and warning.exc_info
    [failed] = [r for r in caplog.records if r.name.startswith("django") and "FAILED" in r.getMessage()]
    assert failed.exc_info and failed.exc_info[0] is defined.Broken
    assert len([r for r in caplog.records if r.name == "django.dispatch"]) == 2


def test_a_message_that_was_lost_too_often_fails_its_task(on_layer: DurableLayer) -> None:
    result = defined.add.enqueue(1)
    testing.advance(0)  # sends what waits for the test's transaction
    for _ in range(3):  # workers that die over it
        assert on_layer.claim("dies", {"tasks.default": 1}, 10.0).claims
        testing.advance(11)
    run(result)
    assert (result.status, defined.ran) == ("FAILED", [])
    assert result.errors[0].exception_class is TaskLost and "3 times" in result.errors[0].traceback
    assert not on_layer.list_messages(["tasks.default"], 1, "dead")


def reconcile_now() -> None:
    for reconciler in reconcilers(get_layer()):
        if reconciler.channel == "tasks.*":
            reconciler.run(older_than=0)


def test_a_task_fails_whose_message_is_dead_although_nobody_said_so(on_layer: DurableLayer) -> None:
    result = defined.add.enqueue(1)
    testing.advance(0)
    [claim] = on_layer.claim("dies", {"tasks.default": 1}, 10.0).claims
    on_layer.bury(claim, "lost, by a worker that was killed before it could say so")
    testing.advance(1)
    reconcile_now()
    result.refresh()
    assert result.status == "FAILED" and "killed before" in result.errors[0].traceback
    assert not on_layer.list_messages(["tasks.default"], 1, "dead")


def test_a_message_that_was_lost_is_sent_again_with_its_priority_lane_and_time(
    on_layer: DurableLayer,
) -> None:
    soon = defined.in_lane.using(queue_name="reports", priority=7).enqueue(1, 2)
    later = defined.add.using(run_after=timedelta(hours=1)).enqueue(3)
    testing.advance(1)
    before = [message for name in ("reports", "default") for message in testing.sent(f"tasks.{name}")]
    for message in before:  # what a server does that loses its memory
        on_layer.cancel(message.channel, [message.id])
    for _ in range(2):
        reconcile_now()
        testing.advance(0)
    after = [message for name in ("reports", "default") for message in testing.sent(f"tasks.{name}")]
    facts = [
        [(m.channel, m.id, m.content, m.priority, m.lane) for m in messages] for messages in (before, after)
    ]
    assert facts[0] == facts[1] and len(after) == 2
    run(soon)
    later.refresh()
    assert (soon.status, later.status, later.attempts) == ("SUCCESSFUL", "READY", 0)
    testing.advance(3600)
    assert run(later).return_value == 3


def test_a_message_without_a_task_is_buried(on_layer: DurableLayer) -> None:
    from mailrail import Channel

    Channel("tasks.default").send({"id": "nothing"})
    [ran] = testing.drain(raise_errors=False)
    assert ran.outcome == "buried" and "names no task" in ran.error
    reconcile_now()
    [kept] = on_layer.list_messages(["tasks.default"], 9, "dead")
    on_layer.discard("tasks.default", [kept.id])


def test_a_dead_message_of_a_task_that_was_sent_again_since_is_forgotten(on_layer: DurableLayer) -> None:
    result = defined.add.enqueue(1)
    testing.advance(0)
    [claim] = on_layer.claim("dies", {"tasks.default": 1}, 10.0).claims
    on_layer.bury(claim, "lost")
    records().filter(pk=result.id).update(dispatch=1)
    import_module("mailrail.tasks.consumers").fail_dead()  # after the databases of tests are known
    assert not on_layer.list_messages(["tasks.default"], 9, "dead")
    assert records().get(pk=result.id).status == "READY"


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"discard_on": [TimeoutError]}, TaskDiscarded), ({"retry_on": [defined.Hopeless]}, TimeoutError)],
)
def test_options_decide_what_follows_a_time_limit(options: dict[str, Any], kind: type[Exception]) -> None:
    """The next one in its lane does not wait for a message that has nothing left to do."""
    task = defined.hang_async.using(attempts=3, timeout=0.02, lane="one", **options)
    first, second = task.enqueue(""), defined.add.using(lane="one").enqueue(1)
    run(first)
    second.refresh()
    assert (first.status, [error.exception_class for error in first.errors]) == ("FAILED", [kind])
    assert second.status == "SUCCESSFUL" and get_layer().poll(["tasks.default"]) is None


def test_at_a_time_limit_the_record_is_asked_for_the_backoff_or_the_message_comes_again_soon(
    on_layer: DurableLayer,
) -> None:
    """In another process the attempt is not in memory, and on an event loop the database cannot be asked."""
    defined.add.using(attempts=2, backoff=[70]).enqueue(1)
    testing.advance(0)
    [claim] = on_layer.claim("other", {"tasks.default": 1}, 10.0).claims
    message = IncomingMessage(claim)
    assert (start := start_of(message)) is not None and attempts.begin(start, on_layer.using)
    wait_after_timeout = import_module("mailrail.tasks.consumers").wait_after_timeout

    async def ask() -> float:
        wait: float = wait_after_timeout(message, TimeoutError())
        return wait

    assert wait_after_timeout(message, TimeoutError()) == 70
    assert async_to_sync(ask)() == 5


@pytest.mark.parametrize("attempts_left", [1, 2])
def test_a_time_limit_that_could_not_be_written_counts_as_an_attempt(
    attempts_left: int, monkeypatch: pytest.MonkeyPatch, heard: list[tuple[Any, ...]]
) -> None:
    result = defined.hang_async.using(attempts=attempts_left, backoff=[5]).enqueue("")
    with monkeypatch.context() as away:
        away.setattr(
            attempts, "end", partial(raise_first, [OperationalError("the server is away")], attempts.end)
        )
        run(result)
    assert (result.status, result.attempts, result.errors) == ("RUNNING", 1, [])
    testing.advance(6)
    run(result)
    assert (result.status, result.attempts) == (["FAILED", "SUCCESSFUL"][attempts_left - 1], attempts_left)
    assert [error.exception_class for error in result.errors] == [TimeoutError]
    assert [what[0] for what in heard if what[0] == "finished"] == ["finished"]


def test_a_task_that_is_cancelled_as_its_time_limit_ends_it_has_failed_as_cancelled(
    monkeypatch: pytest.MonkeyPatch, heard: list[tuple[Any, ...]]
) -> None:
    result, end = defined.hang_async.using(attempts=2).enqueue(""), attempts.end

    def cancel_first(*arguments: Any) -> bool:
        cancel(result)
        return end(*arguments)

    monkeypatch.setattr(attempts, "end", cancel_first)
    run(result)
    assert (result.status, result.attempts) == ("FAILED", 1)
    [error] = result.errors
    assert error.exception_class is TaskCancelled and "0.2 seconds" in error.traceback
    assert [what[0] for what in heard] == ["started", "finished"]


def test_a_task_that_has_begun_in_time_is_tried_again_after_its_expiry() -> None:
    result = run(defined.once_at_a_time.using(expires=30).enqueue(1, "raise"))
    testing.advance(61)
    run(result)
    assert result.attempts == 2 and TaskExpired not in [error.exception_class for error in result.errors]


def test_a_task_whose_record_is_deleted_or_done_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    deleted, done = defined.add.enqueue(1), defined.add.enqueue(2)
    records().filter(pk=deleted.id).delete()
    records().filter(pk=done.id).update(status="FAILED")
    assert [ran.outcome for ran in testing.drain()] == ["finished", "finished"]
    assert defined.ran == []
    [warning] = [record for record in caplog.records if record.name == "mailrail.tasks"]
    assert deleted.id in warning.getMessage() and "no record of it" in warning.getMessage()


def records() -> Any:
    backend: Any = task_backends["default"]
    return TaskRecord.objects.using(backend.database)
