"""Steps of tasks: done once, kept for the next attempt, and written only by the attempt that has the task."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import IntEnum
from functools import partial
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.db import OperationalError, connections, transaction
from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.safestring import mark_safe

from mailrail import Later, LostClaim, testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.tasks import TaskRecord, cancel, control, retention, task
from mailrail.tasks.compat import InvalidTask, task_backends
from mailrail.tasks.errors import StepNotKept, TaskCancelled
from mailrail.tasks.kept_steps import DoneStep, keep
from mailrail.tasks.models import TaskStep
from mailrail.transient import is_lock_timeout

from ..processes import ROOT, until
from . import stepped
from .conftest import LAYERS, layer_settings
from .defined import Broken

in_database = pytest.mark.parametrize("layer", [LAYERS[1], LAYERS[2]], indirect=True)
elsewhere = pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[3]], indirect=True)


@pytest.fixture
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


class Calls(list[Any]):
    """A function that notes its calls, and returns its arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.append((args, kwargs))
        return {"args": args, **kwargs}


class Awaited:
    """An object that is called as a coroutine function is."""

    async def __call__(self, *args: Any) -> Any:
        return args


@pytest.fixture
def calls() -> Calls:
    return Calls()


def run(body: Any, *args: Any, of: Any = stepped.run) -> Any:
    """Run a task with this body until it has ended, and return its result."""
    stepped.body = body
    result = of.enqueue(*args)
    testing.drain(raise_errors=False)
    result.refresh()
    return result


def error_of(result: Any) -> str:
    assert result.status == "FAILED"
    text: str = result.errors[-1].traceback
    return text


def using() -> str:
    backend: Any = task_backends["default"]
    return str(backend.database)


def steps(result: Any) -> dict[str, Any]:
    rows = TaskStep.objects.using(using()).filter(task=result.id).order_by("pk")
    return {step.name: step.value for step in rows}


def groups() -> list[str]:
    return sorted(Group.objects.using(using()).values_list("name", flat=True))


def fail_once(context: Any) -> None:
    if context.attempt == 1:
        raise Broken("once more")


# -- steps -------------------------------------------------------------------------------------------------------------


def test_the_next_attempt_gets_back_what_a_step_returned_and_does_it_no_more(
    on_layer: DurableLayer, calls: Calls
) -> None:
    def body(context: Any) -> Any:
        first = context.step("first", calls, 1, b=(2, 3))
        second = context.step("second", lambda: None)
        fail_once(context)
        return [first, second]

    result = run(body)
    assert result.return_value == [{"args": [1], "b": [2, 3]}, None]
    assert calls == [((1,), {"b": (2, 3)})] and result.attempts == 2
    assert steps(result) == {"first": {"args": [1], "b": [2, 3]}, "second": None}


@pytest.mark.django_db
def test_the_first_attempt_gets_the_same_types_as_the_next_one() -> None:
    seen = []

    class Colour(IntEnum):
        RED = 1

    value = {"t": (1, b"x"), "s": [mark_safe("s"), Colour.RED]}

    def body(context: Any) -> None:
        kept = context.step("a", lambda: value)
        seen.append((kept, [type(item) for item in kept["s"]]))
        fail_once(context)

    run(body)
    assert seen == [({"t": [1, "x"], "s": ["s", 1]}, [str, int])] * 2


@pytest.mark.django_db
def test_a_step_that_raises_keeps_nothing_and_is_done_again() -> None:
    attempts = []

    def charge() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise Broken
        return 7

    result = run(lambda context: context.step("charge", charge))
    assert (result.return_value, len(attempts)) == (7, 2)


@pytest.mark.django_db
def test_steps_that_are_no_longer_asked_for_are_ignored(calls: Calls) -> None:
    def body(context: Any) -> Any:
        context.step("old" if context.attempt == 1 else "new", calls)
        fail_once(context)

    assert list(steps(run(body))) == ["old", "new"] and len(calls) == 2


