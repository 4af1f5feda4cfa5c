"""The admin of the schedule: what it shows, to whom, what people may make entries of, and what they may decide."""

from __future__ import annotations

import html
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from mailrail.layers import DurableLayer
from mailrail.schedule import pause, run_now, schedulable
from mailrail.schedule.admin import ScheduleEntryAdmin
from mailrail.schedule.control import find
from mailrail.schedule.definition import every
from mailrail.schedule.enqueuing import database
from mailrail.schedule.models import ScheduleEntry
from mailrail.schedule.times import Cron
from mailrail.tasks import TaskRecord
from mailrail.testing import sent

from ..staff import colleague
from ..tasks import defined
from .conftest import declare

LIST = "/admin/mailrail_schedule/scheduleentry/"
EVIL = "<script>alert(1)</script>"
ADD = "tests.tasks.defined.add"


@pytest.fixture(autouse=True)
def on(on_database: DurableLayer) -> str:
    """The alias of the database that keeps the schedule."""
    return database()


@pytest.fixture
def marked() -> None:
    schedulable(defined.add)
    schedulable(channel="ledger")(print)


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


def page(name: str, view: str = "change") -> str:
    return reverse(f"admin:mailrail_schedule_scheduleentry_{view}", args=(find(name).row.pk,))


def decide(client: Client, name: str, decision: str, **values: str) -> Any:
    return client.post(page(name, "decide"), {"decision": decision, **values}, follow=True)


def values(**changed: Any) -> dict[str, Any]:
    """What a person types into the form."""
    usual = {"name": "mine", "target": f"task:{ADD}", "cron": "30 6 * * 1-5", "zone": "", "seconds": ""}
    given = {"args": "[7]", "kwargs": "", "content": "", "missed": "once", "overlap": "skip", "jitter": "0"}
    return {**usual, **given, **changed}


def make(**columns: Any) -> ScheduleEntry:
    """An entry of the admin."""
    usual = {"name": "mine", "cron": "30 6 * * 1-5", "task": ADD, "args": [7]}
    entry = ScheduleEntry(**{**usual, **columns})
    entry.save(using=database())
    return entry


def text_of(response: Any) -> str:
    return html.unescape(response.text.replace("<wbr>", ""))


# -- what it shows -----------------------------------------------------------------------------------------------------


def test_the_list_shows_entries_that_no_worker_has_seen_yet(staff: Client, marked: None) -> None:
    declare(name="nightly", task=ADD, args=[1], times=Cron("30 2 * * *", "Asia/Tokyo"))
    declare(name="often", times=every(minutes=5))
    make(name=f"mine {EVIL}")
    response = staff.get(LIST)
    assert EVIL not in response.text and f"mine {EVIL}" in text_of(response)
    assert "At 02:30" in response.text and "30 2 * * *" in response.text and "Asia/Tokyo" in text_of(response)
    assert "every 5 minutes" in response.text and "time zone data" in response.text
    rows = response.context["cl"].result_list
    assert {row.name for row in rows if row.entry.is_on} == {f"mine {EVIL}", "nightly", "often"}


def test_the_list_asks_no_query_for_each_row(staff: Client, on: str, marked: None) -> None:
    def note(execute: Any, sql: str, *rest: Any) -> Any:
        queries.append(sql)
        return execute(sql, *rest)

    def count() -> int:
        with connections[on].execute_wrapper(note):
            assert staff.get(LIST).status_code == 200
        return len(queries)

    queries: list[str] = []
    declare(task=ADD, args=[1])
    run_now("job")
    few = count()
    for number in range(5):
        declare(name=f"job {number}", task=ADD, args=[1])
        run_now(f"job {number}")
    queries.clear()
    assert count() == few
    assert not [query for query in queries if "COUNT(" in query.upper()]


