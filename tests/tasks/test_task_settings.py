"""Settings of tasks: checks, queues that nobody has named, and backends that are made before apps are ready."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from django.utils import timezone

from mailrail import testing
from mailrail.routing import Routing
from mailrail.signals import worker_maintenance
from mailrail.tasks import TaskRecord
from mailrail.tasks.compat import task_backends
from mailrail.tasks.retention import prune

from ..processes import ROOT
from . import defined

BACKEND = "mailrail.tasks.ChannelBackend"


def checked(**params: Any) -> dict[str, str]:
    """Return the errors of a backend with these settings, by id."""
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, **params}}):
        backend: Any = task_backends["default"]
        return {error.id: f"{error.msg} {error.hint}" for error in backend.check()}


def test_right_settings_have_no_errors() -> None:
    assert checked() == checked(QUEUES=[], OPTIONS={"attempts": 3, "DATABASE": "other", "TASKS": {}}) == {}


@pytest.mark.parametrize(
    ("params", "id", "text"),
    [
        ({"OPTIONS": {"tries": 3}}, "E001", "['OPTIONS']['tries']: there is no such option"),
        (
            {"OPTIONS": {"TASKS": {"a.b": {"attempts": 0}}}},
            "E001",
            "['TASKS']['a.b']['attempts'] must be a whole number",
        ),
        ({"OPTIONS": {"TASKS": ["a.b"]}}, "E001", "must be a dictionary of options by dotted path"),
        ({"OPTIONS": {"DATABASE": 1}}, "E001", "must be an alias in DATABASES"),
        ({"QUEUES": ["default", "a b"]}, "E002", "'a b'"),
        ({"ENQUEUE_ON_COMMIT": True}, "E003", "in the transaction of its caller"),
        ({"OPTIONS": {"DATABASE": "nowhere"}}, "E005", "'nowhere', which is not in DATABASES"),
    ],
)
def test_a_mistake_in_the_settings_is_an_error_that_says_what_to_do(params: Any, id: str, text: str) -> None:
    [(found, said)] = checked(**params).items()
    assert found == f"mailrail.tasks.{id}" and text in said


def test_an_app_that_is_not_installed_is_an_error(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail.tasks"]
    assert "'mailrail.tasks', which is not in INSTALLED_APPS" in checked()["mailrail.tasks.E004"]


@pytest.mark.django_db
def test_a_queue_that_no_setting_names_is_served() -> None:
    with override_settings(TASKS={"default": {"BACKEND": BACKEND, "QUEUES": []}}):
        result = defined.add.using(queue_name="any-name").enqueue(1)
        testing.drain()
        result.refresh()
    assert result.return_value == 1


@pytest.mark.django_db
def test_results_are_removed_after_their_time_by_whatever_queue_a_worker_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Routing.of_layer()  # imports the consumers, and with them what prunes
    kept = [defined.do.enqueue("x"), defined.do.enqueue("raise"), defined.do.using(retention=60).enqueue("x")]
    testing.drain(raise_errors=False)
    waiting = defined.add.enqueue(1)
    records: list[Any] = [TaskRecord.objects.get(pk=result.id) for result in kept]
    days = [(record.kept_until - timezone.now()) / timedelta(days=1) for record in records]
    assert [round(day) for day in days] == [7, 30, 0]
    monkeypatch.setattr("mailrail.tasks.consumers._pruned_at", float("-inf"))
    for passed, left in ((59, 4), (2, 3), (7 * 86400, 2), (23 * 86400, 1)):
        testing.advance(passed)
        worker_maintenance.send("tasks.reports")
        worker_maintenance.send("tasks.reports")  # soon again: one look is enough
        monkeypatch.setattr("mailrail.tasks.consumers._pruned_at", float("-inf"))
        assert TaskRecord.objects.count() == left
    assert TaskRecord.objects.get().pk.hex == waiting.id.replace("-", "")
    assert prune("default") == 0


def test_a_package_whose_init_has_a_task_can_be_an_installed_app(tmp_path: Path) -> None:
    """Django imports it before there can be models, and the decorator makes the backend, but no layer and no model."""
    package = tmp_path / "early_app"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "import sys\nfrom mailrail.tasks import task\n\n@task(attempts=2)\ndef early():\n    return 1\n\n"
        "models = [name for name in sys.modules if name.startswith('mailrail') and name.endswith('models')]\n"
    )
    tmp_path.joinpath("early_settings.py").write_text(
        "from tests.settings import *\nINSTALLED_APPS = ['early_app', *INSTALLED_APPS]\n"
    )
    code = (
        "import django; django.setup(); import early_app; from django.db import connections;"
        "from channels.layers import channel_layers;"
        "print(early_app.early.attempts, early_app.models, [c for c in connections.all(True) if c.connection],"
        "channel_layers.backends)"
    )
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "early_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src")]),
    }
    command = [sys.executable, "-W", "error", "-c", code]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.stdout == "2 [] [] {}\n", ended.stderr
