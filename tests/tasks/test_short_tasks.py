"""Short tasks follow one another on a thread of a worker, and their ends are written together."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from django.db import DataError, OperationalError, connections, transaction
from django.utils import timezone

from mailrail.layers import get_layer
from mailrail.routing import Routing
from mailrail.tasks import ChannelBackend, TaskRecord, attempts, beginning
from mailrail.tasks.attempts import End
from mailrail.tasks.compat import task_finished, task_started
from mailrail.worker import IncomingMessage, Worker
from mailrail.worker.incoming import current_message

from ..processes import until
from . import defined
from .conftest import layer_settings

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])


@pytest.fixture(params=["sqlite", "postgres"], autouse=True)
def database(request: pytest.FixtureRequest, settings: Any) -> Iterator[str]:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    defined.ran.clear()
    yield "postgres" if request.param == "postgres" else "default"
    get_layer().stop_listening()
    connections["postgres"].close()


@pytest.fixture
def add_is_short() -> Iterator[None]:
    path = defined.add.module_path
    beginning.note_run(path, 0.0)
    beginning.note_telling(path, 0.0)
    yield
    beginning.note_run(path, 60.0)


class Finished:
    """Receives ``task_finished``, and notes who told it, on which thread, for which message, in which state."""

    def __init__(self, database: str) -> None:
        self.told: list[tuple[str, int, IncomingMessage | None, str]] = []
        self._records = TaskRecord.objects.using(database)

    def __call__(self, task_result: Any, **facts: Any) -> None:
        stored = self._records.get(pk=task_result.id).status
        self.told.append((task_result.id, threading.get_ident(), current_message.get(), stored))


@pytest.fixture
def finished(database: str) -> Iterator[Finished]:
    finished = Finished(database)
    task_finished.connect(finished, sender=ChannelBackend)
    yield finished
    task_finished.disconnect(finished, sender=ChannelBackend)


def worker_thread(threads: int) -> threading.Thread:
    worker = Worker(get_layer(), Routing.of_layer(), drain=True, threads=threads)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    return thread


@pytest.mark.usefixtures("add_is_short")
def test_each_is_told_where_it_ran_after_its_end_was_written(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Threads(list[Any]):
        def append(self, item: Any) -> None:
            super().append((item[0], threading.get_ident()))

    ran = Threads()
    monkeypatch.setattr(defined, "ran", ran)
    numbers = {defined.add.enqueue(n).id: n for n in range(20)}
    thread = worker_thread(4)
    thread.join(30)
    assert not thread.is_alive()
    threads = dict(ran)
    assert {id: ident for id, ident, *_ in finished.told} == {id: threads[n] for id, n in numbers.items()}
    assert {stored for *_, stored in finished.told} == {"SUCCESSFUL"}
    told_for = {
        id: str(UUID(message.content["id"])) for id, _, message, _ in finished.told if message is not None
    }
    assert told_for == {id: id for id in numbers}


@pytest.mark.usefixtures("add_is_short")
def test_tasks_are_not_short_if_who_is_told_of_their_end_takes_time(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beginning, "SHORT_TASK_S", 1e-9)  # so receivers take longer
    defined.add.enqueue(1)
    worker_thread(2).join(30)
    beginning.note_run(defined.add.module_path, 0.0)
    assert len(finished.told) == 1 and not beginning.is_short(defined.add.module_path)


@pytest.mark.usefixtures("add_is_short")
def test_a_task_that_is_suddenly_slow_keeps_no_other_from_ending(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    class Gate(list[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            if item == (3, 0):
                gate.wait(30)

    monkeypatch.setattr(defined, "ran", Gate())
    results = [defined.add.enqueue(n) for n in range(6)]
    thread = worker_thread(6)
    records = TaskRecord.objects.using(database)
    try:
        until(lambda: records.filter(status="SUCCESSFUL").count() == 5)
    finally:
        gate.set()
    thread.join(30)
    assert not thread.is_alive()
    assert [records.get(pk=result.id).status for result in results] == ["SUCCESSFUL"] * 6
    assert sorted(defined.ran) == [(n, 0) for n in range(6)]


@pytest.mark.usefixtures("add_is_short")
@pytest.mark.parametrize("error", [OperationalError("the server closed the connection"), DataError("no")])
def test_ends_that_could_not_be_written_together_are_written_alone(
    error: Exception, database: str, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(outcomes: Sequence[End], *rest: Any) -> list[bool | BaseException]:
        return [error for _ in outcomes]

    monkeypatch.setattr(attempts, "end_together", refuse)
    results = [defined.add.enqueue(n) for n in range(4)]
    worker_thread(4).join(30)
    records = TaskRecord.objects.using(database)
    assert [records.get(pk=result.id).status for result in results] == ["SUCCESSFUL"] * 4
    assert sorted(id for id, *_ in finished.told) == sorted(result.id for result in results)
    assert sorted(defined.ran) == [(n, 0) for n in range(4)] and get_layer().stats() == {}


@pytest.mark.usefixtures("add_is_short")
def test_one_whose_record_is_another_workers_changes_nothing(
    database: str, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(outcomes: Sequence[End], *rest: Any) -> list[bool | BaseException]:
        records.filter(pk=outcomes[0].id).update(token=-1)
        return end_together(outcomes, *rest)

    end_together, records = attempts.end_together, TaskRecord.objects.using(database)
    monkeypatch.setattr(attempts, "end_together", lose)
    defined.add.enqueue(1)
    worker_thread(2).join(30)
    assert [record.status for record in records.all()] == ["RUNNING"] and finished.told == []


@pytest.mark.usefixtures("add_is_short")
def test_others_end_while_the_record_of_one_is_locked(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if database == "default":
        pytest.skip("SQLite locks no records")
    has_begun, is_locked = threading.Event(), threading.Event()

    class Gate(list[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            if item == (-1, 0):
                has_begun.set()
                assert is_locked.wait(30)

    monkeypatch.setattr(defined, "ran", Gate())
    locked, records = defined.add.enqueue(-1), TaskRecord.objects.using(database)
    others = [defined.add.enqueue(n) for n in range(3)]
    thread = worker_thread(4)
    assert has_begun.wait(30)
    with transaction.atomic(database):
        records.select_for_update().get(pk=locked.id)
        is_locked.set()
        until(lambda: records.filter(pk__in=[o.id for o in others], status="SUCCESSFUL").count() == 3)
    thread.join(30)
    assert not thread.is_alive() and records.get(pk=locked.id).status == "SUCCESSFUL"
    assert sorted(defined.ran) == [(n, 0) for n in (-1, 0, 1, 2)]


@pytest.mark.usefixtures("add_is_short")
def test_a_transaction_that_a_receiver_leaves_open_is_closed_before_the_next_is_told(database: str) -> None:
    autocommit = list[bool]()

    def leave_open(**facts: Any) -> None:
        autocommit.append(connections[database].get_autocommit())
        connections[database].set_autocommit(False)

    for number in range(6):
        defined.add.enqueue(number)
    task_finished.connect(leave_open, sender=ChannelBackend)
    try:
        worker_thread(6).join(30)
    finally:
        task_finished.disconnect(leave_open, sender=ChannelBackend)
    assert autocommit == [True] * 6


@pytest.mark.usefixtures("add_is_short")
def test_receivers_of_the_beginning_and_the_end_of_a_task_meet_no_other_task_in_between() -> None:
    open_now, nested, is_open = threading.local(), list[str](), []

    def begin(*, task_result: Any, **facts: Any) -> None:
        is_open.append(task_result.id)
        if getattr(open_now, "id", None) is not None:
            nested.append(task_result.id)
        open_now.id = task_result.id

    def end(*, task_result: Any, **facts: Any) -> None:
        if open_now.id != task_result.id:
            nested.append(task_result.id)
        open_now.id = None

    for _ in range(8):
        defined.add.enqueue(1)
    task_started.connect(begin, sender=ChannelBackend)
    task_finished.connect(end, sender=ChannelBackend)
    try:
        worker_thread(8).join(30)
    finally:
        task_started.disconnect(begin, sender=ChannelBackend)
        task_finished.disconnect(end, sender=ChannelBackend)
    assert len(is_open) == 8 and nested == []


def test_the_time_counts_of_a_task_that_has_failed() -> None:
    beginning.note_run(defined.do.module_path, 0.0)
    defined.do.enqueue("raise")
    worker_thread(2).join(30)
    assert beginning._ran[defined.do.module_path] > 0.0


def test_of_two_attempts_of_a_task_that_end_together_one_is_written(database: str) -> None:
    """As where a process stood still, and has claimed again what it ran already."""
    result = defined.add.enqueue(1)
    records = TaskRecord.objects.using(database).filter(pk=result.id)
    records.update(status="RUNNING", token=2)
    ends = [
        End(UUID(result.id), token, "SUCCESSFUL", [], 0, None, {}, "1", timezone.now()) for token in (1, 2)
    ]
    assert attempts.end_together(ends, database, []) == [False, True]
    assert records.get().status == "SUCCESSFUL"