@pytest.mark.django_db
def test_later_keeps_steps(calls: Calls) -> None:
    def body(context: Any) -> int:
        context.step("a", calls)
        if "waited" not in context.metadata:
            context.metadata["waited"] = True
            raise Later(after=60)
        return len(calls)

    result = run(body)
    assert result.status == "READY" and result.attempts == 0
    testing.advance(61)
    testing.drain()
    result.refresh()
    assert (result.return_value, result.attempts) == (1, 1)


@pytest.mark.django_db
def test_a_person_who_runs_a_failed_task_again_finds_its_steps_kept(calls: Calls) -> None:
    def body(context: Any) -> None:
        context.step("a", calls)
        if context.attempt <= 3:
            raise Broken

    result = run(body)
    assert result.status == "FAILED"
    control.retry_all([TaskRecord.objects.get().pk])
    testing.drain(raise_errors=False)
    result.refresh()
    assert (result.status, result.attempts, len(calls)) == ("SUCCESSFUL", 4, 1)
    control.run_again_all([TaskRecord.objects.get().pk])
    testing.drain(raise_errors=False)
    assert len(calls) == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda: ..., "Unsupported type: <class 'function'> in what context.step('a') returned"),
        ({"x": [float("nan")]}, "what context.step('a') returned['x'][0] is nan"),
        ([10**5_000], "what context.step('a') returned is no JSON: Exceeds the limit"),
        ("é" * 20_000, "returned 120,002 bytes of JSON, and 65,536 can be kept. Store it in a row or a file"),
    ],
)
def test_a_value_that_cannot_be_kept_fails_the_task_at_once_as_another_attempt_would_do_the_step_again(
    value: Any, text: str, calls: Calls
) -> None:
    result = run(lambda context: context.step("a", lambda: (calls(), value)[1]))
    assert text in error_of(result) and len(calls) == 1 and steps(result) == {}
    assert result.errors[-1].exception_class is StepNotKept


@pytest.mark.django_db
def test_a_value_of_64_kibibytes_is_kept() -> None:
    result = run(lambda context: len(context.step("a", lambda: "x" * (64 * 1024 - 2))))
    assert result.return_value == 65534


async def coroutine() -> None:
    pass


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            lambda context: [context.step("a", int), context.step("a", int)],
            "ValueError: context.step('a') of tests.tasks.stepped.run comes twice in one run",
        ),
        (
            lambda context: [context.step("a", int), list(context.each("a", []))],
            "ValueError: context.each('a') of tests.tasks.stepped.run comes twice in one run",
        ),
        (lambda context: context.step("", int), "ValueError: name of a step must be 1 to 255 printable"),
        (lambda context: context.step(7, int), "TypeError: name of a step must be a string, not 7"),
        (lambda context: context.step("a", 7), "TypeError: context.step('a') needs a function, not 7"),
        (lambda context: context.step("a", coroutine), "coroutine is async. Write: await context.astep"),
        (lambda context: list(context.each("a", "text")), "needs a queryset or a list, not 'text'"),
        (lambda context: list(context.each("a", iter([1]))), "needs a queryset or a list, not <list_iter"),
        (lambda context: list(context.each("a", [1], chunk=0)), "chunk of context.each('a') must be a whole"),
        (lambda context: list(context.each("a", Group.objects.all()[:5])), "a queryset that is sliced"),
        (
            lambda context: context.step("a", partial(asyncio.sleep, 1)),
            "sleep is async. Write: await context.astep",
        ),
        (lambda context: context.step("a", Awaited()), "Awaited is async. Write: await context.astep"),
        (lambda context: list(context.each("a", Group.objects.values("name"))), "Use only() instead"),
        (
            lambda context: list(context.each("a", Group.objects.select_for_update())),
            "a chunk is read outside of one. Lock each row in the transaction of its own work",
        ),
        (
            lambda context: list(context.each("a", Group.objects.annotate(n=Window(RowNumber())))),
            "a window function sees the rows of one chunk only",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(body: Any, text: str) -> None:
    assert text in error_of(run(body))


@pytest.mark.django_db
def test_a_name_that_was_a_loop_in_an_earlier_attempt_is_no_step() -> None:
    def body(context: Any) -> None:
        if context.attempt == 1:
            list(context.each("a", [1]))
            context.step("b", int)
            raise Broken
        if context.attempt == 2:
            context.step("a", int)
        list(context.each("b", [1]))

    result = run(body)
    texts = [error.traceback for error in result.errors]
    assert "context.step('a') of tests.tasks.stepped.run: an earlier attempt has kept a loop" in texts[1]
    assert "context.each('b') of tests.tasks.stepped.run: an earlier attempt has kept a step" in texts[2]


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["step", "each"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"results": False}, "of tests.tasks.stepped.run needs a record, and the task has results=False"),
        ({"atomic": True}, "the task has atomic=True, so its steps would be undone with it"),
    ],
)
def test_a_task_without_a_record_or_that_is_undone_as_a_whole_has_no_steps(
    method: str, options: dict[str, bool], text: str
) -> None:
    raised = []

    def body(context: Any) -> None:
        try:
            getattr(context, method)("a", int)
        except InvalidTask as error:
            raised.append(str(error))

    stepped.body = body
    stepped.run.using(**options).enqueue()
    testing.drain()
    assert text in raised[0]


