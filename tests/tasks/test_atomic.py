"""What an atomic task writes, its result and its end commit together, on layers in a database."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import override_settings

from mailrail import testing
from mailrail.layers import DurableLayer, get_layer
from mailrail.tasks import TaskRecord
from mailrail.tasks.compat import InvalidTask, task_backends

from . import defined
from .conftest import LAYERS, layer_settings

in_database = pytest.mark.parametrize("layer", [LAYERS[1], LAYERS[2]], indirect=True)
elsewhere = pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[3]], indirect=True)
with_and_without_results = pytest.mark.parametrize("results", [True, False])
BACKEND = "mailrail.tasks.ChannelBackend"


@pytest.fixture
def layer(request: pytest.FixtureRequest, settings: Any) -> Iterator[DurableLayer]:
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    yield get_layer()
    get_layer().stop_listening()


def groups(layer: DurableLayer) -> list[str]:
    return sorted(Group.objects.using(layer.using).values_list("name", flat=True))


def outcomes() -> list[str]:
    return [ran.outcome for ran in testing.drain(raise_errors=False)]


def messages() -> list[Any]:
    return [
        message
        for state in (None, "dead")
        for message in get_layer().list_messages(["tasks.default"], 9, state)
    ]


@in_database
@with_and_without_results
def test_what_a_task_writes_is_there_once_it_has_succeeded_and_not_before(
    layer: DurableLayer, results: bool
) -> None:
    task = defined.write_or_fail.using(results=results)
    result = task.enqueue("once", layer.using)
    assert outcomes() == ["retried", "finished"] and groups(layer) == ["once"] and messages() == []
    task.enqueue("raise", layer.using)
    assert outcomes()[0] == "retried" and groups(layer) == ["once"]
    if results:
        result.refresh()
        assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "once", 2)
        assert not TaskRecord.objects.using(layer.using).exclude(status__in=["SUCCESSFUL", "FAILED"]).exists()


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("layer", ["postgres"], indirect=True)  # on SQLite, nobody claims while a task writes
@with_and_without_results
def test_a_worker_that_lost_its_claim_rolls_back(layer: DurableLayer, results: bool) -> None:
    result = defined.write_or_fail.using(results=results).enqueue("lose", layer.using)
    assert outcomes() == ["lost"] and groups(layer) == [] and len(messages()) == 1
    if results:
        result.refresh()
        assert result.status == "RUNNING" and result.errors == []


@in_database
def test_a_return_value_that_is_no_json_undoes_what_was_written(layer: DurableLayer) -> None:
    result = defined.write_or_fail.enqueue("lambda", layer.using)
    assert outcomes() == ["finished"] and groups(layer) == []
    result.refresh()
    assert (result.status, result.attempts) == ("FAILED", 1) and result.errors[0].exception_class is TypeError


@in_database
@with_and_without_results
@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
def test_a_hook_that_raises_after_the_commit_changes_nothing(layer: DurableLayer, results: bool) -> None:
    result = defined.write_or_fail.using(results=results).enqueue("hook", layer.using)
    assert outcomes() == ["finished"] and groups(layer) == ["hook"] and messages() == []
    if results:
        result.refresh()
        assert (result.status, result.return_value) == ("SUCCESSFUL", "hook")


@elsewhere
@with_and_without_results
def test_without_a_layer_in_the_database_an_atomic_task_is_refused(
    layer: DurableLayer, results: bool
) -> None:
    with pytest.raises(InvalidTask, match=r"atomic=True needs a layer in the database: only there"):
        defined.write_or_fail.using(results=results).enqueue("x", "default")
    assert testing.tasks() == []
    for options in ({"atomic": True}, {"TASKS": {"a.b": {"atomic": True}}}):
        with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
            backend: Any = task_backends["default"]
            [error] = backend.check()
            assert error.id == "mailrail.tasks.E006" and "needs a layer in the database" in error.msg


@pytest.mark.django_db(databases=["default", "other"])
def test_with_records_in_another_database_an_atomic_task_is_refused() -> None:
    options = {"DATABASE": "other", "TASKS": {"tests.tasks.defined.add": {"atomic": True}}}
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        backend: Any = task_backends["default"]
        [error] = backend.check()
        assert error.id == "mailrail.tasks.E006" and "'default', and they are in 'other'" in error.msg
        with pytest.raises(InvalidTask, match="Leave DATABASE out of OPTIONS"):
            defined.add.enqueue(1)


@pytest.mark.parametrize(
    ("task", "value", "text"),
    [
        (defined.add_async, True, "atomic=True needs a plain function: add_async is async"),
        (defined.add, 1, "atomic must be True or False"),
    ],
)
def test_what_cannot_be_atomic_is_refused_when_the_task_is_defined(task: Any, value: Any, text: str) -> None:
    with pytest.raises(InvalidTask, match=text):
        task.using(atomic=value)


def test_atomic_is_pickled() -> None:
    task = defined.add.using(atomic=True)
    assert pickle.loads(pickle.dumps(task)) == copy.deepcopy(task) == task  # noqa: S301 - it is our own