def test_pages_follow_by_key_and_filters_narrow_them(
    staff: Client, marked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ScheduleEntryAdmin, "list_per_page", 2)
    names = [make(name=f"mine {number}").name for number in range(5)]
    seen, url = [], LIST
    while url:
        changelist = staff.get(url).context["cl"]
        seen += [row.name for row in changelist.result_list]
        url = changelist.next_page and LIST + changelist.next_page
    assert seen == names[::-1]
    declare()
    pause("mine 3")

    def listed(**query: str) -> list[str]:
        return [row.name for row in staff.get(LIST, query).context["cl"].result_list]

    assert listed(source="code") == ["job"] and listed(paused="yes") == listed(q="NE 3") == ["mine 3"]
    assert listed(paused="no", q="mine") == ["mine 4", "mine 2"] and listed(q="nothing") == []
    assert staff.get(LIST, {"kwargs__icontains": "a"}).status_code == 400


def test_a_page_shows_the_next_five_runs_by_both_clocks(staff: Client, settings: Any) -> None:
    settings.TIME_ZONE = "Europe/Berlin"
    declare(name="nightly", times=Cron("30 2 * * *", "Asia/Tokyo"))
    response = staff.get(page("nightly"))
    runs = response.context["next_runs"]
    assert runs.zones == ["Asia/Tokyo", "Europe/Berlin"] and len(runs.rows) == 5
    assert all("2:30 a.m." in tokyo and "+09:00" in tokyo for (_, tokyo), _berlin in runs.rows)
    assert all("2:30 a.m." not in berlin for _tokyo, (_, berlin) in runs.rows)
    assert "At 02:30" in response.text and "tzdata" in response.text
    declare(name="often", times=every(minutes=5))
    assert staff.get(page("often")).context["next_runs"].zones == ["Europe/Berlin"]


def test_a_page_shows_what_became_of_its_ticks(staff: Client, on: str) -> None:
    declare(task=ADD, args=[1])
    id = run_now("job")
    ScheduleEntry.objects.using(on).update(missed_count=12, skipped_count=34)
    response = staff.get(page("job"))
    assert "waiting" in response.text and "enqueued by hand" in response.text
    assert "<td>12</td>" in response.text and "<td>34</td>" in response.text
    link = reverse("admin:mailrail_tasks_taskrecord_change", args=(id,))
    assert (f'href="{link}"' in response.text) == (on == "default")
    TaskRecord.objects.using(on).update(status="FAILED")
    assert (
        'data-status="failed"' in staff.get(page("job")).text
        and 'data-status="failed"' in staff.get(LIST).text
    )


@pytest.mark.parametrize("id", ["nonsense", "999999", "_00"])
def test_an_unknown_entry_has_no_page(staff: Client, id: str) -> None:
    assert staff.get(f"{LIST}{id}/change/", follow=True).redirect_chain
    assert staff.post(f"{LIST}{id}/decide/", {"decision": "run"}).status_code == 404


# -- making and changing -----------------------------------------------------------------------------------------------


def test_people_make_entries_of_what_code_has_marked(staff: Client, on: str, marked: None) -> None:
    form = text_of(staff.get(f"{LIST}add/"))
    assert f'<option value="task:{ADD}">' in form and '<option value="channel:ledger">' in form
    assert "defined.do" not in form
    assert staff.post(f"{LIST}add/", values(zone="Asia/Tokyo", jitter="2.5")).status_code == 302
    definition = find("mine").definition
    assert definition is not None and (definition.task, definition.args) == (ADD, [7])
    assert (definition.times, definition.jitter) == (Cron("30 6 * * 1-5", "Asia/Tokyo"), 2.5)
    of_channel = values(
        name="sent", target="channel:ledger", cron="", seconds="60", args="", content='{"a": 1}'
    )
    assert staff.post(f"{LIST}add/", of_channel).status_code == 302
    run_now("sent")
    assert [message.content for message in sent("ledger")] == [{"a": 1}]
    assert LogEntry.objects.count() == 2


def test_a_forged_form_names_nothing_else(staff: Client, on: str, marked: None) -> None:
    forged = values(target="task:os.system", task="os.system", channel="mailrail.mail", source="code")
    response = staff.post(f"{LIST}add/", forged)
    assert [*response.context["adminform"].form.errors] == ["target"]
    assert not ScheduleEntry.objects.using(on).exists()