# -- the attempt that has the task -------------------------------------------------------------------------------------


def take_over() -> None:
    """Let another worker begin the next attempt."""
    TaskRecord.objects.using(using()).update(token=5)


def test_a_worker_that_lost_its_claim_keeps_no_step_and_begins_no_other(
    on_layer: DurableLayer, calls: Calls
) -> None:
    raised = []

    def body(context: Any) -> None:
        context.step("before", calls)
        for name, function in (("meanwhile", take_over), ("after", calls)):
            try:
                context.step(name, function)
            except LostClaim as error:
                raised.append(str(error))

    result = run(body)
    assert result.status == "RUNNING" and list(steps(result)) == ["before"] and len(calls) == 1
    assert [text[:25] for text in raised] == ["context.step('meanwhile')", "context.step('after') of "]
    assert "another worker has the task, its time limit is over, or its record is gone" in raised[0]


@in_database
def test_an_atomic_step_of_a_worker_that_lost_its_claim_is_rolled_back(layer: DurableLayer) -> None:
    def write_late() -> None:
        Group.objects.using(using()).create(name="late")
        take_over()

    run(lambda context: context.step("a", write_late, atomic=True))
    assert groups() == []


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("layer", ["postgres"], indirect=True)
def test_a_step_waits_for_an_attempt_that_begins_just_now_and_is_not_kept_after_it(
    layer: DurableLayer,
) -> None:
    record = TaskRecord.objects.using("postgres").create(status="RUNNING", token=1)
    now = timezone.now()

    def keep_late(is_patient: bool) -> bool:
        try:
            return keep(DoneStep("a", False, "1", now, now), record.pk, 1, "postgres", is_patient=is_patient)
        finally:
            connections["postgres"].close()

    with ThreadPoolExecutor(1) as other:
        with transaction.atomic("postgres"), connections["postgres"].cursor() as cursor:
            TaskRecord.objects.using("postgres").update(token=2)
            with pytest.raises(OperationalError) as raised:  # what a coroutine tries again
                other.submit(keep_late, False).result()
            assert is_lock_timeout(raised.value)
            kept = other.submit(keep_late, True)
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
            until(lambda: cursor.execute(waiting).fetchone())
        assert kept.result() is False
    assert not TaskStep.objects.using("postgres").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["step", "each"])
