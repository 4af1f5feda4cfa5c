"""Batches whose members end, and are added, at the same time, with transactions that others do not see."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone
from psycopg import IsolationLevel

from mailrail.layers import get_layer
from mailrail.tasks import Batch, BatchRecord, TaskRecord, attempts, batch, batch_ends, control
from mailrail.tasks.attempts import End, Start

from ..plans import buffers, forget_statistics, plan_of
from ..processes import Ledger, until, workers
from . import batched
from .conftest import layer_settings

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

MEMBERS, ROUNDS, ENDED = 4, 25, 3_000


@pytest.fixture(params=["sqlite", "postgres"])
def using(request: pytest.FixtureRequest, settings: Any) -> str:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    return str(get_layer().using)


def running(using: str, members: int, **options: Any) -> tuple[Batch, list[End]]:
    """Return a batch whose members have begun, and their ends."""
    with batch(**options) as made:
        ids = [batched.member.enqueue().id for _ in range(members)]
    starts = [Start(TaskRecord.objects.using(using).get(pk=id).pk, 0, 5, 1e9, "worker") for id in ids]
    assert all(attempts.begin_together(starts, using))
    now = timezone.now()
    return made, [End(start.id, 5, "SUCCESSFUL", [], 0, None, {}, "null", now, now) for start in starts]


def end(member: End, using: str) -> bool:
    """End a member by a statement of its own, as another process would."""
    return attempts._end(using, True, [member])[0]


@contextmanager
def other_threads(using: str) -> Iterator[Callable[..., Any]]:
    """Run functions on threads with connections of their own."""
    with ThreadPoolExecutor(MEMBERS) as threads:

        def call(function: Callable[..., Any], *args: Any) -> Any:
            try:
                return function(*args)
            finally:
                connections[using].close()

        yield lambda function, *args: threads.submit(call, function, *args)


def test_of_members_that_end_at_the_same_time_one_ends_the_batch_and_then_is_enqueued_once(
    using: str,
) -> None:
    together = threading.Barrier(MEMBERS)

    def end_together(ends: list[End]) -> None:
        for member in ends:
            together.wait()
            assert end(member, using)

    made = [running(using, MEMBERS, then=batched.then) for _ in range(ROUNDS)]
    with other_threads(using) as start:
        for done in [start(end_together, [ends[n] for _, ends in made]) for n in range(MEMBERS)]:
            done.result()
    assert all(each.record.finished_at for each, _ in made)
    assert TaskRecord.objects.using(using).filter(task__endswith="batched.then", held=0).count() == ROUNDS
    assert len(get_layer().list_messages(["tasks.default"], 1000)) == ROUNDS * (MEMBERS + 1)


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_a_member_whose_end_is_not_committed_keeps_the_batch_open_and_ends_it_with_its_commit(
    using: str,
) -> None:
    made, [first, last] = running(using, 2, then=batched.then)
    with other_threads(using) as start:
        with transaction.atomic(using):
            assert end(last, using)
            assert start(end, first, using).result()
            assert start(lambda: made.record.finished_at).result() is None
        assert start(lambda: made.record.finished_at).result() is not None


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_a_batch_does_not_end_while_somebody_adds_to_it_and_no_member_waits_for_that(using: str) -> None:
    made, [member] = running(using, 1, then=batched.then)
    with other_threads(using) as start, made.add():
        assert start(end, member, using).result()
        assert start(lambda: made.progress.done).result() == 1
        batched.member.enqueue()
    assert made.record.finished_at is None and made.progress.total == 2


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_transaction_that_sees_the_past_leaves_the_end_of_a_batch_to_its_commit(
    using: str, level: str
) -> None:
    (made, [member]), (other, [last]) = (running(using, 1, then=batched.then) for _ in range(2))
    with other_threads(using) as start, transaction.atomic(using):
        connections[using].cursor().execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert made.progress.running == 1  # takes the snapshot
        start(add_to, made).result()
        assert end(member, using) and end(last, using)
        with batch() as empty:
            pass
        assert empty.record.finished_at is not None
    assert made.record.finished_at is None and made.progress.ready == 1
    assert other.record.finished_at is not None


def add_to(made: Batch) -> None:
    with made.add():
        batched.member.enqueue()


def at_repeatable_read(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function on a thread whose connection begins transactions at that level."""
    connection = connections["postgres"]
    connection.ensure_connection()
    connection.connection.isolation_level = IsolationLevel.REPEATABLE_READ
    return function(*args)


