"""The form of entries: it offers what code has marked, and shows each mistake at its field."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mailrail.schedule import schedulable
from mailrail.schedule.forms import ScheduleEntryForm

from ..tasks import defined
from .conftest import declare

ADD = "tests.tasks.defined.add"

pytestmark = pytest.mark.django_db


def form(**changed: Any) -> ScheduleEntryForm:
    """The form as a person has filled it in."""
    usual = {"name": "mine", "target": f"task:{ADD}", "cron": "30 6 * * 1-5", "zone": "", "seconds": ""}
    given = {"args": "[7]", "kwargs": "", "content": "", "missed": "once", "overlap": "skip", "jitter": "0"}
    return ScheduleEntryForm({**usual, **given, **changed})


@pytest.fixture(autouse=True)
def marked() -> None:
    schedulable(defined.add)
    schedulable(channel="ledger")(print)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"cron": "", "seconds": "60"},
        {"zone": "Asia/Tokyo", "jitter": "2.5"},
        {"args": "[]", "kwargs": '{"a": 1, "b": 2}'},
        {"target": "channel:ledger", "args": "", "content": '{"a": [1, null]}'},
        {"missed": "all", "overlap": "queue"},
    ],
    ids=str,
)
def test_what_is_right_is_taken(changed: dict[str, str]) -> None:
    assert form(**changed).errors == {}


@pytest.mark.parametrize(
    "target",
    [
        "task:os.system",
        "task:tests.tasks.defined.do",
        "channel:mailrail.mail",
        "channel:index",
        ADD,
        "task:",
        "",
    ],
)
def test_only_what_code_has_marked_can_be_named(target: str) -> None:
    assert [*form(target=target, task="os.system", channel="mailrail.mail").errors] == ["target"]


def test_a_task_that_is_marked_and_not_there_is_told_at_its_field() -> None:
    class Gone:
        module_path = "tests.tasks.defined.gone"

    schedulable(Gone)
    assert "there is no task" in form(target=f"task:{Gone.module_path}").errors["target"][0]


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "job"}),
        ("name", {"name": "a\u202eb"}),
        ("name", {"name": "x" * 201}),
        ("cron", {"cron": "61 * * * *"}),
        ("cron", {"cron": "0 0 30 2 *"}),
        ("cron", {"cron": "* * * * * *"}),
        ("cron", {"cron": ""}),
        ("seconds", {"cron": "", "seconds": "9"}),
        ("seconds", {"cron": "", "seconds": "1.5"}),
        ("seconds", {"seconds": "60"}),
        ("zone", {"zone": "Europe/Atlantis"}),
        ("zone", {"zone": "../../etc/passwd"}),
        ("zone", {"cron": "", "seconds": "60", "zone": "Europe/Berlin"}),
        ("args", {"args": "{"}),
        ("args", {"args": '{"a": 1}'}),
        ("args", {"args": '["\\u0000"]'}),
        ("args", {"args": '["\\ud800"]'}),
        ("args", {"args": "[]"}),
        ("args", {"args": "[1, 2, 3]"}),
        ("args", {"kwargs": '{"c": 1}'}),
        ("kwargs", {"kwargs": "[1]"}),
        ("content", {"content": "[1]"}),
        ("content", {"content": '{"a": 1}'}),
        ("args", {"target": "channel:ledger"}),
        ("missed", {"missed": "all"}),
        ("missed", {"missed": "never"}),
        ("overlap", {"overlap": "never"}),
        ("jitter", {"jitter": "-1"}),
        ("jitter", {"jitter": "nan"}),
    ],
    ids=str,
)
def test_a_mistake_is_shown_at_its_field(field: str, changed: dict[str, str]) -> None:
    declare()
    assert [*form(**changed).errors] == [field]


@pytest.mark.parametrize("args", ["[" + "9" * 5000 + "]", "[" * 100_000, "[" * 800 + "]" * 800], ids=len)
def test_json_that_python_cannot_read_is_refused_at_its_field(args: str) -> None:
    assert [*form(args=args).errors] == ["args"] or "nested deeper" in str(form(args=args).errors)


@pytest.mark.parametrize("args", ["[NaN]", "[1e999]"])
def test_numbers_that_json_does_not_have_are_refused(args: str) -> None:
    assert not form(args=args).is_valid()


def test_without_the_package_that_reads_them_cron_expressions_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare()
    monkeypatch.setitem(sys.modules, "cronsim", None)
    assert "pip install" in form(cron="17 4 * * *").errors["cron"][0]