def test_a_cancelled_task_begins_no_other_step(way: str, calls: Calls) -> None:
    def body(context: Any) -> None:
        if way == "step":
            context.step("a", cancel, context.task_result)
            context.step("b", calls)
        for number in context.each("c", [1, 2, 3, 4], chunk=2):
            calls(number)
            if number == 2:
                cancel(context.task_result)

    result = run(body)
    assert result.errors[-1].exception_class is TaskCancelled
    assert "it has stopped before context." in error_of(result) and len(calls) == (2 if way == "each" else 0)


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("layer", ["postgres"], indirect=True)
def test_a_step_is_kept_although_its_connection_was_cut_meanwhile(layer: DurableLayer, calls: Calls) -> None:
    def cut() -> None:
        pid = connections["postgres"].connection.info.backend_pid

        def terminate() -> None:
            try:
                with connections["postgres"].cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            finally:
                connections["postgres"].close()

        calls()
        with ThreadPoolExecutor(1) as other:
            other.submit(terminate).result()

    result = run(lambda context: context.step("a", cut))
    assert (result.status, result.attempts, len(calls)) == ("SUCCESSFUL", 1, 1)
    assert steps(result) == {"a": None}


# -- atomic steps ------------------------------------------------------------------------------------------------------


@in_database
def test_an_atomic_step_commits_with_its_value_or_not_at_all(layer: DurableLayer) -> None:
    def write(context: Any) -> str:
        Group.objects.using(using()).create(name=f"attempt {context.attempt}")
        fail_once(context)
        return "written"

    result = run(lambda context: context.step("a", write, context, atomic=True))
    assert (result.return_value, result.attempts, groups()) == ("written", 2, ["attempt 2"])
    assert steps(result) == {"a": "written"}


@in_database
def test_an_atomic_step_whose_value_cannot_be_kept_is_undone(layer: DurableLayer) -> None:
    def write() -> Any:
        Group.objects.using(using()).create(name="undone")
        return object()

    assert "Unsupported type" in error_of(run(lambda context: context.step("a", write, atomic=True)))
    assert groups() == []


@elsewhere
def test_an_atomic_step_needs_a_layer_in_the_database(layer: DurableLayer, calls: Calls) -> None:
    text = error_of(run(lambda context: context.step("a", calls, atomic=True)))
    assert "InvalidTask" in text and calls == []
    assert "context.step('a') of tests.tasks.stepped.run: atomic=True needs a layer in the database" in text


@pytest.mark.django_db(databases=["default", "other"])
def test_an_atomic_step_may_read_another_database_and_not_write_there() -> None:
    def write() -> None:
        Group.objects.create(name="here")
        Group.objects.using("other").exists()
        Group.objects.using("other").create(name="there")

    text = error_of(run(lambda context: context.step("a", write, atomic=True)))
    assert (
        "context.step('a') of tests.tasks.stepped.run has atomic=True and writes into the database 'other'"
        in text
    )
    assert groups() == [] and not Group.objects.using("other").exists()


# -- transactions ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@pytest.mark.parametrize("alias", ["default", "other"])
@pytest.mark.parametrize("way", ["around a step", "left open by a step", "around a loop"])
def test_a_step_in_a_transaction_that_may_be_rolled_back_is_refused(
    alias: str, way: str, calls: Calls
) -> None:
    def body(context: Any) -> None:
        if way == "left open by a step":
            context.step("a", transaction.atomic(alias).__enter__)
        with transaction.atomic(alias):
            if way == "around a step":
                context.step("a", calls)
            list(context.each("a", [1]))

    result = run(body)
    assert f"of tests.tasks.stepped.run: a transaction is open on '{alias}'" in error_of(result)
    assert calls == [] and steps(result) == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_atomic", [False, True])
def test_sync_code_of_a_coroutine_does_no_step_in_its_transaction(is_atomic: bool, calls: Calls) -> None:
    def step_inside(context: Any) -> None:
        with transaction.atomic():
            context.step("a", calls, atomic=is_atomic)

    async def body(context: Any) -> None:
        await sync_to_async(step_inside)(context)

    result = run(body, of=stepped.run_async)
    assert "a transaction is open on 'default'" in error_of(result)
    assert calls == [] and steps(result) == {}