def is_waiting(using: str) -> bool:
    """Tell whether somebody waits for a lock."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_whoever_adds_waits_for_a_change_of_the_batch_at_any_isolation_level(using: str) -> None:
    made, _ = running(using, 1)
    with other_threads(using) as start:
        with transaction.atomic(using):
            BatchRecord.objects.using(using).update(failed_at=timezone.now())
            done = start(at_repeatable_read, add_to, made)
            until(lambda: done.done() or is_waiting(using))
        done.result()
    assert made.progress.total == 2


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_a_look_that_has_waited_for_whoever_adds_sees_what_was_added_at_any_isolation_level(
    using: str,
) -> None:
    made, [member] = running(using, 1, then=batched.then)

    with other_threads(using) as start:
        with made.add():
            done = start(at_repeatable_read, end, member, using)
            until(lambda: done.done() or is_waiting(using))
            batched.member.enqueue()
        assert done.result()
    assert made.record.finished_at is None and made.progress.ready == 1


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_a_batch_does_not_end_if_somebody_retries_a_failed_member_in_that_moment(
    using: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, [failed, last] = running(using, 2, then=batched.then)
    assert end(replace(failed, status="FAILED"), using)
    count = batch_ends.counts_of
    with other_threads(using) as start:

        def retry_and_count(*args: Any) -> Any:
            assert start(control.retry_all, [failed.id]).result().done
            return count(*args)

        monkeypatch.setattr(batch_ends, "counts_of", retry_and_count)
        assert end(last, using)
    assert made.record.finished_at is None
    assert TaskRecord.objects.using(using).get(task__endswith="batched.then").held == 1


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
def test_a_batch_whose_last_member_ended_while_somebody_added_in_vain_ends_at_once(using: str) -> None:
    made, [member] = running(using, 1, then=batched.then)

    def add_in_vain(start: Callable[..., Any]) -> None:
        with made.add():
            assert start(end, member, using).result()
            assert start(lambda: made.record.finished_at).result() is None
            raise ZeroDivisionError

    with other_threads(using) as start, pytest.raises(ZeroDivisionError):
        add_in_vain(start)
    assert made.record.finished_at is not None


@pytest.mark.parametrize("using", ["postgres"], indirect=True)
@pytest.mark.parametrize("is_analyzed", [False, True], ids=["statistics of an empty table", "fresh"])
def test_a_look_reads_few_pages_however_many_members_have_ended(using: str, is_analyzed: bool) -> None:
    with connections[using].cursor() as cursor:
        forget_statistics(cursor, "mailrail_tasks_taskrecord", "mailrail_tasks_batchrecord")
        with batch() as made:
            for status, count in (("SUCCESSFUL", ENDED), ("RUNNING", MEMBERS)):
                rows = [TaskRecord(status=status, batch_id=made.id) for _ in range(count)]
                TaskRecord.objects.using(using).bulk_create(rows)
        TaskRecord.objects.using(using).bulk_create(TaskRecord() for _ in range(ENDED))
        if is_analyzed:
            cursor.execute("ANALYZE mailrail_tasks_taskrecord, mailrail_tasks_batchrecord")
        statement = batch_ends._statement(batch_ends._LOOK, "postgresql")
        nodes = plan_of(cursor, statement, {"ids": [made.id.hex]})
    assert buffers(nodes) < 40
    scanned = [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"]
    assert "mailrail_tasks_taskrecord" not in scanned


def test_atomic_members_that_add_others_at_the_same_time_wait_for_none_of_them(
    using: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their ends are committed with what they have added, and with their messages: so nothing else looks for them."""
    monkeypatch.setenv("MAILRAIL_TEST_LAYER", using if using == "postgres" else "default")
    with batch(then=batched.then, on_failure=batched.on_failure) as made:
        batched.member.enqueue("raise")
        for _ in range(2):
            batched.grow_all_or_nothing.enqueue(2)
    with workers(ledger, "tasks.default", "--threads", "8") as [worker]:
        until(lambda: made.record.finished_at is not None)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.log[-3000:]
    assert (made.progress.total, made.progress.successful, made.progress.failed) == (15, 14, 1)
    assert TaskRecord.objects.using(using).get(task__endswith="on_failure").held == 0