def test_a_form_with_more_fields_sets_none_of_them(staff: Client, on: str, marked: None) -> None:
    more = values(
        task="os.system", channel="mailrail.mail", source="code", missed_count="7", namespace="other"
    )
    assert staff.post(f"{LIST}add/", more).status_code == 302
    row = find("mine").row
    assert (row.task, row.channel, row.source, row.missed_count) == (ADD, "", "admin", 0)


def test_what_no_page_could_hold_is_refused_at_its_field(staff: Client, on: str, marked: None) -> None:
    response = staff.post(f"{LIST}add/", values(args='["\\ud800"]'))
    assert [*response.context["adminform"].form.errors] == ["args"] and r"\ud800" in response.text
    assert not ScheduleEntry.objects.using(on).exists()


def test_a_change_leaves_alone_what_workers_have_written_meanwhile(
    staff: Client, on: str, marked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(missed_count=1)
    moved = timezone.now() + timedelta(minutes=5)

    def clean(form: Any) -> dict[str, Any]:
        ScheduleEntry.objects.using(on).update(missed_count=2, decided_until=moved, paused_reason="closed")
        return cleaned(form)

    cleaned = ScheduleEntryAdmin.form.clean
    monkeypatch.setattr(ScheduleEntryAdmin.form, "clean", clean)
    changed = values(name="ours", target="channel:ledger", cron="0 7 * * *", args="", content='{"a": 1}')
    assert staff.post(page("mine"), changed).status_code == 302
    row = find("ours").row
    assert (row.task, row.channel, row.cron, row.content) == ("", "ledger", "0 7 * * *", {"a": 1})
    assert (row.missed_count, row.paused_reason) == (2, "closed")
    assert timezone.localtime(row.decided_until) == moved if timezone.is_aware(moved) else True


def test_a_deleted_entry_is_gone(staff: Client, on: str, marked: None) -> None:
    make()
    assert staff.post(page("mine", "delete"), {"post": "yes"}).status_code == 302
    assert not ScheduleEntry.objects.using(on).exists()


def test_an_entry_that_code_no_longer_allows_says_so_and_does_not_run(staff: Client, on: str) -> None:
    make(task="tests.tasks.defined.do")
    assert "not marked with @schedulable" in text_of(staff.get(page("mine")))
    assert "cannot run" in staff.get(LIST).text
    assert 'value="run"' not in staff.get(page("mine")).text
    assert "not marked with @schedulable" in text_of(decide(staff, "mine", "run"))
    assert not TaskRecord.objects.using(on).exists()


# -- entries of code ---------------------------------------------------------------------------------------------------


def test_an_entry_of_code_is_neither_changed_nor_deleted_and_its_page_says_why(
    staff: Client, marked: None
) -> None:
    declare(name="nightly", task=ADD, args=[7], times=Cron("30 2 * * *"), missed="skip")
    text = text_of(staff.get(page("nightly")))
    assert "Code declares this entry" in text and 'name="_save"' not in text and "deletelink" not in text
    assert ADD in text and "[7]" in text and "skip them" in text
    assert staff.post(page("nightly"), values()).status_code == 403
    assert staff.post(page("nightly", "delete"), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [find("nightly").row.pk], "post": "yes"}
    staff.post(LIST, chosen, follow=True)
    assert find("nightly").row.source == "code"
    assert staff.post(f"{LIST}add/", values(name="nightly")).context["adminform"].form.errors["name"]


def test_an_entry_whose_code_is_gone_can_be_deleted(
    staff: Client, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(name="old")
    url, delete = page("old"), page("old", "delete")
    monkeypatch.setattr("mailrail.schedule.registry._registered", [])
    assert "Code no longer declares this entry" in staff.get(url).text
    assert staff.post(url, values()).status_code == 403
    assert staff.post(delete, {"post": "yes"}).status_code == 302
    assert not ScheduleEntry.objects.using(on).exists()


# -- deciding ----------------------------------------------------------------------------------------------------------


def test_an_entry_is_paused_with_a_reason_run_all_the_same_and_resumed(staff: Client, on: str) -> None:
    declare(task=ADD, args=[1])
    assert "Pause: 1 entry." in decide(staff, "job", "pause", reason=f" {EVIL}\u202e\0 ").text
    row = find("job").row
    assert (row.paused_by, row.paused_reason) == ("admin", f"{EVIL}\u202e")
    response = staff.get(page("job"))
    assert EVIL not in response.text and rf"{EVIL}\u202e" in text_of(response)
    assert 'name="reason"' not in response.text and 'value="pause"' not in response.text
    assert "it is paused already" in decide(staff, "job", "pause").text
    assert "Run now: 1 entry." in decide(staff, "job", "run").text
    assert TaskRecord.objects.using(on).count() == 1
    assert "Resume: 1 entry." in decide(staff, "job", "resume").text
    assert "it is not paused" in decide(staff, "job", "resume").text
    logged = [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]
    assert logged == ["Pause", "Run now", "Resume"]


def test_several_are_decided_from_the_list(staff: Client, on: str, marked: None) -> None:
    rows = [make(name="a"), make(name="b"), make(name="c", task="tests.tasks.defined.do")]
    chosen = {"_selected_action": [row.pk for row in rows]}
    paused = staff.post(LIST, {"action": "pause", "reason": "closed", **chosen}, follow=True)
    assert "Pause: 3 entries." in paused.text and find("a").row.paused_reason == "closed"
    run = text_of(staff.post(LIST, {"action": "run", **chosen}, follow=True))
    assert "Run now: 2 entries." in run and "C: " in run and "not marked with @schedulable" in run
    assert TaskRecord.objects.using(on).count() == 2
    staff.post(LIST, {"action": "resume", **chosen})
    assert find("b").is_on


def test_what_enqueuing_raises_is_told_and_leaves_nothing(staff: Client, on: str) -> None:
    declare(task="tests.tasks.defined.gone")
    assert "there is no task at" in text_of(decide(staff, "job", "run"))
    assert not LogEntry.objects.exists() and find("job").row.last is None


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ([], set()),
        (["view_scheduleentry"], {"view"}),
        (["run_scheduleentry", "pause_scheduleentry"], set()),
        (["view_scheduleentry", "run_scheduleentry"], {"view", "run"}),
        (["view_scheduleentry", "pause_scheduleentry"], {"view", "pause", "resume"}),
        (["view_scheduleentry", "add_scheduleentry"], {"view", "add"}),
        (["change_scheduleentry"], {"view", "change"}),
        (["view_scheduleentry", "delete_scheduleentry"], {"view", "delete"}),
    ],
)
def test_what_a_colleague_may_do(permissions: list[str], allowed: set[str], on: str, marked: None) -> None:
    client = colleague(*permissions)
    make()
    for name in ("pause", "resume", "run"):
        response = client.post(page("mine", "decide"), {"decision": name})
        assert response.status_code == (302 if name in allowed else 403), name
        client.post(LIST, {"action": name, "_selected_action": [find("mine").row.pk]})
    assert TaskRecord.objects.using(on).count() == 2 * ("run" in allowed)
    assert client.get(page("mine")).status_code == (200 if "view" in allowed else 403)
    assert client.get(LIST).status_code == (200 if "view" in allowed else 403)
    assert client.get(page("mine", "decide")).status_code == 405
    assert client.post(page("mine"), values(cron="1 1 * * *")).status_code == (
        302 if "change" in allowed else 403
    )
    assert (find("mine").row.cron == "1 1 * * *") == ("change" in allowed)
    assert client.post(f"{LIST}add/", values(name="new")).status_code == (302 if "add" in allowed else 403)
    assert client.post(page("mine", "delete"), {"post": "yes"}).status_code == (
        302 if "delete" in allowed else 403
    )


def test_a_decision_needs_the_token_of_its_form(staff: Client) -> None:
    declare()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get())
    assert decide(strict, "job", "run").status_code == 403
    assert decide(staff, "job", "nothing").status_code == 404


def test_the_pages_speak_chinese(staff: Client, marked: None) -> None:
    declare(task=ADD, args=[1])
    run_now("job")
    with translation.override("zh-hans"):
        text = staff.get(page("job")).text + staff.get(LIST).text + staff.get(f"{LIST}add/").text
    for words in ("立即运行", "暂停", "等待", "时区数据", "接下来的运行"):
        assert words in text, words
