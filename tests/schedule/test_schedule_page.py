"""What the page "Every night" says is so: its code runs, and its tables are right."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from django.test import TestCase

from mailrail import routing
from mailrail.routing import Routing
from mailrail.schedule import registry
from mailrail.schedule.control import entries
from mailrail.schedule.engine import plan_of, ticks_between
from mailrail.schedule.times import Cron
from mailrail.schedule.zones import load_zone
from mailrail.testing import drain

from ..processes import ROOT
from .conftest import declare

PAGE = (ROOT / "docs" / "how-to" / "schedule.md").read_text()
SETTINGS, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| `([^`]+)`(?:, the default)? \| (.*) \|$", PAGE, re.MULTILINE)


def test_its_settings_name_apps_and_a_backend_that_there_are(settings: Any) -> None:
    names: dict[str, Any] = {"INSTALLED_APPS": []}
    exec(SETTINGS, names)
    assert {*names["INSTALLED_APPS"]} <= {*settings.INSTALLED_APPS}
    assert names["TASKS"]["default"]["BACKEND"] == settings.TASKS["default"]["BACKEND"]


@pytest.mark.django_db
def test_its_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailrail.routing._registered", [*routing._registered])
    monkeypatch.setattr(
        Routing, "of_layer", classmethod(lambda cls, alias=None: Routing(routing._registered))
    )
    monkeypatch.setitem(sys.modules, "shop.tasks", module := ModuleType("shop.tasks"))
    names = vars(module)
    names["report"] = lambda: 3
    for block in BLOCKS:
        exec(block, names)
    assert [entry.name for entry in entries()] == [
        *("index", "prices of France", "prices of Japan", "shop.tasks.nightly_report"),
        *("shop.tasks.ping_partners", "shop.tasks.refresh_rates"),
    ]
    assert registry.schedulable_tasks() == ["shop.tasks.send_newsletter"]
    assert len(drain()) == 1  # what the page has run by hand
    case = names["NightlyReportTests"]
    assert issubclass(case, TestCase)
    case("test_it_is_scheduled_and_runs").test_it_is_scheduled_and_runs()


def on_day(expression: str, month: int, day: int) -> list[datetime]:
    """The ticks of a day of 2027 in Berlin, by its clocks."""
    noon, zone = datetime(2027, month, day, 12, tzinfo=UTC), load_zone("Europe/Berlin")
    found = Cron(expression, "Europe/Berlin").ticks(noon - timedelta(hours=20), noon + timedelta(hours=20))
    return [local for tick in found if (local := tick.astimezone(zone)).day == day]


@pytest.mark.parametrize("row", [row for row in ROWS if row[0].endswith("*")], ids=lambda row: row[0])
def test_its_table_of_the_nights_in_which_clocks_change_is_right(row: tuple[str, str]) -> None:
    expression, cells = row
    for cell, (month, day) in zip(cells.split(" | "), [(3, 28), (10, 31)], strict=True):
        ticks = on_day(expression, month, day)
        half_past_two = sum(f"{tick:%H:%M}" == "02:30" for tick in ticks)
        words = {0: "none", 2: "two"}.get(half_past_two, "")
        offset = ticks[0].isoformat()[-6:]
        assert cell in (
            f"`{ticks[0]:%H:%M} {offset}`" if len(ticks) == 1 else "",
            f"{len(ticks)} runs",
            f"{len(ticks)} runs, {words} of them at 2:30",
        )


@pytest.mark.parametrize(("missed", "run", "count"), [("once", 1, 2), ("skip", 0, 3), ("all", 3, 0)])
def test_its_table_of_missed_ticks_is_right(missed: str, run: int, count: int) -> None:
    begin, end = (datetime(2027, 5, 1, *time, tzinfo=UTC) for time in ((1, 50), (4, 10)))
    definition = declare(times=Cron("0 * * * *", "UTC"), missed=missed)
    plan = plan_of(definition, ticks_between(definition.times, begin, end), end)
    assert (len(plan.run), plan.missed) == (run, count)
    assert len([name for name, _ in ROWS if name == f'"{missed}"']) == 1 + (missed == "skip")
