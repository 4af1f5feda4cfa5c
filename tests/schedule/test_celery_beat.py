"""``manage.py schedule import-celery-beat``: rows of django-celery-beat become entries, or it is said why not."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from mailrail.schedule import engine, resume, schedulable
from mailrail.schedule.models import ScheduleEntry, ScheduleTick

from . import beat_tables, imported

GREET = "tests.schedule.imported.greet"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def tables(db: None) -> None:
    schedulable(imported.greet)
    beat_tables.create("default")


def beat(name: str = "hello", task: str = GREET, **columns: Any) -> None:
    if not columns.keys() & {"crontab", "interval", "solar", "clocked", "untimed"}:
        columns["crontab"] = {"minute": "30", "hour": "2"}
    columns.pop("untimed", None)
    beat_tables.add("default", name, task, **columns)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("schedule", "import-celery-beat", *arguments, stdout=out)
    return out.getvalue()


def entries() -> dict[str, ScheduleEntry]:
    return {entry.name: entry for entry in ScheduleEntry.objects.all()}


def test_without_apply_nothing_is_written() -> None:
    beat()
    beat("gone", "shop.tasks.gone")
    lines = run().splitlines()
    assert lines[0].startswith("gone: left out, task: 'shop.tasks.gone' is not marked with @schedulable")
    assert lines[1].startswith("hello: 30 2 * * * in UTC (At 02:30): tests.schedule.imported.greet")
    assert lines[2].startswith("1 entry can be made of 2 rows. Nothing was written")
    assert entries() == {}


def test_rows_become_entries_that_people_can_change() -> None:
    beat("nightly", args='[1, "two"]', kwargs='{"three": [null]}')
    beat("often", interval={"every": 5, "period": "minutes"})
    assert "2 entries made of 2 rows." in run("--apply")
    nightly, often = entries()["nightly"], entries()["often"]
    assert (nightly.source, nightly.cron, nightly.seconds, nightly.task) == (
        "admin",
        "30 2 * * *",
        None,
        GREET,
    )
    assert (nightly.args, nightly.kwargs) == ([1, "two"], {"three": [None]})
    assert (often.cron, often.zone, often.seconds, often.args) == ("", "", 300, [])


def test_a_second_import_leaves_entries_alone() -> None:
    beat()
    run("--apply")
    entries()["hello"].delete()
    run("--apply")
    ScheduleEntry.objects.update(cron="0 5 * * *")
    assert "hello: left out, the schedule has an entry of this name already" in run("--apply")
    assert entries()["hello"].cron == "0 5 * * *"


@pytest.mark.parametrize(("columns", "zone"), [({}, "UTC"), ({"timezone": "Asia/Tokyo"}, "Asia/Tokyo")])
def test_an_entry_keeps_the_zone_of_its_row_whatever_the_site_has(
    columns: dict[str, str], zone: str, settings: Any
) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    beat(crontab={"minute": "0", "hour": "9", **columns})
    assert f"0 9 * * * in {zone}" in run("--apply")
    assert entries()["hello"].zone == zone


@pytest.mark.parametrize(("celery", "zone"), [("America/Bogota", "America/Bogota"), (None, "UTC")])
def test_where_beat_ignores_the_zones_of_rows_that_of_celery_is_kept(
    celery: str | None, zone: str, settings: Any
) -> None:
    settings.DJANGO_CELERY_BEAT_TZ_AWARE, settings.CELERY_TIMEZONE = False, celery
    beat(crontab={"timezone": "Asia/Tokyo"})
    run("--apply")
    assert entries()["hello"].zone == zone


def test_a_row_that_is_off_stays_off_and_missed_nothing() -> None:
    beat(enabled=False, crontab={}, last_run_at=None)
    assert ": tests.schedule.imported.greet, off" in run("--apply")
    now = datetime.now(UTC)
    engine.look_at(now + timedelta(minutes=30))
    assert entries()["hello"].paused_reason == "off in django-celery-beat"
    resume("hello")
    engine.look_at(datetime.now(UTC))
    assert not ScheduleTick.objects.exists()


def test_what_beat_has_not_run_for_long_is_not_run_at_once() -> None:
    beat(last_run_at=timezone.now() - timedelta(days=9), start_time=timezone.now() - timedelta(days=99))
    beat("never ran", interval={"every": 1, "period": "days"})
    run("--apply")
    engine.look_at(datetime.now(UTC))
    assert not ScheduleTick.objects.exists()
    assert [entry.missed_count for entry in entries().values()] == [0, 0]


def test_an_entry_runs_at_its_next_time() -> None:
    beat(crontab={})
    run("--apply")
    engine.look_at(datetime.now(UTC) + timedelta(seconds=61))
    assert ScheduleTick.objects.get().task == GREET


PAST, FUTURE = (datetime(year, 5, 1, 12, tzinfo=UTC) for year in (2020, 2090))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"crontab": {"hour": "{1, 2, 3}"}},
            "hour is the text of a Python set or list, {1, 2, 3}, which Celery cannot",
        ),
        ({"crontab": {"hour": "25"}}, "hour is '25', which Celery cannot read either"),
        (
            {"crontab": {"day_of_month": "13", "day_of_week": "5"}},
            "day_of_month and day_of_week are both given",
        ),
        ({"crontab": {"timezone": "Mars/Base"}}, "tz must be the name of a time zone"),
        ({"crontab": {"timezone": ""}}, "tz must be the name of a time zone"),
        ({"interval": {"every": 5, "period": "seconds"}}, "every() needs whole seconds, at least 10"),
        (
            {"interval": {"every": 500, "period": "microseconds"}},
            "every 500 microseconds is no whole number of seconds",
        ),
        (
            {"interval": {"every": 2_000_000_000, "period": "days"}},
            "every 2000000000 days is no length of time",
        ),
        (
            {"interval": {"every": 9000, "period": "days"}},
            "seconds must be zero or more, and ten years at most",
        ),
        (
            {"solar": {"event": "sunset", "latitude": "52.5", "longitude": "13.4"}, "enabled": True},
            "its times are solar: sunset at 52.5",
        ),
        ({"clocked": {"clocked_time": FUTURE}, "one_off": True}, "its time is clocked, at 2090-05-01"),
        ({"expires": PAST}, "it has expired at 2020-05-01"),
        ({"expires": FUTURE}, "it expires at 2090-05-01"),
        ({"start_time": FUTURE}, "it begins at 2090-05-01"),
        (
            {"one_off": True, "total_run_count": 1},
            "it is one_off and has run, or was turned off: never due again",
        ),
        (
            {"one_off": True, "enabled": False},
            "it is one_off and has run, or was turned off: never due again",
        ),
        ({"one_off": True}, "it is one_off, and entries repeat"),
        ({"args": "[1, 2"}, "args is no JSON"),
        ({"args": '{"a": 1}'}, "args is no JSON array"),
        ({"kwargs": "{'a': 1}"}, "kwargs is no JSON"),
        ({"kwargs": "[]"}, "kwargs is no JSON object"),
        (
            {"args": '[{"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}]'},
            "args has an object that only Celery's JSON knows",
        ),
        ({"args": "[NaN]"}, "args[0] is nan, which JSON"),
        ({"untimed": True}, "it has no times"),
        ({"crontab": {}, "interval": {"every": 1, "period": "days"}}, "it has interval_id and crontab_id"),
        ({"untimed": True, "crontab_id": 99}, "its crontab_id names no row"),
        ({"task": "celery.backend_cleanup"}, "it is a task of Celery itself"),
        ({"task": "tests.schedule.imported.unmarked"}, "is not marked with @schedulable"),
    ],
)
def test_a_row_that_cannot_be_taken_over_is_named_with_the_reason(
    columns: dict[str, Any], reason: str
) -> None:
    beat(**columns)
    output = run("--apply")
    assert output.startswith("hello: left out, ") and reason in output
    assert "0 entries made of 1 row." in output and entries() == {}


def test_what_an_entry_does_not_keep_is_told() -> None:
    beat(queue="slow", priority=3, expire_seconds=60, headers='{"tenant": 7}')
    beat("often", interval={"every": 1, "period": "days"})
    output = run()
    assert "  queue, priority, expire_seconds, headers not taken over" in output
    assert "  counted from 1970 in UTC, and no longer from its last run" in output


def test_a_task_may_have_another_path_now() -> None:
    beat(task="shop.hello")
    run("--apply", "--task", f"shop.hello={GREET}")
    assert entries()["hello"].task == GREET
    with pytest.raises(CommandError, match=r"must be OLD=NEW, two names of tasks, not 'shop\.hello'"):
        call_command("schedule", "import-celery-beat", "--task=shop.hello")


def test_scripts_can_read_what_becomes_of_rows() -> None:
    beat(enabled=False)
    beat("sunset", solar={"event": "sunset", "latitude": "52.5", "longitude": "13.4"})
    found = json.loads(run("--json"))
    assert found["applied"] is False
    hello, sunset = found["rows"]
    assert (hello["cron"], hello["tz"], hello["on"], hello["refusal"]) == ("30 2 * * *", "UTC", False, "")
    assert sunset["name"] == "sunset" and sunset["refusal"].startswith("its times are solar")


@pytest.mark.django_db(databases=["default", "postgres"])
def test_the_tables_may_be_in_another_database() -> None:
    beat_tables.create("postgres")
    beat_tables.add("postgres", "elsewhere", GREET, interval={"every": 2, "period": "hours"})
    assert run("--database", "postgres").startswith("elsewhere: every 7,200 seconds: ")
    run("--database", "postgres", "--apply")
    assert entries()["elsewhere"].seconds == 7200


def test_missing_tables_and_columns_are_named() -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_celery_beat_periodictask DROP COLUMN expire_seconds")
        cursor.execute("DROP TABLE django_celery_beat_clockedschedule")
    missing = r"no django_celery_beat_clockedschedule, django_celery_beat_periodictask\.expire_seconds\. Name"
    with pytest.raises(CommandError, match=missing):
        run()


def test_a_database_that_does_not_exist_is_named() -> None:
    with pytest.raises(CommandError, match=r"There is no database 'old'\. Name one of DATABASES: default"):
        run("--database", "old")
