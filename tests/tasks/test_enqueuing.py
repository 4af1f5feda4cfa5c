"""Enqueueing: what is stored and sent, in whose transaction, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailrail import InvalidSettings, testing
from mailrail.layers import get_layer
from mailrail.tasks import ChannelBackend, ChannelTask, TaskRecord, aenqueue_many, enqueue_many, task
from mailrail.tasks.compat import HAS_BACKPORT, InvalidTask, task_backends, task_enqueued

from . import defined

BACKEND = "mailrail.tasks.ChannelBackend"


def with_options(**options: Any) -> override_settings:
    """Give the backend of the tests these options."""
    return override_settings(
        TASKS={"default": {"BACKEND": BACKEND, "QUEUES": ["default", "reports"], "OPTIONS": options}}
    )


@pytest.fixture
def heard() -> Iterator[list[str]]:
    ids: list[str] = []

    def enqueued(task_result: Any, **kwargs: Any) -> None:
        ids.append(task_result.id)

    task_enqueued.connect(enqueued, sender=ChannelBackend)
    yield ids
    task_enqueued.disconnect(enqueued, sender=ChannelBackend)


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def committed(request: pytest.FixtureRequest, settings: Any) -> str:
    """Use each layer in turn, and return the alias of the database that has the records."""
    from .conftest import layer_settings

    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    backend: Any = task_backends["default"]
    return str(backend.database)


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_a_task_is_enqueued_with_its_transaction_or_not_at_all(committed: str) -> None:
    async def enqueue(number: int) -> Any:
        return await defined.add.aenqueue(number)

    with transaction.atomic(committed):
        defined.add.enqueue(1)
        async_to_sync(enqueue)(1)
        transaction.set_rollback(True, committed)
    assert not TaskRecord.objects.using(committed).exists() and not testing.sent("tasks.default")
    with transaction.atomic(committed):
        kept = [defined.add.enqueue(2), async_to_sync(enqueue)(3)]
    assert [message.content for message in testing.sent("tasks.default")] == [
        {"id": each.id} for each in kept
    ]
    testing.drain()
    for result in kept:
        result.refresh()
    assert [result.return_value for result in kept] == [2, 3]


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_postgresql_takes_a_record_and_its_message_in_one_round_trip(
    request: pytest.FixtureRequest, settings: Any
) -> None:
    from .conftest import layer_settings

    settings.CHANNEL_LAYERS = layer_settings("postgres", request)
    defined.add.enqueue(1)  # what is looked up once
    with CaptureQueriesContext(connections["postgres"]) as queries:
        result = defined.add.enqueue(2)
    assert len(queries) == 1
    testing.drain()
    result.refresh()
    assert result.return_value == 2


@pytest.mark.django_db(transaction=True, databases=["default", "postgres", "other"])
def test_records_may_be_in_another_database_than_the_messages(committed: str) -> None:
    with with_options(DATABASE="other"):
        with transaction.atomic("other"):
            defined.add.enqueue(1)
            transaction.set_rollback(True, "other")
        with transaction.atomic("other"):
            result = defined.add.enqueue(2)
            assert not get_layer().list_messages(["tasks.default"], 1)  # it follows the commit
        assert TaskRecord.objects.using("other").count() == 1
        assert not TaskRecord.objects.using(committed).exists()
        testing.drain()
        result.refresh()
        assert result.return_value == 2


@pytest.mark.django_db
def test_enqueue_from_async_code() -> None:
    async def enqueue() -> Any:
        single = await defined.add_async.aenqueue(1)
        many = await aenqueue_many(defined.add, [((2,), {}), ((3,), {"b": 4})])
        return single, *many, await defined.add_async.aget_result(single.id)

    first, *others, found = async_to_sync(enqueue)()
    assert found == first
    testing.drain()
    for result in (first, *others):
        async_to_sync(result.arefresh)()
    assert [result.return_value for result in (first, *others)] == [1, 2, 7]


@pytest.mark.django_db
def test_many_tasks_are_enqueued_at_once_or_none_of_them(
    heard: list[str], django_assert_max_num_queries: Any
) -> None:
    with pytest.raises(TypeError, match=r"Unsupported type: <class 'object'> in args\[0\]"):
        enqueue_many(defined.add, [((1,), {}), ((object(),), {})])
    with pytest.raises(TypeError, match="enqueue_many\\(\\) needs \\(args, kwargs\\) for each call"):
        enqueue_many(defined.add, [1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="whose backend is"):
        enqueue_many(print, [])
    assert not TaskRecord.objects.exists() and heard == []
    with django_assert_max_num_queries(15):
        results = enqueue_many(defined.add, [((n,), {}) for n in range(300)])
    assert [result.id for result in results] == heard and len(testing.sent("tasks.default")) == 300
    assert enqueue_many(defined.add, []) == []


UNFIT: list[tuple[Any, type[Exception], str]] = [
    (timezone.now(), TypeError, r"Unsupported type: <class 'datetime.datetime'> in args\[0\]"),
    ([1, {"a": {2}}], TypeError, r"Unsupported type: <class 'set'> in args\[0\]\[1\]\['a'\]"),
    ({"a": [float("inf")]}, ValueError, r"args\[0\]\['a'\]\[0\] is inf"),
    ({1: 2}, TypeError, r"as the key 1 of args\[0\]"),
    ([{float("nan"): 2}], TypeError, r"as the key nan of args\[0\]\[0\]"),
    (float("nan"), ValueError, r"args\[0\] is nan"),
    (b"\xff", ValueError, r"args\[0\] is bytes that are no UTF-8"),
]


@pytest.mark.parametrize(("value", "kind", "text"), UNFIT)
@pytest.mark.django_db
def test_an_argument_that_is_no_json_is_refused_with_its_path(
    value: Any, kind: type[Exception], text: str
) -> None:
    for kind_of_task in (defined.add, defined.add.using(results=False)):
        with pytest.raises(kind, match=text):
            kind_of_task.enqueue(value)
    with pytest.raises(kind, match=text.replace(r"args\[0\]", r"kwargs\['b'\]")):
        defined.add.enqueue(1, b=value)


@pytest.mark.django_db
def test_what_is_nested_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(101):
        deep = [deep]
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        defined.add.enqueue(deep)


@pytest.mark.django_db
def test_a_task_that_a_worker_would_not_find_is_refused() -> None:
    with pytest.raises(InvalidTask, match=r"of_plain|tests\.tasks\.defined\.plain is <function"):
        defined.of_plain.enqueue()
    same_function = defined.not_held.enqueue(1)  # the module holds a task with this function
    assert same_function.task == defined.add
    main = task(defined.add.func)
    function = main.func
    function.__module__ = "__main__"
    try:
        with pytest.raises(InvalidTask, match="a __main__ of its own"):
            main.enqueue(1)
    finally:
        function.__module__ = defined.__name__


@pytest.mark.parametrize("name", ["a b", "ü", "x" * 94, ""])
def test_a_queue_whose_name_no_channel_can_have_is_refused(name: str) -> None:
    with (
        override_settings(TASKS={"default": {"BACKEND": BACKEND, "QUEUES": []}}),
        pytest.raises(InvalidTask, match="1 to 93 ASCII letters"),
    ):
        defined.add.using(queue_name=name)


@pytest.mark.django_db
def test_what_was_right_when_the_task_was_made_is_looked_at_again_when_it_is_enqueued() -> None:
    made = defined.add.using(queue_name="reports")
    only_default = {"default": {"BACKEND": BACKEND, "QUEUES": ["default"]}}
    with override_settings(TASKS=only_default):
        for enqueue in (made.enqueue, async_to_sync(made.aenqueue)):
            with pytest.raises(InvalidTask, match="Queue 'reports' is not valid for backend"):
                enqueue(1)
        with pytest.raises(InvalidTask, match="Queue 'reports' is not valid for backend"):
            enqueue_many(made, [((1,), {})])
    assert not TaskRecord.objects.exists()


@pytest.mark.django_db
def test_wrong_settings_are_told_by_enqueue_and_do_not_keep_modules_from_being_imported() -> None:
    with with_options(attempts=0, tries=3):
        made = task(defined.add.func)
        with pytest.raises(InvalidSettings) as caught:
            made.enqueue(1)
    assert len(caught.value.mistakes) == 2
    assert "TASKS['default']['OPTIONS']['tries']: there is no such option" in str(caught.value)


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"attempts": 0}, "attempts must be a whole number from 1"),
        ({"backoff": "soon", "attempts": "3"}, "attempts must be"),
        ({"backoff": []}, "backoff must be seconds"),
        ({"retry_on": [7]}, "retry_on must be exception classes"),
        ({"discard_on": int}, "discard_on must be exception classes"),
        ({"timeout": 0}, "timeout must be seconds"),
        ({"lane": ""}, "lane must be 1 to 255"),
        ({"concurrency": 3}, r"concurrency of a task must be \(number, function\).*--threads"),
        ({"concurrency": (0, defined.lane_of)}, "must be a whole number from 1, not 0"),
        ({"concurrency": (3, 7)}, r"concurrency must be a whole number, or \(number, function\)"),
        ({"expires": -1}, "expires must be seconds"),
        ({"retention": "7 days"}, "retention must be seconds"),
    ],
)
def test_wrong_options_are_refused_when_a_task_is_made_and_when_it_is_changed(
    options: Any, text: str
) -> None:
    with pytest.raises(InvalidTask, match=text):
        task(**options)(defined.add.func)
    with pytest.raises(InvalidTask, match=text):
        defined.add.using(**options)


def test_unknown_options_raise_a_type_error() -> None:
    with pytest.raises(TypeError, match="tries"):
        task(tries=3)(defined.add.func)
    with pytest.raises(TypeError, match="tries"):
        defined.add.using(tries=3)
    with pytest.raises(TypeError, match="run_after cannot be defined statically"):
        task(run_after=timezone.now())(defined.add.func)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOfDjango60(ChannelTask):
    """A task whose ``run_after`` has no default, as in Django 6.0."""

    run_after: datetime | None


class BackendOfDjango60(ChannelBackend):
    task_class = TaskOfDjango60  # type: ignore[assignment]


def test_the_decorator_needs_no_default_of_run_after() -> None:
    backend = f"{__name__}.{BackendOfDjango60.__qualname__}"
    with override_settings(TASKS={"default": {"BACKEND": backend, "QUEUES": []}}):
        made = task(attempts=2)(defined.add.func)
    assert (type(made), made.run_after, made.attempts) == (TaskOfDjango60, None, 2)


@pytest.mark.skipif((6, 0) <= django.VERSION < (6, 1), reason="Django 6.0 passes no options on")
def test_the_decorator_of_django_passes_options_on() -> None:
    decorate = import_module("django_tasks" if HAS_BACKPORT else "django.tasks").task
    made = decorate(attempts=3, lane="one")(defined.add.func)
    assert (type(made), made.attempts, made.lane) == (ChannelTask, 3, "one")
    with pytest.raises(TypeError, match="tries"):
        decorate(tries=3)(defined.add.func)


def test_a_changed_task_keeps_what_was_not_changed() -> None:
    with pytest.raises(InvalidTask, match=r"run_after: 999999999 days.* outside the calendar"):
        defined.add.using(run_after=timedelta.max)
    later = defined.try_thrice.using(run_after=timedelta(hours=1), attempts=5)
    assert later.run_after is not None and later.run_after > timezone.now() + timedelta(minutes=59)
    assert (later.attempts, later.backoff, later.discard_on) == (
        5,
        (10.0, 20.0),
        ("tests.tasks.defined.Hopeless",),
    )
    assert defined.try_thrice.attempts == 3 and defined.try_thrice.using() == defined.try_thrice


@pytest.mark.parametrize(
    "made",
    [
        *(defined.try_thrice, defined.in_lane, defined.limited),
        *(defined.in_lane.using(priority=7, expires=3), defined.add.using(then=(defined.do, ("a",)))),
    ],
)
def test_tasks_can_be_pickled_and_copied_deeply(made: ChannelTask) -> None:
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own
    assert copy.deepcopy(made) == made


@pytest.mark.django_db
def test_results_can_be_pickled_and_copied_deeply() -> None:
    result = defined.in_lane.enqueue(1, 2)
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301 - our own
    assert copy.deepcopy(result) == result


@pytest.mark.django_db
def test_options_of_settings_apply_to_all_tasks_and_to_those_they_name() -> None:
    by_path = {"tests.tasks.defined.do": {"attempts": 2, "backoff": 0}}
    with with_options(attempts=4, backoff=0, TASKS=by_path):
        results = [
            defined.add.enqueue("no number", 1),  # the backend's
            defined.do.enqueue("raise"),  # those of its path
            defined.do.using(attempts=3).enqueue("raise"),  # its own
        ]
        testing.drain(raise_errors=False)
    for result in results:
        result.refresh()
    assert [result.attempts for result in results] == [4, 2, 3]
    assert results[2].task.attempts == 3


@pytest.mark.django_db
def test_a_class_and_a_function_of_options_are_kept_as_their_paths() -> None:
    changed = defined.do.using(attempts=2, retry_on=[defined.Broken], backoff=backoff_of)
    result = changed.enqueue("raise")
    record = TaskRecord.objects.get(pk=result.id)
    assert record.options == {
        "attempts": 2,
        "backoff": "tests.tasks.test_enqueuing.backoff_of",
        "retry_on": ["tests.tasks.defined.Broken"],
    }
    [ran] = testing.drain(raise_errors=False)
    assert ran.outcome == "retried"
    testing.advance(7)
    testing.drain(raise_errors=False)
    result.refresh()
    assert result.attempts == 2
    with pytest.raises(ValueError, match="cannot be imported by a worker"):
        defined.do.using(backoff=lambda failures: 1.0).enqueue("raise")


def backoff_of(failures: int) -> float:
    return 7.0 * failures


# -- for tests of projects ---------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_tests_can_list_the_tasks_that_are_enqueued() -> None:
    first, second = defined.add.enqueue(1), defined.soon.enqueue()
    assert testing.tasks() == [first, second]
    assert testing.tasks(defined.add) == testing.tasks("tests.tasks.defined.add") == [first]
    assert testing.tasks(queue="reports") == [second]
    testing.drain()
    assert testing.tasks() == []


@pytest.mark.django_db
def test_calls_that_only_python_takes_for_equal_are_stored_apart() -> None:
    results = enqueue_many(defined.do, [((value,), {}) for value in (1, True, 1.0)])
    stored = [defined.do.get_result(result.id).args for result in results]
    assert [type(value) for [value] in stored] == [int, bool, float]


@pytest.mark.django_db
def test_tests_can_run_tasks_as_they_are_enqueued(heard: list[str]) -> None:
    with testing.eager_tasks():
        done, failed = defined.add.enqueue(1, b=2), defined.do.enqueue("raise")
        later = defined.add.using(run_after=timedelta(hours=1)).enqueue(3)
        assert (done.return_value, failed.status, later.status) == (3, "FAILED", "READY")
        assert async_to_sync(defined.add_async.aenqueue)(5).return_value == 5
        testing.advance(3600)
        testing.drain()
        later.refresh()
        with pytest.raises(KeyboardInterrupt):
            defined.do.enqueue("interrupt")
    assert later.return_value == 3 and len(heard) == 5
    assert task_backends["default"].get_result(done.id).return_value == 3
