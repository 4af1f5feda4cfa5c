"""People cancel tasks and run them again, on every layer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import connections, transaction

from mailrail import testing
from mailrail.cancelling import cancel_messages
from mailrail.layers import DurableLayer, get_layer
from mailrail.moments import seconds_between
from mailrail.routing import Routing
from mailrail.tasks import TaskRecord, acancel, attempts, cancel, control, watching
from mailrail.tasks.attempt import start_of
from mailrail.tasks.compat import InvalidTask, TaskResultDoesNotExist, task_backends
from mailrail.tasks.errors import TaskCancelled
from mailrail.testing.messages import send_deferred
from mailrail.worker import IncomingMessage, Worker

from . import defined
from .conftest import layer_settings

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    defined.ran.clear()


def using() -> str:
    backend: Any = task_backends["default"]
    return str(backend.database)


def run(result: Any) -> Any:
    testing.drain(raise_errors=False)
    result.refresh()
    return result


def run_status(result: Any) -> str:
    result.refresh()
    return str(result.status)


def last_error(result: Any) -> Any:
    return result.errors[-1].exception_class if result.errors else None


@pytest.mark.usefixtures("on_layer")
class TestCancelling:
    def test_a_task_that_waits_ends_at_once_and_so_does_its_message(
        self,
        ended: list[Any],
        caplog: pytest.LogCaptureFixture,
        django_capture_on_commit_callbacks: Any,
        on_layer: DurableLayer,
    ) -> None:
        result, other = defined.add.enqueue(1), defined.add.enqueue(2)
        send_deferred(on_layer)
        with caplog.at_level(logging.INFO, "mailrail.tasks"):
            with django_capture_on_commit_callbacks(using=using(), execute=True):
                assert cancel(result) and ended == []
            assert not cancel(result.id)  # it has ended
        result.refresh()
        assert (result.status, last_error(result), result.attempts) == ("FAILED", TaskCancelled, 0)
        assert result.finished_at and "before it could run" in result.errors[0].traceback
        [told] = ended
        assert (told.id, told.status, last_error(told)) == (result.id, "FAILED", TaskCancelled)
        assert [message.content["id"] for message in testing.sent("tasks.default")] == [other.id]
        assert f"task {result.id} of tests.tasks.defined.add was cancelled" in caplog.text
        assert run(other).status == "SUCCESSFUL" and defined.ran == [(2, 0)]

    def test_a_task_ends_whose_message_is_cancelled_behind_a_worker_that_stopped_over_it(
        self, on_layer: DurableLayer, ended: list[Any]
    ) -> None:
        result = defined.once_at_a_time.enqueue(1)
        testing.advance(0)
        [claim] = on_layer.claim("stops", {"tasks.default": 1}, 10.0).claims
        start = start_of(IncomingMessage(claim))
        assert start is not None and attempts.begin(start, using()) is not None
        on_layer.release([claim], 0.0)
        assert cancel_messages(on_layer, "tasks.default", [claim.id]) == [claim.id]
        result.refresh()
        assert (result.status, last_error(result)) == ("FAILED", TaskCancelled)
        assert defined.once_at_a_time.enqueue(1).id != result.id

    def test_what_was_cancelled_is_kept_for_its_own_time(self) -> None:
        result = defined.add.using(retention=60).enqueue(1)
        assert cancel(result)
        record = TaskRecord.objects.using(using()).get(pk=result.id)
        assert record.kept_until is not None and record.finished_at is not None
        assert 59 < seconds_between(record.finished_at, record.kept_until) < 90

    @pytest.mark.parametrize("what", ["raise", "come again"])
    def test_a_task_that_waits_for_its_next_attempt_ends_with_the_errors_it_had(self, what: str) -> None:
        result = run(defined.try_thrice.enqueue(what))
        assert result.status == "READY" and async_to_sync(acancel)(result.id)
        testing.advance(200)
        run(result)
        assert (result.status, last_error(result)) == ("FAILED", TaskCancelled)
        assert len(result.errors) == (2 if what == "raise" else 1)

    @pytest.mark.parametrize(
        ("what", "traceback"),
        [("value", "has stopped"), ("raise", "Broken: boom"), ("come again", "has stopped")],
    )
    def test_a_task_that_was_told_ends_as_cancelled_whatever_it_does(
        self, what: str, traceback: str, ended: list[Any]
    ) -> None:
        result = run(defined.cancel_itself.enqueue(what))
        assert defined.ran == [(True, False, False)]
        assert (result.status, last_error(result), len(result.errors)) == ("FAILED", TaskCancelled, 1)
        assert traceback in result.errors[0].traceback and len(ended) == 1
        assert result.task.get_result(result.id).status == "FAILED"

    def test_a_cancelled_task_that_is_interrupted_has_ended_and_receivers_hear_it(
        self, ended: list[Any]
    ) -> None:
        result = defined.cancel_itself.enqueue("interrupt", looks=False)
        with pytest.raises(KeyboardInterrupt):
            testing.drain(raise_errors=False)
        result.refresh()
        assert (result.status, len(ended)) == ("FAILED", 1)

    @pytest.mark.parametrize(
        ("what", "status", "kind"),
        [
            ("value", "SUCCESSFUL", None),
            ("raise", "FAILED", TaskCancelled),
            ("come again", "FAILED", TaskCancelled),
        ],
    )
    def test_a_task_that_did_not_look_may_end_well_and_gets_no_other_attempt(
        self, what: str, status: str, kind: Any, ended: list[Any]
    ) -> None:
        result = run(defined.cancel_itself.enqueue(what, looks=False))
        assert (result.status, last_error(result), len(ended)) == (status, kind, 1)
        assert len(result.errors) == (0 if kind is None else 1)

    def test_a_running_task_is_cancelled_once_and_ends_although_its_worker_dies(
        self, on_layer: DurableLayer
    ) -> None:
        result = defined.add.enqueue(1)
        send_deferred(on_layer)
        assert on_layer.claim("dies", {"tasks.default": 1}, 10.0).claims
        records().filter(pk=result.id).update(status="RUNNING", token=1, fence=1.0)
        assert cancel(result) and cancel(result)  # it is not finished yet
        assert control.cancel_all([records().get().pk]).refused
        testing.advance(11)
        run(result)
        assert (result.status, last_error(result), defined.ran) == ("FAILED", TaskCancelled, [])

    def test_a_hard_cancel_needs_a_task_that_waits_or_runs_in_a_process_of_its_own(self) -> None:
        waiting, running = defined.add.enqueue(1), defined.add.enqueue(2)
        assert cancel(waiting, hard=True) and run_status(waiting) == "FAILED"
        record = records().filter(pk=running.id)
        record.update(status="RUNNING", token=1, fence=1.0)
        for hard_cancel in (cancel, async_to_sync(acancel)):
            with pytest.raises(
                InvalidTask, match=f"{running.id} is not cancelled: .* cancel it without hard"
            ):
                hard_cancel(running, hard=True)
        assert record.get().cancelled_at is None
        record.update(is_killable=True)
        assert cancel(running) and not record.get().is_cancelled_hard
        cancelled_at = record.get().cancelled_at
        assert control.cancel_all([record.get().pk], hard=True).done == [record.get().pk]
        assert (record.get().cancelled_at, record.get().is_cancelled_hard) == (cancelled_at, True)
        assert cancel(running, hard=True) and control.cancel_all([record.get().pk], hard=True).refused
        record.update(status="FAILED")
        control.retry_all([record.get().pk])
        assert not record.get().is_cancelled_hard

    def test_a_rolled_back_cancel_has_not_happened(self) -> None:
        result = defined.add.enqueue(1)
        with transaction.atomic(using()):
            cancel(result)
            transaction.set_rollback(True, using())
        assert run(result).status == "SUCCESSFUL"

    @pytest.mark.parametrize("id", [UNKNOWN, "nonsense", ""])
    def test_an_unknown_id_has_no_task(self, id: str) -> None:
        with pytest.raises(TaskResultDoesNotExist):
            cancel(id)

    def test_what_is_no_id_is_refused(self) -> None:
        with pytest.raises(TypeError, match="needs the result of a task, or its id, not 7"):
            cancel(7)  # type: ignore[arg-type]

    def test_who_cancels_the_message_of_a_task_cancels_the_task(
        self, on_layer: DurableLayer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result, other = defined.add.enqueue(1), defined.add.enqueue(2)
        send_deferred(on_layer)
        [message] = [m for m in testing.sent("tasks.default") if m.content["id"] == result.id]
        call_command("channels", "cancel", "tasks.default", str(message.id))
        result.refresh()
        assert (result.status, last_error(result)) == ("FAILED", TaskCancelled)
        assert run(other).status == "SUCCESSFUL"


@pytest.mark.usefixtures("on_layer")
class TestRunningAgain:
    def test_a_failed_task_runs_again_in_its_record_with_all_its_attempts(self) -> None:
        result = run(defined.retry_broken.enqueue("raise"))
        assert (result.status, result.attempts) == ("FAILED", 3)
        record = records().get()
        assert control.retry_all([record.pk]).done == [record.pk]
        again = defined.retry_broken.get_result(result.id)
        assert (again.status, again.finished_at, len(again.errors)) == ("READY", None, 3)
        assert control.retry_all([record.pk]).refused == {record.pk: "it waits to run already"}
        records().filter(pk=record.pk).update(args=["done"])
        run(result)
        assert (result.status, result.attempts, result.return_value) == ("SUCCESSFUL", 4, "done")
        assert control.retry_all([record.pk]).refused == {record.pk: "it was successful"}
        assert records().get().kept_until is not None

    def test_a_cancelled_task_and_an_expired_one_can_be_retried(self) -> None:
        cancelled, expired = defined.add.enqueue(1), defined.soon.enqueue()
        cancel(cancelled)
        testing.advance(61)
        run(expired)
        ids = list(records().values_list("pk", flat=True))
        assert sorted(control.retry_all(ids).done) == sorted(ids)
        run(cancelled)
        run(expired)
        assert (cancelled.status, expired.status) == ("SUCCESSFUL", "SUCCESSFUL")

    @pytest.mark.parametrize("task", [defined.in_lane, defined.add_async])
    def test_a_copy_is_a_task_of_its_own_with_the_same_arguments(self, task: Any) -> None:
        result = run(task.using(priority=7).enqueue(1, 2))
        first = records().get()
        changed = control.run_again_all([first.pk])
        [copy] = records().exclude(pk=first.pk)
        assert changed.done == [first.pk] and changed.copies == {first.pk: copy.pk}
        [message] = testing.sent("tasks.default")
        assert (message.priority, message.lane) == (7, first.lane or None)
        assert run(task.get_result(str(copy.pk))).status == "SUCCESSFUL" and len(defined.ran) == 2
        result.refresh()
        assert result.attempts == 1


def records() -> Any:
    return TaskRecord.objects.using(using())


# -- in a worker -------------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db(transaction=True)),
        pytest.param(
            "postgres", marks=pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
        ),
    ]
)
def committed(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    """A layer that a worker on another thread uses, too."""
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_running_tasks_are_told_by_one_query_for_all_of_a_process(
    committed: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = []

    def note(states: Any, using: str) -> None:
        states = list(states)
        queries.append((time.monotonic(), len(states)))
        refresh(states, using)

    refresh = watching.refresh
    monkeypatch.setattr(watching, "refresh", note)
    cancelled = [task.enqueue("cancelled") for task in (defined.watch, defined.watch_async)]
    lost = [task.enqueue("lost") for task in (defined.watch, defined.watch_async)]
    stopping = [task.enqueue("stopping") for task in (defined.watch, defined.watch_async)]
    worker = Worker(committed, Routing.of_layer(), ["tasks.default"], threads=6)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: records().filter(status="RUNNING").count() == 6)
        for result in cancelled:
            assert cancel(result)
        records().filter(pk__in=[result.id for result in lost]).update(token=0)
        until(lambda: records().filter(status="FAILED").count() == 2)
        until(lambda: len(worker._lifecycle.loops[0].running) == 2)
    finally:
        worker.stop(20)
        thread.join(30)
    assert not thread.is_alive()
    for result in (*cancelled, *lost, *stopping):
        result.refresh()
    assert [last_error(result) for result in cancelled] == [TaskCancelled] * 2
    assert [(result.status, result.errors) for result in lost] == [("RUNNING", [])] * 2
    assert [(result.status, result.attempts) for result in stopping] == [("READY", 0)] * 2
    assert all(count > 1 for _, count in queries[:1])
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(queries)]
    assert all(gap >= watching.POLL_INTERVAL_S for gap in gaps)
    connections.close_all()
