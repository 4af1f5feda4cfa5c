"""``manage.py schedule``: people look at entries, run, pause, resume and change them."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import tzdata
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext

from mailrail.moments import aware, for_machines
from mailrail.schedule import run_now, schedulable
from mailrail.schedule.engine import look_at
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry
from mailrail.schedule.times import Cron, Every
from mailrail.schedule.zones import load_zone, zone_data
from mailrail.tasks import TaskRecord

from ..tasks import defined
from .conftest import declare, row

ADD = "tests.tasks.defined.add"
pytestmark = pytest.mark.usefixtures("on_database")


def schedule(*arguments: str) -> str:
    out = io.StringIO()
    call_command("schedule", *arguments, stdout=out)
    return out.getvalue()


def report(*arguments: str) -> Any:
    return json.loads(schedule(*arguments, "--json"))


def made(**columns: Any) -> None:
    """An entry that somebody has made in the admin."""
    schedulable(defined.add)
    defaults = {"name": "job", "cron": "*/10 * * * *", "zone": "UTC", "task": ADD, "args": [1]}
    ScheduleEntry.objects.using(database()).create(**{**defaults, **columns})


def test_the_next_runs_are_listed_by_the_clocks_of_the_entry_and_of_the_site(settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    declare(name="nightly", times=Cron("30 2 * * *", "America/Bogota"))
    declare(name="often", times=Every(300))
    nightly, *lines = schedule().splitlines()
    assert nightly == "nightly: on, 30 2 * * * in America/Bogota (At 02:30): the channel ledger"
    assert len([line for line in lines if line.startswith("  next run: ")]) == 10
    bogota, tokyo = lines[0].removeprefix("  next run: ").split(" = ")
    assert bogota.endswith("02:30:00-05:00 America/Bogota") and tokyo.endswith("16:30:00+09:00 Asia/Tokyo")
    assert "often: on, every 300 seconds: the channel ledger" in lines
    used, *others = zone_data()
    assert f"Time zones: {used}" in lines
    is_other_told = lines[-1] == f"The rest of this project uses {others[0]}." if others else False
    assert is_other_told is (used.is_package and bool(others) and others[0].version != used.version)


def test_scripts_read_the_next_runs_in_utc_and_which_zone_data_is_used() -> None:
    declare(times=Cron("30 2 * * *", "America/Bogota"), missed="all", jitter=5)
    found = report("list")
    [entry] = found["entries"]
    assert [moment[11:] for moment in entry["next"]] == ["07:30:00+00:00"] * 5
    expected = {"cron": "30 2 * * *", "tz": "America/Bogota", "seconds": None, "missed": "all", "jitter": 5}
    assert entry == entry | expected | {"on": True, "channel": "ledger", "last_run": None, "missed_count": 0}
    assert tzdata.IANA_VERSION in [data["version"] for data in found["zone_data"]]
    assert report() == found


def test_the_last_run_its_outcome_and_what_was_missed_are_listed() -> None:
    schedulable(defined.try_thrice)
    made(task="tests.tasks.defined.try_thrice", args=["raise"], missed="once")
    begin = datetime.now(UTC).replace(minute=5, second=0, microsecond=0)
    ScheduleEntry.objects.using(database()).update(decided_until=begin, times="")
    look_at(begin + timedelta(minutes=36))
    last = row().last
    assert last is not None and last.run_id is not None
    lines = schedule().splitlines()
    assert "  missed: 3, skipped: 0" in lines
    local = aware(last.tick).astimezone(load_zone())
    assert f"  last run: {local.isoformat(sep=' ')} {local.tzinfo}, waiting" in lines
    TaskRecord.objects.using(database()).filter(pk=last.run_id).update(status="FAILED")
    found = report()["entries"][0]["last_run"]
    assert found == {"tick": for_machines(last.tick), "id": str(last.run_id), "state": "failed"}


def test_a_long_list_takes_no_more_queries_than_a_short_one() -> None:
    counts: list[int] = []
    for _ in range(2):
        name = f"job {len(counts)}"
        made(name=name)
        run_now(name)
        with CaptureQueriesContext(connections[database()]) as queries:
            assert schedule().count(", waiting") == len(counts) + 1
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_an_entry_that_cannot_run_says_why() -> None:
    made(task="shop.tasks.gone")
    assert schedule().startswith("job: off. task: 'shop.tasks.gone' is not marked with @schedulable")
    [entry] = report()["entries"]
    assert not entry["on"] and "shop.tasks.gone" in entry["problem"] and entry["next"] == []


def test_an_entry_is_run_now() -> None:
    made()
    assert schedule("run", "job").startswith("job: ")
    assert list(report("run", "job")["run"]) == ["job"]
    assert TaskRecord.objects.using(database()).count() == 2


def test_an_entry_is_paused_and_resumed() -> None:
    declare()
    assert schedule("pause", "job", "--reason", "the partner moves") == "1 entry paused\n"
    assert schedule("pause", "job") == "0 entries paused\n"
    line = schedule().splitlines()[0]
    assert line.startswith("job: paused since ") and "(the partner moves), */10 * * * * in UTC" in line
    assert report("resume", "job") == {"resumed": ["job"]}
    assert schedule().startswith("job: on, ")


@pytest.mark.parametrize("action", ["run", "pause", "resume"])
def test_a_name_that_no_entry_has_is_refused_before_anything_is_done(action: str) -> None:
    declare()
    with pytest.raises(CommandError, match="The schedule has no entry 'jbo'"):
        schedule(action, "job", "jbo")
    assert row().paused_at is None and row().last is None


def test_an_entry_of_people_is_changed() -> None:
    made()
    changed = schedule("change", "job", "--cron", "0 9 * * 1", "--tz", "Asia/Tokyo", "--jitter", "30")
    assert changed.startswith("job: on, 0 9 * * 1 in Asia/Tokyo")
    assert (row().cron, row().zone, row().jitter) == ("0 9 * * 1", "Asia/Tokyo", 30)
    found = report("change", "job", "--every", "60", "--overlap", "queue", "--missed", "all")
    assert (found["cron"], found["tz"], found["seconds"], found["missed"]) == (None, None, 60, "all")
    schedule("change", "job", "--cron", "0 9 * * 1")
    assert (row().cron, row().zone, row().seconds) == ("0 9 * * 1", "", None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["--cron", "61 * * * *"],
            "The entry 'job' was not changed. The cron expression '61 * * * *' is wrong: Bad minute. It needs",
        ),
        (["--tz", "Mars"], "The entry 'job' was not changed. tz must be the name of a time zone"),
        (["--every", "5"], "The entry 'job' was not changed. every() needs whole seconds, at least 10"),
        (["--missed", "all"], "missed='all' needs overlap='queue' or 'allow'"),
        ([], "Say what to change: --cron, --tz, --every, --missed, --overlap or --jitter."),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(options: list[str], reason: str) -> None:
    made()
    with pytest.raises(CommandError) as caught:
        schedule("change", "job", *options)
    assert reason in str(caught.value)
    assert (row().cron, row().zone, row().missed) == ("*/10 * * * *", "UTC", "once")


def test_a_zone_has_no_effect_on_seconds_and_is_refused() -> None:
    made(cron="", zone="", seconds=60)
    with pytest.raises(CommandError, match="It counts seconds, and has no time zone"):
        schedule("change", "job", "--tz", "Asia/Tokyo")


def test_a_zone_beside_seconds_is_refused() -> None:
    made()
    with pytest.raises(CommandError, match="It counts seconds, and has no time zone"):
        schedule("change", "job", "--every", "60", "--tz", "Asia/Tokyo")


@pytest.mark.parametrize("was_made_before", [False, True])
def test_an_entry_of_code_is_changed_there(was_made_before: bool) -> None:
    if was_made_before:
        made()
    declare()
    with pytest.raises(
        CommandError, match=r"'job' is declared by code. Change it there; here it can be paused"
    ):
        schedule("change", "job", "--cron", "0 9 * * 1")


def test_an_empty_schedule_says_so() -> None:
    assert schedule().startswith("The schedule has no entries.\nTime zones: ")