@pytest.mark.django_db(transaction=True)
def test_the_loop_may_have_a_transaction_for_each_row() -> None:
    def body(context: Any) -> None:
        for number in context.each("a", [1, 2]):
            with transaction.atomic():
                Group.objects.create(name=str(number))

    assert run(body).status == "SUCCESSFUL" and groups() == ["1", "2"]


# -- loops -------------------------------------------------------------------------------------------------------------


def test_the_next_attempt_goes_on_behind_the_last_chunk(on_layer: DurableLayer) -> None:
    Group.objects.using(using()).bulk_create(Group(name=f"{n}") for n in range(7))
    rows, seen = Group.objects.using(using()).order_by("-name"), []

    def body(context: Any) -> None:
        for group in context.each("groups", rows.reverse() if context.attempt == 1 else rows, chunk=2):
            seen.append(group.name)
            if len(seen) in (4, 7):  # the second of its chunk, and the first
                raise Broken

    result = run(body)
    assert seen == [*"0123", *"234", *"456"] and result.status == "SUCCESSFUL"
    last = Group.objects.using(using()).order_by("pk").last()
    assert last and steps(result) == {"groups": {"behind": str(last.pk), "count": 7, "is_done": True}}


@pytest.mark.django_db
def test_rows_that_leave_the_queryset_while_it_is_gone_through_shift_no_others() -> None:
    Group.objects.bulk_create(Group(name=f"{n}") for n in range(6))
    seen = []

    def body(context: Any) -> None:
        for group in context.each("groups", Group.objects.exclude(name__startswith="done"), chunk=2):
            seen.append(group.name)
            Group.objects.filter(pk=group.pk).update(name=f"done {group.name}")

    run(body)
    assert seen == list("012345")


@pytest.mark.django_db
@pytest.mark.parametrize("length", [0, 3, 4])
def test_a_list_goes_on_by_numbers_and_is_done_only_once(length: int) -> None:
    seen = []

    def body(context: Any) -> None:
        for item in context.each("list", deque(range(length)), chunk=2):
            seen.append(item)
            if item == 2 and context.attempt == 1:
                raise Broken
        if context.attempt < 3:
            raise Broken

    run(body)
    assert seen == {0: [], 3: [0, 1, 2, 2], 4: [0, 1, 2, 2, 3]}[length]


@pytest.mark.django_db
def test_primary_keys_of_other_types_are_kept() -> None:
    names = [stepped.run.enqueue(n).id for n in range(3)]
    seen = []

    def body(context: Any) -> None:
        for record in context.each("tasks", TaskRecord.objects.filter(pk__in=names), chunk=1):
            seen.append(str(record.pk))
            fail_once(context)

    TaskRecord.objects.update(status="SUCCESSFUL")
    run(body)
    assert seen == [names[0], *names]


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["delete", "copy"])
def test_a_loop_goes_on_behind_rows_that_its_code_has_removed_or_copied(change: str) -> None:
    Group.objects.bulk_create(Group(name=f"{n}") for n in range(5))
    old, seen = Group.objects.filter(name__in="01234"), []

    def body(context: Any) -> None:
        for group in context.each("groups", old, chunk=2):
            seen.append(group.name)
            if change == "delete":
                group.delete()
            else:
                group.pk, group.name = None, f"copy of {group.name}"
                group.save(force_insert=True)

    assert run(body).status == "SUCCESSFUL" and seen == list("01234")


