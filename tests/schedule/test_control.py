"""What people see of the schedule, and decide about it."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from mailrail.layers import DurableLayer
from mailrail.schedule import UnknownEntry, pause, resume, run_now
from mailrail.schedule.control import entries, find
from mailrail.schedule.engine import look_at
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry
from mailrail.tasks import TaskRecord
from mailrail.testing.messages import send_deferred

from .conftest import NOON, decided_until, declare, in_utc, row, ticks

MINUTE = timedelta(minutes=1)
ADD = "tests.tasks.defined.add"


def test_a_paused_entry_has_no_ticks_and_its_pause_is_not_missed(on_database: DurableLayer) -> None:
    declare()
    assert pause("job", by="Ada", reason="the partner moves") and not pause("job")
    stored = row()
    assert (stored.paused_by, stored.paused_reason) == ("Ada", "the partner moves")
    assert not find("job").is_on and look_at(in_utc(stored.decided_until) + 60 * MINUTE) is None
    assert resume("job") and not resume("job")
    resumed = row()
    assert resumed.paused_at is None and resumed.paused_by == resumed.paused_reason == ""
    assert resumed.decided_until > stored.decided_until
    look_at(in_utc(resumed.decided_until))
    assert not ticks() and row().missed_count == 0


def test_on_postgresql_an_entry_is_resumed_by_the_clock_of_the_server(
    on_database: DurableLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare()
    pause("job")
    ahead = time.time() + 86400
    monkeypatch.setattr(time, "time", lambda: ahead)
    resume("job")
    is_server = connections[database()].vendor == "postgresql"
    assert (decided_until().timestamp() < ahead - 3600) is is_server


@pytest.mark.parametrize("what", [{"task": ADD, "args": [1]}, {"channel": "ledger"}])
def test_an_entry_runs_now_though_it_is_paused_and_that_is_its_last_run(
    what: dict[str, Any], on_layer: DurableLayer
) -> None:
    declare(jitter=3600, **what)
    pause("job")
    id, entry = run_now("job"), find("job")
    assert entry.row.last is not None and entry.row.last.run_id == id
    assert entry.state_of_last_run == "waiting" and len(ticks("by hand")) == 1
    channel = entry.row.last.channel
    send_deferred(on_layer)
    claims = on_layer.claim("w", {channel: 9}, 15.0).claims
    assert len(claims) == 1
    if "task" in what:
        TaskRecord.objects.using(database()).update(status="RUNNING")
    assert find("job").state_of_last_run == "running"
    on_layer.finish(claims)
    TaskRecord.objects.using(database()).update(status="SUCCESSFUL")
    assert find("job").state_of_last_run == "ended"


def test_a_run_that_has_failed_is_shown_as_failed(on_layer: DurableLayer) -> None:
    declare()
    run_now("job")
    [claim] = on_layer.claim("w", {"ledger": 9}, 15.0).claims
    on_layer.bury(claim, "boom")
    assert find("job").state_of_last_run == "failed"


def test_an_entry_that_waits_for_its_last_run_waits_for_one_by_hand_too(on_database: DurableLayer) -> None:
    declare(overlap="skip")
    look_at(NOON)
    run_now("job")
    look_at(NOON + 10 * MINUTE)
    assert ticks("overlapped") == [NOON + 10 * MINUTE]


def test_entries_are_those_of_code_seen_or_not_and_those_of_the_admin(on_database: DurableLayer) -> None:
    declare(name="seen")
    look_at(NOON)
    declare(name="not seen")
    ScheduleEntry.objects.using(database()).create(name="admin", cron="0 3 * * *", task=ADD)
    admin, unseen, seen = entries()
    assert [admin.name, unseen.name, seen.name] == ["admin", "not seen", "seen"]
    assert "not marked with @schedulable" in admin.problem and not admin.is_on and not admin.next_ticks()
    assert unseen.is_on and len(unseen.next_ticks()) == 5 and unseen.state_of_last_run == ""
    assert unseen.row.pk is None and seen.row.pk is not None


@pytest.mark.parametrize("change", [pause, resume, run_now, find])
def test_a_name_that_no_entry_has_is_an_error(change: Any, on_database: DurableLayer) -> None:
    with pytest.raises(UnknownEntry, match="no entry 'nobody'"):
        change("nobody")


def test_an_entry_of_the_admin_that_is_not_allowed_cannot_run_by_hand(on_database: DurableLayer) -> None:
    ScheduleEntry.objects.using(database()).create(name="admin", cron="0 3 * * *", task=ADD)
    with pytest.raises(UnknownEntry, match="not marked with @schedulable"):
        run_now("admin")
