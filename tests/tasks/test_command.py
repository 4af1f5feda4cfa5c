"""``manage.py tasks``: people look at tasks, run them again, cancel and remove them."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.db.models import F

from mailrail import testing
from mailrail.layers import DurableLayer
from mailrail.tasks import TaskRecord, cancel, enqueue_many
from mailrail.tasks.compat import task_backends

from . import defined

UNKNOWN = "01234567-89ab-7def-8123-456789abcdef"
pytestmark = pytest.mark.usefixtures("on_layer")


def tasks(*arguments: str) -> str:
    out = io.StringIO()
    call_command("tasks", *arguments, stdout=out)
    return out.getvalue()


def report(*arguments: str) -> Any:
    return json.loads(tasks(*arguments, "--json"))


def failing(*arguments: str) -> tuple[str, str]:
    """Return what is printed, and the error."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("tasks", *arguments, stdout=out)
    return out.getvalue(), str(caught.value)


def records() -> Any:
    backend: Any = task_backends["default"]
    return TaskRecord.objects.using(backend.database)


def failed() -> Any:
    result = defined.try_thrice.using(attempts=1).enqueue("raise")
    testing.drain(raise_errors=False)
    return result


def test_the_newest_tasks_are_listed_first_with_their_last_error() -> None:
    assert tasks() == "There are no tasks.\n" and report() == []
    first, second = failed(), defined.add.using(queue_name="reports").enqueue(1)
    head, *rows = tasks("list").splitlines()
    assert head.split()[:4] == ["task", "status", "function", "queue"]
    assert [row.split()[:4] for row in rows] == [
        [second.id, "READY", "tests.tasks.defined.add", "reports"],
        [first.id, "FAILED", "tests.tasks.defined.try_thrice", "default"],
    ]
    assert "tests.tasks.defined.Broken: boom" in rows[1]
    assert [row["id"] for row in report("list")] == [second.id, first.id] == [row["id"] for row in report()]
    assert (
        report("list")[1] | {"error": "tests.tasks.defined.Broken: boom", "attempts": 1} == report("list")[1]
    )


def test_a_list_can_be_narrowed() -> None:
    one, two = failed(), defined.add.using(queue_name="reports").enqueue(1)

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in report("list", *options)]

    assert (
        ids("--status", "FAILED")
        == ids("--task", one.task.module_path)
        == ids("--queue", "default")
        == [one.id]
    )
    assert ids("--queue", "reports") == ids("--limit", "1") == [two.id]
    assert tasks("list", "--queue", "nothing") == "There are no such tasks.\n"


def test_all_of_a_task_is_shown_and_nothing_steers_the_terminal() -> None:
    result = defined.do.enqueue("\x1b[2J")
    broken = failed()
    text = tasks("show", result.id, broken.id)
    assert "\x1b" not in text and r'args: ["\u001b[2J"]' in text and "status: SUCCESSFUL" in text
    assert "error 1: tests.tasks.defined.Broken" in text and 'raise Broken("boom")' in text
    [facts] = report("show", result.id)
    assert (facts["args"], facts["return_value"], facts["errors"]) == (["\x1b[2J"], "\x1b[2J", [])
    printed, error = failing("show", result.id, UNKNOWN)
    assert result.id in printed and error == f"There is no such task: {UNKNOWN}"


def test_a_failed_task_is_retried_in_its_record_and_others_are_refused() -> None:
    broken, waiting = failed(), defined.add.enqueue(1)
    printed, error = failing("retry", broken.id, waiting.id, UNKNOWN)
    assert printed == "1 retried\n"
    assert error.startswith("Not retried: ")
    assert f"{waiting.id}: it waits to run already" in error and f"{UNKNOWN}: there is no such task" in error
    broken.refresh()
    assert broken.status == "READY"
    testing.drain(raise_errors=False)
    broken.refresh()
    assert (broken.status, broken.attempts) == ("FAILED", 2)


def test_all_failed_tasks_can_be_retried_and_all_that_wait_be_cancelled() -> None:
    first, second = failed(), failed()
    other = defined.do.enqueue("raise")
    testing.drain(raise_errors=False)
    chosen = report("retry", "--all", "--task", first.task.module_path)
    assert sorted(chosen["retried"]) == sorted([first.id, second.id]) and chosen["refused"] == {}
    other.refresh()
    assert other.status == "FAILED"
    enqueue_many(defined.add, [((n,), {}) for n in range(3)])
    assert tasks("cancel", "--all", "--queue", "default") == "5 cancelled\n"
    assert tasks("cancel", "--all") == "0 cancelled\n"
    assert not testing.tasks()


def test_all_but_those_whose_key_is_taken_are_retried_and_these_are_counted() -> None:
    for _ in range(2):
        cancel(defined.once.enqueue(1))
    defined.once.enqueue(1)
    error = io.StringIO()
    call_command("tasks", "retry", "--all", stdout=io.StringIO(), stderr=error)
    assert error.getvalue() == "2 not retried: another task with its key waits, or runs\n"


def test_a_cancelled_task_does_not_run(on_layer: DurableLayer) -> None:
    result = defined.add.enqueue(1)
    assert report("cancel", result.id) == {"cancelled": [result.id], "refused": {}}
    assert failing("cancel", result.id)[1] == f"Not cancelled: {result.id}: it has failed already"
    records().filter(pk=result.id).update(status="RUNNING", finished_at=None, cancelled_at=F("enqueued_at"))
    assert "RUNNING, cancelled" in tasks()


def test_results_are_removed_that_were_kept_long_enough_or_are_old() -> None:
    old, new, waiting = failed(), failed(), defined.add.enqueue(1)
    records().filter(pk=old.id).update(
        kept_until=F("finished_at") - timedelta(1), finished_at=F("finished_at") - timedelta(9)
    )
    records().filter(pk=new.id).update(finished_at=F("finished_at") - timedelta(3))
    assert tasks("prune") == "1 result removed\n"
    assert report("prune", "--older-than", "4") == {"removed": 0}
    assert tasks("prune", "--older-than", "2") == "1 result removed\n"
    assert [str(pk) for pk in records().values_list("pk", flat=True)] == [waiting.id]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["retry"], "Name the ids of tasks (see: tasks list), or give --all"),
        (["cancel", UNKNOWN, "--all"], "Name the ids of tasks"),
        (["retry", UNKNOWN, "--queue", "default"], "Name the ids of tasks"),
        (["show", "7"], "invalid UUID value: '7'"),
        (["show"], "arguments are required: id"),
        (["list", "--status", "BROKEN"], "invalid choice: 'BROKEN'"),
        (["prune", "--older-than", "-1"], "must be days, zero or more"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], text: str) -> None:
    assert text in failing(*arguments)[1]


def test_missing_tables_are_said_with_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **conditions: Any) -> Any:
        raise OperationalError("no such table: mailrail_tasks_taskrecord")

    monkeypatch.setattr("mailrail.tasks.overview.newest", refuse)
    with pytest.raises(CommandError) as caught:
        tasks()
    assert str(caught.value) == (
        "no such table: mailrail_tasks_taskrecord. Run: python manage.py migrate mailrail_tasks"
    )


def test_a_cancelled_result_is_told_apart_in_a_list() -> None:
    cancel(defined.add.enqueue(1))
    [row] = report()
    assert row["status"] == "FAILED" and row["error"].startswith("TaskCancelled: Somebody cancelled it")