@pytest.mark.django_db
@pytest.mark.parametrize("chunk", [1, 2, 3, 10])
def test_a_row_that_a_join_repeats_is_not_cut_off_by_the_end_of_a_chunk(chunk: int) -> None:
    permissions = Permission.objects.order_by("pk")[:3]
    for name in ("a", "b", "c"):
        Group.objects.create(name=name).permissions.set(permissions)
    rows = Group.objects.annotate(permission=F("permissions"))
    seen: list[tuple[str, int]] = []

    def body(context: Any) -> None:
        seen.extend((row.name, row.permission) for row in context.each("groups", rows, chunk=chunk))

    run(body)
    assert sorted(seen) == [(name, permission.pk) for name in "abc" for permission in permissions]


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_steps_and_loops_of_coroutines(on_layer: DurableLayer, calls: Calls) -> None:
    async def double(number: int) -> int:
        calls(number)
        await asyncio.sleep(0)
        return 2 * number

    seen = []

    async def body(context: Any) -> Any:
        values = await asyncio.gather(*(context.astep(f"double-{n}", double, n) for n in range(3)))
        await context.astep("object", Awaited())
        await context.astep("sync", sync_to_async(str), 1)
        plain = await context.astep("plain", lambda: using())
        async for item in context.aeach("items", [1, 2, 3], chunk=2):
            seen.append(item)
            if item == 3:
                fail_once(context)
        return [*values, plain]

    result = run(body, of=stepped.run_async)
    assert result.return_value == [0, 2, 4, using()] and result.attempts == 2
    assert len(calls) == 3 and seen == [1, 2, 3, 3]


@pytest.mark.django_db
def test_a_coroutine_goes_through_a_queryset_and_its_sync_code_may_do_steps(calls: Calls) -> None:
    Group.objects.bulk_create(Group(name=f"{n}") for n in range(3))

    async def body(context: Any) -> Any:
        await sync_to_async(context.step)("sync", calls)
        return [group.name async for group in context.aeach("groups", Group.objects.all(), chunk=2)]

    assert run(body, of=stepped.run_async).return_value == ["0", "1", "2"] and len(calls) == 1


@pytest.mark.django_db
def test_an_atomic_step_of_a_coroutine_is_a_plain_function(calls: Calls) -> None:
    def write(context: Any) -> str:
        Group.objects.create(name=f"attempt {context.attempt}")
        fail_once(context)
        return "written"

    async def body(context: Any) -> Any:
        return await context.astep("a", write, context, atomic=True)

    assert run(body, of=stepped.run_async).return_value == "written" and groups() == ["attempt 2"]

    async def wrong(context: Any) -> Any:
        return await context.astep("a", coroutine, atomic=True)

    text = error_of(run(wrong, of=stepped.run_async))
    assert (
        "atomic=True needs a plain function, as Django's transactions are not async, and coroutine is."
        in text
    )


@pytest.mark.django_db
def test_a_coroutine_that_lost_its_claim_keeps_no_step() -> None:
    async def body(context: Any) -> Any:
        await context.astep("a", take_over)

    result = run(body, of=stepped.run_async)
    assert result.status == "RUNNING" and steps(result) == {}


# -- around them -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_eager_tasks_have_steps(calls: Calls) -> None:
    def body(context: Any) -> Any:
        value = context.step("a", calls, 1)
        fail_once(context)
        return value

    stepped.body = body
    with testing.eager_tasks():
        result = stepped.run.enqueue()
    assert result.return_value == {"args": [1]} and len(calls) == 1


@in_database
def test_steps_are_removed_with_their_record(layer: DurableLayer) -> None:
    """However many records go, there are as many statements, and no record is read."""
    kept = run(lambda context: context.step("a", int))
    pruned = [run(lambda context: context.step("a", int)) for _ in range(3)]
    TaskRecord.objects.using(using()).filter(pk__in=[result.id for result in pruned]).update(
        kept_until=pruned[0].enqueued_at
    )
    with CaptureQueriesContext(connections[using()]) as asked:
        assert retention.prune(using()) == 3
    assert len([query for query in asked if "taskrecord" in query["sql"] or "taskstep" in query["sql"]]) <= 3
    assert list(TaskStep.objects.using(using()).values_list("task", flat=True)) == [
        TaskRecord.objects.using(using()).get().pk
    ]
    TaskRecord.objects.using(using()).filter(pk=kept.id).delete()
    assert not TaskStep.objects.using(using()).exists()
    run(lambda context: context.step("a", int))
    assert retention.prune_ended(using(), timezone.now() + timedelta(hours=1)) == 1
    assert not TaskStep.objects.using(using()).exists()


