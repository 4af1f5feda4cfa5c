"""Tasks whose workers are killed, stopped and told to end: what records say is what happened."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connections
from django.db.models import Max, Min

from mailrail.layers import DurableLayer, get_layer
from mailrail.reconciliation import reconcilers
from mailrail.tasks import Batch, TaskRecord, batch, cancel, enqueue_many
from mailrail.tasks.compat import InvalidTask, task_backends
from mailrail.tasks.errors import TaskCancelled
from mailrail.tasks.models import TaskStep

from ..processes import Ledger, until, workers
from ..tasks import defined, stepped
from ..tasks.conftest import layer_settings
from .conftest import is_empty

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgres"])

THREADS = 4
STEP_ROUNDS = int(os.environ.get("MAILRAIL_TEST_STEP_ROUNDS", "1"))
"""Rounds of killed steps on each layer; ``make soak`` has more."""
BATCHES, MEMBERS = int(os.environ.get("MAILRAIL_FAULT_BATCHES", "3")), 100
KILLS = 3
KILL_ROUNDS = int(os.environ.get("MAILRAIL_TEST_KILL_ROUNDS", "1"))
"""Rounds of 1,000 tasks in the middle of which workers are killed, on each layer."""


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def layer(
    request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DurableLayer]:
    """The layer on which tasks are enqueued, here and in the workers that tests start."""
    if request.param == "redis":
        monkeypatch.setenv("MAILRAIL_TEST_REDIS_URL", request.getfixturevalue("valkey").url)
    monkeypatch.setenv("MAILRAIL_TEST_LAYER", {"sqlite": "default"}.get(request.param, request.param))
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()
    connections["postgres"].close()


def records() -> Any:
    backend: Any = task_backends["default"]
    return TaskRecord.objects.using(backend.database)


def statuses() -> Counter[str]:
    return Counter(records().values_list("status", flat=True))


def drain(layer: DurableLayer, ledger: Ledger, threads: str) -> None:
    """Run what is left of killed workers.

    A server may finish what one of them had asked for after its death: such a claim lapses later than the others.
    """
    for _ in range(KILLS):
        with workers(ledger, "tasks.default", "--drain", "--threads", threads) as [worker]:
            assert worker.wait() == 0, worker.log[-3000:]
        if is_empty(layer):
            return
        layer.advance_time(16)


@pytest.mark.parametrize("round", range(KILL_ROUNDS))
def test_kill_9_in_the_middle_of_1000_tasks_loses_none_and_leaves_none_running(
    layer: DurableLayer, ledger: Ledger, round: int
) -> None:
    """Every attempt that began is in ``worker_ids``, and each record says what became of its task."""
    calls: list[Any] = [(("raise",) if n % 10 == 0 else (), {}) for n in range(900)]
    results = enqueue_many(defined.note, calls) + enqueue_many(defined.note_async, [((), {})] * 100)
    for _ in range(KILLS):
        before = len(ledger.lines("ran"))
        with workers(ledger, "tasks.default", "--threads", str(THREADS), "--processes", "2") as [worker]:
            until(lambda before=before: len(ledger.lines("ran")) >= before + 80)  # type: ignore[misc]
            worker.kill_all()
        layer.advance_time(16)  # the leases of the dead lapse
    drain(layer, ledger, "16")
    assert statuses() == {"SUCCESSFUL": 1000}
    attempts = {str(pk): len(ids) for pk, ids in records().values_list("pk", "worker_ids")}
    began, ran = ledger.counts("began"), ledger.counts("ran")
    assert set(ran) == set(attempts) == {result.id for result in results}
    # An attempt may have been killed between its commit and its first line, never the other way round.
    assert {id for id in attempts if began[id] > attempts[id]} == set()
    in_flight = KILLS * 2 * (2 * THREADS + 8)
    assert 90 <= sum(attempts.values()) - 1000 <= 90 + in_flight
    assert not layer.list_messages(["tasks.default"], 1) and not layer.list_messages(
        ["tasks.default"], 1, "dead"
    )


def test_sigterm_lets_tasks_end_and_leaves_no_trace_of_those_that_did_not_start(
    layer: DurableLayer, ledger: Ledger
) -> None:
    enqueue_many(defined.note, [((), {})] * 300)
    with workers(ledger, "tasks.default", "--threads", str(THREADS)) as [worker]:
        until(lambda: len(ledger.lines("ran")) >= 20)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    ran = len(ledger.lines("ran"))
    assert 20 <= ran < 300 and statuses() == {"SUCCESSFUL": ran, "READY": 300 - ran}
    assert all(not ids for ids in records().filter(status="READY").values_list("worker_ids", flat=True))


def test_a_worker_stopped_past_its_lease_cannot_write_its_late_result(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    result = defined.note.enqueue(gate=str(gate))
    with workers(ledger, "tasks.default") as [first]:
        until(lambda: ledger.lines("began"))
        os.killpg(first.process.pid, signal.SIGSTOP)
        layer.advance_time(16)
        other = tmp_path / "other"
        other.mkdir()
        with workers(Ledger(other / "ledger"), "tasks.default") as [second]:
            until(lambda: records().get().last_attempted_at != records().get().started_at)
            gate.touch()
            until(lambda: records().get().status == "SUCCESSFUL")
            finished_at = records().get().finished_at
            os.killpg(first.process.pid, signal.SIGCONT)
            until(lambda: "this attempt changes nothing" in first.log)
            second.signal(signal.SIGTERM)
            assert second.wait() == 0
    result.refresh()
    assert (result.attempts, len(set(result.worker_ids)), result.finished_at) == (2, 2, finished_at)


def test_a_function_past_its_time_limit_has_failed_and_is_tried_again(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    result = defined.hang.using(backoff=[70]).enqueue(str(tmp_path / "gate"))
    other = defined.hang.using(attempts=1).enqueue(str(tmp_path / "gate"))
    with workers(ledger, "tasks.default", "--threads", "4") as [worker]:
        until(lambda: records().get(pk=other.id).status == "FAILED")
        until(lambda: records().get(pk=result.id).failures == 1)
        until(lambda: 50 < (layer.poll(["tasks.default"]) or 0) <= 70)
        layer.advance_time(70)
        until(lambda: records().get(pk=result.id).status == "SUCCESSFUL")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    result.refresh()
    assert (result.return_value, result.attempts) == (2, 2)
    assert result.errors[0].exception_class is TimeoutError


@pytest.mark.parametrize("layer", ["postgres"], indirect=True)
def test_a_key_is_held_past_kill_9_of_the_worker_until_the_task_has_ended(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    task = defined.note.using(key="once", while_running=True)
    first = task.enqueue(gate=str(gate))
    with workers(ledger, "tasks.default") as [worker]:
        until(lambda: ledger.lines("began"))
        worker.kill_all()
    assert task.enqueue().id == first.id
    layer.advance_time(16)  # the lease of the dead lapses
    gate.touch()
    with workers(ledger, "tasks.default", "--drain") as [worker]:
        assert worker.wait() == 0, worker.log[-3000:]
    first.refresh()
    assert (first.status, first.attempts) == ("SUCCESSFUL", 2) and task.enqueue().id != first.id


@pytest.mark.parametrize("layer", ["sqlite", "postgres"], indirect=True)
def test_isolated_tasks_that_are_killed_at_their_limit_or_die_have_failed_and_cost_no_other_an_attempt(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    never, gate = str(tmp_path / "never"), tmp_path / "gate"
    note: Any = defined.note.using(isolate=True)  # type: ignore[call-arg,unused-ignore]
    note_async: Any = defined.note_async.using(isolate=True)  # type: ignore[call-arg,unused-ignore]
    hang_async: Any = defined.hang_async.using(isolate=True, attempts=1)  # type: ignore[call-arg,unused-ignore]
    late = [note.using(timeout=0.5, attempts=1).enqueue("", never), hang_async.enqueue(never)]
    dead, well, alone = note.enqueue("die"), note_async.enqueue(), note.using(results=False).enqueue()
    beside, inside = note.enqueue("", str(gate)), defined.note.enqueue("", str(gate))
    with workers(ledger, "tasks.default", "--threads", "4") as [worker]:
        until(lambda: statuses()["FAILED"] == 3 and statuses()["SUCCESSFUL"] == 1)
        gate.touch()
        until(lambda: statuses()["SUCCESSFUL"] == 3 and ledger.counts("ran")[alone.id])
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    for result in (*late, dead, well, beside, inside):
        result.refresh()
    assert [(each.errors[0].exception_class_path, each.attempts) for each in late] == [
        ("builtins.TimeoutError", 1)
    ] * 2
    assert dead.errors[-1].exception_class_path == "mailrail.tasks.errors.TaskLost"
    assert dead.attempts == len(dead.worker_ids) == 3
    assert {each.attempts for each in (well, beside, inside)} == {1}
    pids = {line.id: line.pid for line in ledger.lines("began")}
    assert pids[inside.id] not in {pids[each.id] for each in (late[0], dead, well, alone, beside)}


@pytest.mark.parametrize("layer", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "hanging",
    [
        defined.write_and_hang,
        stepped.hang_in_an_atomic_step,
        stepped.hang_in_an_atomic_step_of_a_coroutine,
    ],
)
def test_an_atomic_task_or_step_past_its_time_limit_is_undone_and_keeps_no_other_waiting(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path, hanging: Any
) -> None:
    """The second one takes the write lock once the first is undone, and the claim loop waits for that, too."""
    hang = [hanging.enqueue(str(tmp_path / "gate"), layer.using) for _ in range(2)]
    others = enqueue_many(defined.note, [((), {})] * 3)
    with workers(ledger, "tasks.default", "--threads", "3"):
        until(lambda: statuses() == {"SUCCESSFUL": len(others), "FAILED": len(hang)})
    for result in hang:
        result.refresh()
        assert result.errors[0].exception_class is TimeoutError
    assert not Group.objects.using(layer.using).exists()


@pytest.mark.parametrize("layer", ["sqlite"], indirect=True)
def test_a_step_before_the_time_limit_is_kept(layer: DurableLayer, ledger: Ledger, tmp_path: Path) -> None:
    results: list[Any] = [
        stepped.outlive_the_limit.using(isolate=isolate, backoff=[70]).enqueue(str(tmp_path / "gate"))  # type: ignore[call-arg,unused-ignore]
        for isolate in (False, True)
    ]
    with workers(ledger, "tasks.default", "--threads", "2"):
        until(lambda: records().filter(failures=1).count() == 2)
        assert 50 < (layer.poll(["tasks.default"]) or 0) <= 70  # of the one in a process of its own, too
        layer.advance_time(70)
        until(lambda: statuses() == {"SUCCESSFUL": 2})
    for result in results:
        result.refresh()
    assert [result.return_value for result in results] == [[1, 2]] * 2


@pytest.mark.parametrize("layer", ["sqlite", "postgres"], indirect=True)
def test_a_task_cancelled_hard_is_killed_and_has_failed_as_cancelled_and_its_neighbour_goes_on(
    layer: DurableLayer, ledger: Ledger, tmp_path: Path
) -> None:
    """On SQLite the option isolates, on PostgreSQL the worker: there one of the tasks has a transaction open."""
    never, gate, is_option = str(tmp_path / "never"), tmp_path / "gate", layer.using == "default"
    first: Any = defined.wait_for.using(isolate=is_option, atomic=not is_option)  # type: ignore[call-arg,unused-ignore]
    second: Any = defined.hang_async.using(isolate=is_option, timeout=600)  # type: ignore[call-arg,unused-ignore]
    killed, beside = [first.enqueue(never), second.enqueue(never)], defined.note.enqueue("", str(gate))
    how = () if is_option else ("--isolate",)
    with workers(ledger, "tasks.default", "--threads", "4", *how) as [worker]:
        until(lambda: statuses()["RUNNING"] == 3)
        if is_option:
            with pytest.raises(InvalidTask, match="cancel it without hard; with isolate=True, its next"):
                cancel(beside, hard=True)
        assert cancel(killed[0], hard=True)
        call_command("tasks", "cancel", "--hard", killed[1].id)
        until(lambda: statuses()["FAILED"] == 2)
        gate.touch()
        until(lambda: statuses()["SUCCESSFUL"] == 1)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    for result in killed:
        result.refresh()
        assert result.errors[-1].exception_class is TaskCancelled and result.attempts == 1
        assert "Its process was killed while it ran" in result.errors[-1].traceback
        assert not cancel(result, hard=True)
    assert is_empty(layer) and worker.log.count("killing the process of message") == 2


@pytest.mark.parametrize("of", range(STEP_ROUNDS))
def test_kill_9_between_a_step_and_its_record_repeats_that_step_alone_and_an_atomic_one_never(
    layer: DurableLayer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, of: int
) -> None:
    """Each of the 25 tasks is killed once or twice in its twenty steps."""
    monkeypatch.setenv("MAILRAIL_TEST_LEASE", "1")
    using, may_be_atomic = records().db, layer.joins_transactions
    task: Any = stepped.die_between_steps.using(isolate=True)  # type: ignore[call-arg,unused-ignore]
    seeds = [random.getrandbits(32) for _ in range(25)]
    results = enqueue_many(task, [((seed, using, may_be_atomic), {}) for seed in seeds])
    with workers(ledger, "tasks.default", "--threads", "4") as [worker]:
        until(lambda: statuses() == {"SUCCESSFUL": 25})
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    done = Counter((line.id, line.what) for line in ledger.lines())
    done.update(
        (id, f"step-{number}")
        for id, number, _ in map(str.split, Group.objects.using(using).values_list("name", flat=True))
    )
    for result, seed in zip(results, seeds, strict=True):
        first, second = (stepped.dies_in(seed, attempt) or 0 for attempt in (1, 2))
        killed = (
            [first, second] if second >= first else [first]
        )  # the second attempt does no step that is kept
        again = Counter(number for number in killed if not (may_be_atomic and number % 2 == 0))
        expected = {number: 1 + again[number] for number in range(stepped.STEPS)}
        assert {number: done[result.id, f"step-{number}"] for number in range(stepped.STEPS)} == expected, (
            seed
        )
        result.refresh()
        assert (result.return_value, result.attempts) == (190, 1 + len(killed)), seed
    assert TaskStep.objects.using(using).count() == 25 * stepped.STEPS


def test_then_is_enqueued_once_when_all_have_ended_whenever_workers_are_killed(
    layer: DurableLayer, ledger: Ledger
) -> None:
    """What is left of a round is done before the next one: whoever is lost three times has failed."""
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(BATCHES):
        with batch(then=defined.note, on_finish=defined.note_async) as made:
            enqueue_many(defined.note, [((), {})] * MEMBERS)
        enough = ledger_size(ledger) + chance.choice([10, 50, MEMBERS - 4, MEMBERS - 1, MEMBERS])
        with workers(ledger, "tasks.default", "--threads", "4", "--processes", "2") as [worker]:
            until(lambda enough=enough: ledger_size(ledger) >= enough)  # type: ignore[misc]
            worker.kill_all()
        layer.advance_time(16)  # the leases of the dead lapse
        reconcile_tasks(layer)
        drain(layer, ledger, "8")
        assert_ended_once(made, ledger)
    assert not layer.list_messages(["tasks.default"], 1)


def reconcile_tasks(layer: DurableLayer) -> None:
    """Send what a worker had committed and not yet sent to another server when it was killed, as workers do in time."""
    import_module("mailrail.tasks.consumers")  # after the databases of tests are known
    for reconciler in reconcilers(layer):
        if reconciler.channel == "tasks.*":
            reconciler.run(older_than=0)


def ledger_size(ledger: Ledger) -> int:
    return len(ledger.lines("ran"))


def assert_ended_once(made: Batch, ledger: Ledger) -> None:
    assert (made.progress.total, made.progress.successful) == (MEMBERS, MEMBERS)
    members: Any = records().filter(batch_id=made.id)
    last_end = members.aggregate(last=Max("finished_at"))["last"]
    followers = records().filter(follows_id=made.id)
    assert followers.count() == 2 and followers.aggregate(first=Min("started_at"))["first"] >= last_end
    for follower in followers:
        # It runs again only if its worker was killed.
        assert 1 <= ledger.counts("began")[str(follower.pk)] <= len(follower.worker_ids)
        assert (follower.status, follower.held, follower.dispatch) == ("SUCCESSFUL", 0, 0)
