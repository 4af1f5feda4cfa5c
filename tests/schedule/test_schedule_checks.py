"""What system checks say of the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from mailrail.checks import check_settings
from mailrail.schedule import registry
from mailrail.schedule.checks import check_schedule
from mailrail.schedule.times import Every

from .conftest import declare

ADD = "tests.tasks.defined.add"
SECOND_IS_WRONG = """
from mailrail.schedule import periodic
from mailrail.tasks import task

@periodic("0 2 * * *")
@task
def first(): ...

@periodic("0 25 * * *")
@task
def second(): ...
"""


def said() -> list[tuple[str, str]]:
    return [(str(message.id).removeprefix("mailrail.schedule."), message.msg) for message in check_schedule()]


def test_entries_that_can_run_are_no_message() -> None:
    declare(name="task", task=ADD, args=[1])
    declare(name="message")
    assert not said()


@pytest.mark.parametrize(
    ("options", "id", "text"),
    [
        (
            {"task": "tests.tasks.defined.nowhere"},
            "E003",
            "there is no task at 'tests.tasks.defined.nowhere'",
        ),
        (
            {"task": "tests.tasks.defined.in_lane", "overlap": "queue", "args": [1, 2]},
            "E004",
            "has a lane, or concurrency",
        ),
        (
            {"task": "tests.tasks.defined.limited", "overlap": "queue", "args": [1, 2]},
            "E004",
            "has a lane, or concurrency",
        ),
        ({"task": ADD, "kwargs": {"a": 1, "c": 2}}, "E005", "got an unexpected keyword argument 'c'"),
        ({"task": "tests.tasks.defined.count"}, "E005", "missing a required argument: 'last'"),
        ({"channel": "nobody"}, "W001", "No route for channel 'nobody'"),
    ],
)
def test_an_entry_that_cannot_run_is_named(options: dict[str, Any], id: str, text: str) -> None:
    declare(**options)
    [(found, message)] = said()
    assert found == id and message.startswith("job: ") and text in message


def test_a_task_whose_records_are_in_another_database_is_an_error(settings: Any) -> None:
    settings.TASKS = {
        "default": {"BACKEND": "mailrail.tasks.ChannelBackend", "OPTIONS": {"DATABASE": "other"}}
    }
    declare(task=ADD)
    [(id, message)] = said()
    assert id == "E003" and "in the database 'other', and the schedule is in 'default'" in message


def test_apps_that_are_missing_are_named() -> None:
    declare(task=ADD)
    with override_settings(INSTALLED_APPS=["mailrail", "mailrail.schedule"]):
        assert said() == [("E002", "The schedule needs 'mailrail.tasks' in INSTALLED_APPS.")]
    with override_settings(INSTALLED_APPS=["mailrail.schedule"]):
        assert said() == [("E002", "The schedule needs 'mailrail' in INSTALLED_APPS.")]


@pytest.mark.parametrize(
    ("code", "id", "text"),
    [
        (
            "from mailrail.schedule import periodic\nperiodic('every day', channel='index')(print)\n",
            "E001",
            "ValueError: The cron",
        ),
        (
            SECOND_IS_WRONG,
            "E001",
            "ValueError: The cron expression '0 25 * * *' is wrong",
        ),
        ("import a_package_that_nobody_has\n", "W002", "ModuleNotFoundError: No module named 'a_package"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_its_error(
    code: str, id: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"wrong_entries_{abs(hash(code))}"
    folder = tmp_path / name
    folder.mkdir()
    folder.joinpath("__init__.py").touch()
    folder.joinpath("tasks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_are_imported", False)
    monkeypatch.setattr(registry, "_broken", [])
    with override_settings(INSTALLED_APPS=["mailrail", "mailrail.schedule", name]):
        [(found, message)] = said()
    assert found == id and message.startswith(f"{name}.tasks cannot be imported: {text}")


def test_times_that_are_seconds_need_no_package() -> None:
    declare(times=Every(10))
    assert not said()


def test_an_app_that_declares_entries_without_the_schedule_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, code in {"with_entries": SECOND_IS_WRONG, "without_entries": "import json\n"}.items():
        tmp_path.joinpath(name).mkdir()
        tmp_path.joinpath(name, "__init__.py").touch()
        tmp_path.joinpath(name, "tasks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    def warned(*names: str) -> list[str]:
        with override_settings(INSTALLED_APPS=["mailrail", *names, "without_entries"]):
            return [message.msg for message in check_settings() if message.id == "mailrail.W009"]

    [text] = warned("with_entries")
    assert text.startswith(
        'with_entries.tasks uses mailrail.schedule, and "mailrail.schedule" is not in INSTALLED_APPS'
    )
    assert not warned("with_entries", "mailrail.schedule")
    assert not warned()


def test_a_layer_that_cannot_be_used_is_no_mistake_of_each_entry(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "mailrail.layers.Misspelt"}}
    declare(task=ADD, args=[1])
    assert not said()
    assert [message.id for message in check_settings()].count("mailrail.E002") == 1
