"""Which ticks run, and that each one runs once."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from mailrail.layers import DurableLayer
from mailrail.moments import as_django
from mailrail.schedule import control, engine, registry, retention
from mailrail.schedule.choices import ADMIN
from mailrail.schedule.engine import look_at
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry
from mailrail.schedule.times import Cron, Every
from mailrail.tasks import TaskRecord
from mailrail.testing.messages import send_deferred

from .conftest import LAYERS, NOON, decided_until, declare, in_utc, row, ticks

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ADD = "tests.tasks.defined.add"


def minutes(*numbers: int) -> list[datetime]:
    return [NOON + number * MINUTE for number in numbers]


def test_the_first_look_runs_nothing_and_says_when_the_next_tick_is(on_database: DurableLayer) -> None:
    declare()
    assert look_at(NOON + MINUTE) == NOON + 10 * MINUTE
    assert not ticks() and decided_until() == NOON + MINUTE


def test_a_tick_enqueues_a_task_with_its_arguments_and_the_moment(on_layer: DurableLayer) -> None:
    declare(task=ADD, args=[1], kwargs={"b": 2})
    look_at(NOON)
    assert look_at(NOON + 10 * MINUTE) == NOON + 20 * MINUTE
    record = TaskRecord.objects.using(database()).get()
    assert (record.task, record.args, record.kwargs) == (ADD, [1], {"b": 2})
    assert record.metadata == {"schedule": "job", "tick": "2026-11-30T12:10:00+00:00"}
    last = row().last
    assert last is not None and (last.run_id, last.task, last.channel) == (record.pk, ADD, "tasks.default")
    assert ticks() == minutes(10)


def test_a_tick_sends_a_message_with_its_content_and_the_moment(on_layer: DurableLayer) -> None:
    declare(content={"all": True})
    look_at(NOON)
    look_at(NOON + 10 * MINUTE)
    last = row().last
    assert last is not None and last.run_id is not None
    [message] = on_layer.get("ledger", [last.run_id])
    assert message.content == {"all": True}
    assert message.headers == {"schedule": "job", "tick": "2026-11-30T12:10:00+00:00"}


def test_a_tick_is_decided_once_by_all_who_have_read_the_same_row(on_database: DurableLayer) -> None:
    definition = declare(task=ADD)
    look_at(NOON)
    first, second = row(), row()
    for read in (first, second):
        engine._decide(definition, read, NOON + 10 * MINUTE)
    look_at(NOON + 10 * MINUTE)
    assert ticks() == minutes(10) and TaskRecord.objects.using(database()).count() == 1


def test_a_run_of_people_that_begins_during_a_look_is_the_last_one(on_database: DurableLayer) -> None:
    definition = declare(task=ADD, args=[1], overlap="skip")
    look_at(NOON)
    read = row()
    control.run_now("job")
    engine._decide(definition, read, NOON + 10 * MINUTE)
    look_at(NOON + 10 * MINUTE)
    last = row().last
    assert not ticks() and ticks("overlapped") == minutes(10)
    assert last is not None and last.decision == "by hand"


def test_a_run_of_people_locks_the_entry_before_the_key_of_its_task_as_workers_do(
    on_database: DurableLayer,
) -> None:
    declare(task=ADD, args=[1])
    look_at(NOON)
    with CaptureQueriesContext(connections[database()]) as queries:
        control.run_now("job")
    written = [each["sql"] for each in queries if each["sql"].startswith(("UPDATE", "INSERT", "WITH"))]
    assert written[0].startswith('UPDATE "mailrail_schedule_scheduleentry"')


@pytest.mark.parametrize("on_database", [LAYERS[1]], indirect=True)
def test_without_statistics_an_entry_is_moved_by_its_key_however_many_there_are(
    on_database: DurableLayer,
) -> None:
    declare()
    look_at(NOON)
    with CaptureQueriesContext(connections[database()]) as queries:
        engine._move(row(), decided_until=as_django(NOON))
    [update] = [each["sql"] for each in queries if each["sql"].startswith("UPDATE")]
    with connections[database()].cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {update}")
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert plan.count("Index Cond: (id = ") == 2, plan


@pytest.mark.django_db(transaction=True, databases=["default", "postgres"])
@pytest.mark.parametrize("on_database", ["postgres"], indirect=True)
def test_an_entry_that_a_lost_worker_has_locked_keeps_no_other_from_running(
    on_database: DurableLayer,
) -> None:
    declare(name="locked", task=ADD)
    declare(name="other", task=ADD)
    look_at(NOON)
    lost = connections["postgres"].copy()
    try:
        lost.set_autocommit(False)
        with lost.cursor() as cursor:
            cursor.execute("SELECT id FROM mailrail_schedule_scheduleentry WHERE name = 'locked' FOR UPDATE")
        look_at(NOON + 10 * MINUTE)
        assert row("other").last is not None and row("locked").last is None
    finally:
        lost.close()
    look_at(NOON + 10 * MINUTE)
    assert row("locked").last is not None and TaskRecord.objects.using(database()).count() == 2


@pytest.mark.parametrize("on_layer", [LAYERS[2]], indirect=True)
@pytest.mark.parametrize(
    "what", [{"task": "tests.tasks.defined.send_alone", "args": [1, 2]}, {"channel": "ledger"}]
)
def test_what_leaves_no_record_is_sent_to_redis_before_the_tick_commits_and_once_if_that_fails(
    what: dict[str, Any], on_layer: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(**what)
    look_at(NOON)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_note", lambda *args: 1 / 0)
        look_at(NOON + 10 * MINUTE)
    look_at(NOON + 10 * MINUTE)
    channels = [what.get("channel", "tasks.default")]
    assert len(on_layer.list_messages(channels, 9)) == 1 and ticks() == minutes(10)


@pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError])
def test_what_fails_in_mid_tick_leaves_no_trace_and_is_done_by_the_next_look(
    error: type[Exception],
    on_database: DurableLayer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    declare(task=ADD)
    declare(name="other", task=ADD)
    look_at(NOON)
    usual: Callable[..., Any] = engine._note

    def fail(row: ScheduleEntry, *rest: Any) -> Any:
        if row.name == "job":
            raise error
        return usual(row, *rest)

    monkeypatch.setattr(engine, "_note", fail)
    for _ in range(3):
        look_at(NOON + 10 * MINUTE)
    assert TaskRecord.objects.using(database()).count() == 1 and row("other").last is not None
    assert row().last is None and caplog.text.count("job cannot run, trying again every 10 s") == 1
    monkeypatch.setattr(engine, "_note", usual)
    look_at(NOON + 10 * MINUTE)
    assert TaskRecord.objects.using(database()).count() == 2 and row().last is not None


# -- missed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missed", "late", "run", "counted"),
    [
        ("skip", 5 * MINUTE, [], 12),
        ("once", 5 * MINUTE, [120], 11),
        ("all", 5 * MINUTE, range(10, 130, 10), 0),
        ("skip", 59 * timedelta(seconds=1), [120], 11),
        ("skip", timedelta(seconds=61), [], 12),
    ],
)
def test_after_an_outage_of_two_hours_the_policy_decides_what_runs(
    missed: str, late: timedelta, run: Any, counted: int, on_database: DurableLayer
) -> None:
    declare(missed=missed)
    look_at(NOON)
    assert look_at(NOON + 2 * HOUR + late) == NOON + 130 * MINUTE
    assert ticks() == minutes(*run) and row().missed_count == counted
    look_at(NOON + 2 * HOUR + late)
    assert ticks() == minutes(*run) and row().missed_count == counted


@pytest.mark.django_db
@pytest.mark.parametrize("days", [1, 365 * 3])
def test_of_a_long_outage_the_last_hundred_ticks_are_run_and_at_most_10_000_counted(days: int) -> None:
    definition = declare(missed="all", times=Cron("* * * * *", "UTC"))
    until = NOON + timedelta(days=days)
    plan = engine.plan_of(definition, engine.ticks_between(definition.times, NOON, until), until)
    assert list(plan.run) == [until - n * MINUTE for n in range(99, -1, -1)]
    assert plan.missed == (1440 if days == 1 else 10_000) - 100


@pytest.mark.parametrize("times", [Cron("0 0 1 1 *", "UTC"), Every(90 * 24 * 3600)])
def test_a_rare_tick_is_found_after_a_longer_outage(times: Any) -> None:
    after = datetime(2024, 6, 1, tzinfo=UTC)
    assert engine.ticks_between(times, after, NOON) == list(times.ticks(after, NOON))


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [10 * MINUTE, 3 * HOUR])
def test_a_clock_that_steps_back_runs_nothing_twice(step: timedelta, on_database: DurableLayer) -> None:
    declare(missed="all")
    look_at(NOON - 4 * HOUR)
    moments = [NOON - 4 * HOUR + n * 10 * MINUTE for n in range(1, 25)]
    for moment in moments:
        look_at(moment + timedelta(seconds=1))
    back = NOON + timedelta(seconds=1) - step
    while back < NOON + 11 * MINUTE:
        look_at(back)
        back += 5 * MINUTE
    assert ticks() == [*moments, NOON + 10 * MINUTE]


def test_a_clock_that_was_days_ahead_for_a_moment_stops_nothing(on_database: DurableLayer) -> None:
    declare()
    look_at(NOON)
    look_at(NOON + timedelta(days=5))
    look_at(NOON + 5 * MINUTE)
    look_at(NOON + 10 * MINUTE)
    assert ticks()[:1] == minutes(10) and decided_until() == NOON + 10 * MINUTE


def test_on_postgresql_the_clock_is_the_servers(
    on_database: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare()
    engine.look()
    true_time = datetime.now(UTC)
    monkeypatch.setattr(time, "time", lambda: true_time.timestamp() + 86400)
    engine.look()
    is_server = connections[database()].vendor == "postgresql"
    assert (decided_until() < true_time + HOUR) is is_server and bool(ticks()) is not is_server


def test_a_tick_that_new_zone_data_has_moved_is_due_when_that_data_says(
    on_database: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare()
    look_at(NOON + MINUTE)
    monkeypatch.setattr(engine, "_next_in_hour", lambda times, moment, hour: NOON + 5 * MINUTE)
    assert look_at(NOON + 6 * MINUTE) == NOON + 10 * MINUTE
    assert not ticks() and decided_until() == NOON + MINUTE


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changed_times_count_from_now_and_workers_of_both_codes_lose_no_tick(
    on_database: DurableLayer,
) -> None:
    old = declare(times=Cron("0 3 * * *", "UTC"))
    look_at(NOON)
    new = declare(times=Cron("30 11,12 * * *", "UTC"))
    assert look_at(NOON + 10 * MINUTE) == NOON + 30 * MINUTE
    assert not ticks() and row().missed_count == 0
    for definition, second in ((old, 0), (new, 1), (old, 2)):
        engine._decide(definition, row(), NOON + 30 * MINUTE + timedelta(seconds=second))
    assert ticks() == minutes(30) and row().missed_count == 0


def test_an_entry_whose_code_is_gone_is_left_alone_and_goes_on_when_it_is_back(
    on_database: DurableLayer,
) -> None:
    definition = declare()
    look_at(NOON)
    registry._registered.clear()
    assert look_at(NOON + 10 * MINUTE) is None
    registry.register(definition, "a test")
    look_at(NOON + 11 * MINUTE)
    assert ticks() == minutes(10)


# -- overlap, pauses, jitter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", [{"task": ADD}, {"task": "tests.tasks.defined.send_alone"}, {"channel": "ledger"}]
)
def test_a_tick_is_skipped_while_the_last_run_waits_or_runs(
    what: dict[str, str], on_layer: DurableLayer
) -> None:
    args = {"args": [1, 2]} if "task" in what else {}
    declare(overlap="skip", **args, **what)
    look_at(NOON)
    look_at(NOON + 10 * MINUTE)
    send_deferred(on_layer)
    last = row().last
    assert last is not None and last.run_id is not None
    look_at(NOON + 20 * MINUTE)
    claims = on_layer.claim("w", {last.channel: 9}, 15.0).claims
    look_at(NOON + 30 * MINUTE)
    assert ticks() == minutes(10) and ticks("overlapped") == minutes(20, 30) and row().skipped_count == 2
    on_layer.finish(claims)
    TaskRecord.objects.using(database()).update(status="SUCCESSFUL")
    look_at(NOON + 40 * MINUTE)
    assert ticks() == minutes(10, 40)


def test_with_queue_runs_wait_for_each_other_in_a_lane_and_with_allow_they_do_not(
    on_database: DurableLayer,
) -> None:
    declare(name="queued", overlap="queue")
    declare(name="queued task", overlap="queue", task=ADD)
    declare(name="allowed", content={"n": 1})
    look_at(NOON)
    for number in (10, 20):
        look_at(NOON + number * MINUTE)
    claims = on_database.claim("w", {"ledger": 9, "tasks.default": 9}, 15.0).claims
    assert sorted((claim.lane or "", claim.channel) for claim in claims) == [
        ("", "ledger"),
        ("", "ledger"),
        ("schedule: queued", "ledger"),
        ("schedule: queued task", "tasks.default"),
    ]


@pytest.mark.parametrize("what", [{"task": ADD}, {"channel": "ledger"}])
def test_while_the_channel_is_paused_ticks_are_skipped_and_counted(
    what: dict[str, str], on_layer: DurableLayer
) -> None:
    declare(missed="all", **what)
    channel = what.get("channel", "tasks.default")
    look_at(NOON)
    on_layer.pause(channel)
    try:
        look_at(NOON + 10 * MINUTE)
        look_at(NOON + 20 * MINUTE)
    finally:
        on_layer.resume(channel)
    look_at(NOON + 30 * MINUTE)
    assert ticks("paused") == minutes(10, 20) and ticks() == minutes(30) and row().skipped_count == 2


def test_jitter_delays_each_run_by_another_time(on_database: DurableLayer) -> None:
    declare(name="message", jitter=30)
    declare(name="task", jitter=30, task=ADD)
    look_at(NOON)
    for number in (10, 20, 30):
        look_at(NOON + number * MINUTE)
    messages = on_database.list_messages(["ledger"], 9) + on_database.list_messages(["tasks.default"], 9)
    waits = {round(message.at - datetime.now(UTC).timestamp(), 3) for message in messages}
    assert len(waits) == 6 and max(waits) <= 30 and min(waits) > -5


# -- rows of the admin -------------------------------------------------------------------------------------------------


def test_a_row_of_the_admin_runs_what_code_has_marked_and_nothing_else(
    on_database: DurableLayer, caplog: pytest.LogCaptureFixture
) -> None:
    registry._schedulable[ADD] = "task"
    shared: dict[str, Any] = {
        "cron": "*/10 * * * *",
        "zone": "UTC",
        "decided_until": as_django(NOON),
        "overlap": "allow",
    }
    rows = ScheduleEntry.objects.using(database())
    rows.create(name="marked", task=ADD, args=[1], **shared)
    rows.create(name="not marked", task="tests.tasks.defined.do", **shared)
    rows.create(name="no times", task=ADD, **shared | {"cron": ""})
    for _ in range(2):
        assert look_at(NOON + 10 * MINUTE) == NOON + 20 * MINUTE
    assert [record.args for record in TaskRecord.objects.using(database())] == [[1]]
    assert (
        caplog.text.count("not marked with @schedulable") == caplog.text.count("expression, or seconds") == 1
    )
    assert row("marked").source == ADMIN


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_a_look_is_one_query_and_none_in_a_project_without_entries(
    on_database: DurableLayer, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0, using=database()):
        assert engine.look() is None
    for number in range(20):
        declare(name=f"job {number}")
    look_at(NOON)
    with django_assert_num_queries(1, using=database()):
        look_at(NOON + MINUTE)


def test_old_ticks_are_removed_but_for_the_last_run(on_database: DurableLayer) -> None:
    declare()
    long_ago = datetime.now(UTC) - timedelta(days=30)
    look_at(long_ago)
    for number in range(1, 6):
        look_at(long_ago + number * 10 * MINUTE)
    assert len(ticks()) == 5
    assert retention.prune(database()) == 4
    last = row().last
    assert last is not None and ticks() == [in_utc(last.tick)]
