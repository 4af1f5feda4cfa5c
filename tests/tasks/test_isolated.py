"""Tasks with ``isolate=True``: what their messages say, and where they run without a worker."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.test import override_settings

from mailrail import testing
from mailrail.layers import get_layer
from mailrail.routing import Routing
from mailrail.tasks import TaskRecord, control
from mailrail.tasks.compat import InvalidTask
from mailrail.tasks.sending import content_of

from . import defined

BACKEND = "mailrail.tasks.ChannelBackend"
TASKS: Any = (defined.add, defined.add_async)


def contents() -> list[dict[str, Any]]:
    layer = get_layer()
    summaries = layer.list_messages(["tasks.default"], 9)
    return [message.content for message in layer.get("tasks.default", [each.id for each in summaries])]


def route_of(content: dict[str, Any]) -> Any:
    routes = Routing.of_layer().plan_for("tasks.default").routes
    return next(route for route in routes if route.match(content) is not None)


@pytest.mark.django_db
@pytest.mark.parametrize("results", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_the_message_goes_to_an_isolated_consumer_of_its_kind(task: Any, results: bool) -> None:
    for isolate in (True, False):
        task.using(isolate=isolate, results=results).enqueue(1)
    routes = [route_of(content) for content in contents()]
    assert sorted(route.policy.isolate for route in routes) == [False, True]
    assert {route.is_async for route in routes} == {task is defined.add_async}


@pytest.mark.django_db
@pytest.mark.parametrize("task", TASKS)
def test_drain_and_eager_tasks_run_it_in_this_process(task: Any) -> None:
    defined.ran.clear()
    result = task.using(isolate=True).enqueue(1, 2)
    testing.drain()
    result.refresh()
    assert result.return_value == 3
    with testing.eager_tasks():
        assert task.using(isolate=True).enqueue(2, 2).return_value == 4
    assert defined.ran == [(1, 2), (2, 2)]


@pytest.mark.django_db
def test_settings_isolate_tasks_by_their_path_and_a_copy_is_isolated_too() -> None:
    path = defined.add.module_path
    options = {"isolate": True, "TASKS": {path: {"isolate": False}}}
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}):
        results = [defined.add.enqueue(1), defined.do.enqueue("x")]
        testing.drain()
    copies = control.run_again_all([UUID(result.id) for result in results]).copies
    pks = [*(result.id for result in results), *(copies[UUID(result.id)] for result in results)]
    records = [TaskRecord.objects.get(pk=pk) for pk in pks]
    assert [content_of(record).get("run") for record in records] == [None, "isolated"] * 2


def test_a_value_that_is_no_bool_is_refused() -> None:
    with pytest.raises(InvalidTask, match="isolate must be True or False, not 1"):
        defined.add.using(isolate=1)  # type: ignore[call-arg,unused-ignore]


def test_runserver_does_not_name_consumers_of_mailrail_itself_as_isolated() -> None:
    assert not [name for name in Routing.of_layer().with_isolate if name.startswith("tasks")]