@pytest.mark.django_db
def test_a_task_without_steps_asks_for_none() -> None:
    with CaptureQueriesContext(connections["default"]) as asked:
        assert run(lambda context: context.attempt).return_value == 1
    assert not [query for query in asked if "taskstep" in query["sql"]]


@pytest.mark.django_db
def test_the_command_shows_steps(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(lambda context: context.step("charge", lambda: {"id": 7}))
    call_command("tasks", "show", result.id)
    assert "step charge: " in (shown := capsys.readouterr().out) and '{"id": 7}' in shown
    call_command("tasks", "show", result.id, "--json")
    assert '"name": "charge"' in capsys.readouterr().out


@pytest.mark.django_db
def test_the_task_of_the_how_to_does_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "how-to" / "steps.md").read_text()
    module = ModuleType("shop_of_steps")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    Group.objects.bulk_create(Group(name=f"line {n}") for n in range(3))
    done: list[Any] = []

    def note(what: str, value: Any = None) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            done.append(what)
            return value

        return noted

    rows = SimpleNamespace(get=note("order"), filter=lambda order: Group.objects.all())
    module.__dict__.update(
        Order=SimpleNamespace(objects=rows),
        Line=SimpleNamespace(objects=rows),
        charge=note("charge", {"id": 7}),
        book=note("book"),
        reserve=note("reserve"),
        parcel_is_ready=lambda order: done.count("order") == 2,
        tell=note("tell"),
    )
    exec(page.split("```python\n")[1].split("```")[0], module.__dict__)
    result = module.__dict__["ship"].enqueue(1)
    testing.drain()
    testing.advance(3601)
    testing.drain()
    result.refresh()
    assert (result.status, result.attempts) == ("SUCCESSFUL", 1)
    assert done == ["order", "charge", "book", *["reserve"] * 3, "order", "tell"]


# -- checks ------------------------------------------------------------------------------------------------------------

PATH = "tests.tasks.checked"


def module_with(monkeypatch: pytest.MonkeyPatch, function: Any, **options: Any) -> None:
    """Let a module be imported that has a task of this function."""
    module = ModuleType(PATH)
    function.__module__ = PATH
    module.__dict__[function.__name__] = task(takes_context=True, **options)(function)
    monkeypatch.setitem(sys.modules, PATH, module)


def found() -> list[tuple[str, str]]:
    backend: Any = task_backends["default"]
    return [(error.id, error.msg) for error in backend.check() if PATH in error.msg]


def loops(context: Any) -> None:
    async def inner() -> None:
        async for _ in context.aeach("a", []):
            pass


def writes(context: Any) -> None:
    context.step("a", int, atomic=True)


@pytest.mark.parametrize(
    ("options", "wrong"), [({"results": False}, "results=False"), ({"atomic": True}, "atomic=True")]
)
def test_a_check_finds_steps_that_would_not_be_kept(
    monkeypatch: pytest.MonkeyPatch, options: Any, wrong: str
) -> None:
    module_with(monkeypatch, loops)
    assert found() == []
    module_with(monkeypatch, loops, **options)
    [(id, text)] = found()
    assert id == "mailrail.tasks.E007" and text.startswith(
        f"{PATH}.loops calls context.aeach(), and has {wrong}"
    )


def test_the_check_imports_no_module_that_waits_for_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("this")
    assert spec and spec.loader
    lazy = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "this", lazy)
    LazyLoader(spec.loader).exec_module(lazy)
    assert found() == [] and type(lazy) is not ModuleType


@pytest.mark.parametrize(("kind", "expected"), [("memory", ["mailrail.tasks.E008"]), ("sqlite", [])])
def test_a_check_finds_atomic_steps_on_a_layer_in_no_database(
    monkeypatch: pytest.MonkeyPatch, settings: Any, request: Any, kind: str, expected: list[str]
) -> None:
    settings.CHANNEL_LAYERS = layer_settings(kind, request)
    module_with(monkeypatch, writes)
    assert [id for id, _ in found()] == expected
    assert all("needs a layer in the database" in text for _, text in found())
