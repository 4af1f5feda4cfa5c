"""The admin of tasks: what it shows, to whom, and what it lets people decide."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import translation

from mailrail import keyset_admin, testing
from mailrail.tasks import TaskRecord, cancel, enqueue_many
from mailrail.tasks.admin import TaskRecordAdmin
from mailrail.tasks.compat import task_backends
from mailrail.testing import sent

from ..staff import colleague
from . import defined, stepped
from .conftest import layer_settings

LIST = "/admin/mailrail_tasks/taskrecord/"
EVIL = "<script>alert(1)</script>"


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db),
        pytest.param("postgres", marks=pytest.mark.django_db(databases=["default", "postgres"])),
    ],
    autouse=True,
)
def on(request: pytest.FixtureRequest, settings: Any) -> str:
    """The alias of the database that keeps the tasks."""
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    backend: Any = task_backends["default"]
    return str(backend.database)


@pytest.fixture
def staff(admin_client: Client) -> Client:
    return admin_client


def page(id: Any, name: str = "change") -> str:
    return reverse(f"admin:mailrail_tasks_taskrecord_{name}", args=(id,))


def failed(what: str = "raise") -> Any:
    result = defined.retry_broken.using(attempts=2).enqueue(what)
    testing.drain(raise_errors=False)
    return result


def ids(response: Any) -> list[str]:
    return [str(task.pk) for task in response.context["cl"].result_list]


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_list_shows_what_there_is_newest_first_and_counts_nothing(
    staff: Client, on: str, django_assert_max_num_queries: Any
) -> None:
    broken, waiting = failed(), defined.do.using(queue_name="reports").enqueue(EVIL)
    with django_assert_max_num_queries(4, connection=connections[on]) as asked:
        response = staff.get(LIST)
    assert ids(response) == [waiting.id, broken.id]
    text = response.text.replace("<wbr>", "")
    assert EVIL not in text and "tests.tasks.defined.retry_broken" in text
    assert "tests.tasks.defined.Broken: boom" in text and 'data-label="Last error"' in text
    assert not [query for query in asked.captured_queries if "COUNT(" in query["sql"].upper()]
    assert not [query for query in asked.captured_queries if '"args"' in query["sql"]]


def test_pages_follow_by_key(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TaskRecordAdmin, "list_per_page", 2)
    newest_first = [result.id for result in enqueue_many(defined.add, [((n,), {}) for n in range(5)])][::-1]
    seen, url = [], LIST
    while True:
        response = staff.get(url)
        seen += ids(response)
        if response.context["cl"].next_page is None:
            break
        url = LIST + response.context["cl"].next_page
    assert seen == newest_first
    assert ids(staff.get(LIST, {"behind": "nonsense", "o": "1", "p": "7", "all": ""})) == newest_first[:2]


def test_filters_and_the_search(staff: Client) -> None:
    broken, waiting = failed(), defined.add.using(queue_name="reports").enqueue(1)
    found = {
        broken.id: [{"status": "FAILED"}, {"queue": "default"}, {"q": broken.id}, {"q": "RETRY_bro"}],
        waiting.id: [{"status": "READY"}, {"queue": "reports"}, {"task": "tests.tasks.defined.add"}],
    }
    for id, queries in found.items():
        for query in queries:
            assert ids(staff.get(LIST, query)) == [id], query
    assert len(ids(staff.get(LIST, {"status": "BROKEN", "q": "tests."}))) == 2
    for query in ({"q": "nothing"}, {"task": "nothing"}, {"status": "RUNNING"}):
        assert ids(staff.get(LIST, query)) == []
    assert staff.get(LIST, {"args__icontains": "1"}).status_code == 400


def test_a_search_goes_on_where_its_window_ended(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset_admin, "SCAN_WINDOW_ROWS", 4)
    first = defined.do.enqueue("needle")
    enqueue_many(defined.add, [((n,), {}) for n in range(6)])
    response = staff.get(LIST, {"q": "defined.do"})
    assert ids(response) == [] and "Searched back to" in response.text
    assert ids(staff.get(LIST + response.context["cl"].next_page)) == [first.id]


# -- one task ----------------------------------------------------------------------------------------------------------


def test_the_page_of_a_task_tells_everything_and_runs_nothing(staff: Client, on: str) -> None:
    broken = failed()
    TaskRecord.objects.using(on).filter(pk=broken.id).update(args=[EVIL, "\u202e\ud800"])
    text = staff.get(page(broken.id)).text.replace("<wbr>", "")
    assert "<title>tests.tasks.defined.retry_broken" in text
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text and r"\u202e\ud800" in text
    assert text.count("<h3>tests.tasks.defined.Broken</h3>") == 2 and "raise Broken(" in text
    done = defined.do.enqueue({"total": 7})
    testing.drain()
    shown = staff.get(page(done.id)).text
    assert "Return value" in shown and "&quot;total&quot;: 7" in shown and "Errors, the oldest" not in shown


def test_arguments_and_results_are_for_those_who_may_see_them() -> None:
    result = defined.do.using(lane="the secret lane", key="the secret key").enqueue("the secret")
    testing.drain()
    client = colleague("view_taskrecord")
    text = client.get(page(result.id)).text
    assert "the secret" not in text and "Can view the arguments and results of tasks" in text
    assert "the secret" not in client.get(page(result.id), {"whole": ""}).text
    client.logout()
    client.force_login(User.objects.get(username="colleague"))
    User.objects.get(username="colleague").user_permissions.add(
        Permission.objects.get(codename="view_task_arguments")
    )
    assert client.get(page(result.id)).text.count("the secret") == 4


def test_a_long_text_is_cut_and_shown_on_demand(staff: Client) -> None:
    result = defined.do.enqueue("long word " * 9000)
    short, whole = staff.get(page(result.id)).text, staff.get(page(result.id), {"whole": ""}).text
    assert len(short) < 60_000 < len(whole) and "characters are left out" in short


@pytest.mark.parametrize("id", ["nonsense", "01234567-89ab-7def-8123-456789abcdef", "_00"])
def test_an_unknown_task_has_no_page(staff: Client, id: str) -> None:
    assert staff.get(f"{LIST}{id}/change/", follow=True).redirect_chain
    assert staff.post(f"{LIST}{id}/decide/", {"decision": "retry"}).status_code == 404


def test_a_message_leads_to_its_task(staff: Client, on: str) -> None:
    result = defined.add.enqueue(1)
    [waiting] = sent("tasks.default")
    its_page = f"/admin/mailrail/storedmessage/{quote(f'default/{waiting.channel}/{waiting.id}')}/change/"
    assert (f'href="{page(result.id)}"' in staff.get(its_page).text) == (on == "default")


# -- deciding ----------------------------------------------------------------------------------------------------------


def decide(client: Client, result: Any, name: str) -> Any:
    return client.post(page(result.id, "decide"), {"decision": name}, follow=True)


def test_a_failed_task_is_run_again_in_its_record(staff: Client) -> None:
    result = failed()
    assert "Run again: 1 task." in decide(staff, result, "retry").text
    result.refresh()
    assert result.status == "READY"
    assert "it waits to run already" in decide(staff, result, "retry").text
    assert LogEntry.objects.get().get_change_message() == "Run again"
    assert EVIL not in LogEntry.objects.get().object_repr


def test_a_task_is_run_again_as_a_new_one_which_is_shown_then(staff: Client, on: str) -> None:
    result = failed()
    response = decide(staff, result, "copy")
    [copy] = TaskRecord.objects.using(on).exclude(pk=result.id)
    assert response.redirect_chain[-1][0] == page(copy.pk) and copy.status == "READY"
    result.refresh()
    assert (
        result.status == "FAILED" and "it waits to run already" in decide(staff, copy_of(copy), "copy").text
    )


def copy_of(record: TaskRecord) -> Any:
    return defined.retry_broken.get_result(str(record.pk))


def test_waiting_tasks_are_cancelled_from_the_list_and_others_are_refused(staff: Client) -> None:
    done = failed()
    waiting = [defined.add.enqueue(n) for n in range(2)]
    chosen = {"action": "cancel", "_selected_action": [done.id, *(result.id for result in waiting)]}
    response = staff.post(LIST, chosen, follow=True)
    assert (
        "Cancel: 2 tasks." in response.text and "Refused for 1 task: it has failed already." in response.text
    )
    for result in waiting:
        result.refresh()
        assert result.status == "FAILED"


def test_a_cancelled_task_that_runs_is_told_apart_and_has_no_buttons(staff: Client, on: str) -> None:
    result = defined.add.enqueue(1)
    TaskRecord.objects.using(on).filter(pk=result.id).update(status="RUNNING", token=1)
    cancel(result)
    text = staff.get(page(result.id)).text
    assert "running, cancelled" in text and 'name="decision"' not in text
    assert "it is cancelled already" in decide(staff, result, "cancel").text
    TaskRecord.objects.using(on).filter(pk=result.id).update(status="FAILED")
    text = staff.get(page(result.id)).text
    assert 'value="retry"' in text and 'value="copy"' in text


def test_what_runs_in_a_process_of_its_own_can_be_killed_also_after_it_was_cancelled(
    staff: Client, on: str
) -> None:
    isolated, other = defined.add.enqueue(1), defined.add.enqueue(2)
    running = TaskRecord.objects.using(on).filter(pk__in=[isolated.id, other.id])
    running.update(status="RUNNING", token=1)
    record = running.filter(pk=isolated.id)
    record.update(is_killable=True)
    assert 'value="kill"' not in staff.get(page(other.id)).text
    assert "it runs in no process of its own" in decide(staff, other, "kill").text
    cancel(isolated)
    assert 'value="kill"' in staff.get(page(isolated.id)).text
    text = decide(staff, isolated, "kill").text
    assert "Kill: 1 task." in text and 'value="kill"' not in text
    assert record.get().is_cancelled_hard and not running.get(pk=other.id).cancelled_at
    assert LogEntry.objects.get().get_change_message() == "Kill"


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ([], set()),
        (["view_taskrecord"], set()),
        (["retry_task", "cancel_task", "kill_task"], set()),
        (["view_taskrecord", "retry_task"], {"retry", "copy"}),
        (["view_taskrecord", "cancel_task"], {"cancel"}),
        (["view_taskrecord", "kill_task"], {"kill"}),
        (["view_taskrecord", "change_taskrecord", "delete_taskrecord", "add_taskrecord"], set()),
    ],
)
def test_what_a_colleague_may_do(permissions: list[str], allowed: set[str]) -> None:
    client = colleague(*permissions)
    for name in ("retry", "copy", "cancel", "kill"):
        result = defined.add.enqueue(1)
        if name in ("retry", "copy"):
            cancel(result)
        response = client.post(page(result.id, "decide"), {"decision": name})
        assert response.status_code == (302 if name in allowed else 403), name
        client.post(LIST, {"action": name, "_selected_action": [result.id]})
        shown = client.get(page(result.id))
        assert shown.status_code == (200 if "view_taskrecord" in permissions else 403)
    assert client.get(page(result.id, "decide")).status_code == 405
    assert client.post(page(result.id), {"queue": "other"}).status_code == 403
    assert client.post(page(result.id, "delete"), {"post": "yes"}).status_code == 403
    assert client.get(f"{LIST}add/").status_code == 403


def test_a_decision_needs_the_token_of_its_form(staff: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get())
    assert decide(strict, failed(), "retry").status_code == 403
    assert decide(staff, failed(), "nothing").status_code == 404


def test_the_pages_speak_chinese(staff: Client) -> None:
    result = failed()
    with translation.override("zh-hans"):
        text = staff.get(page(result.id)).text
    assert "重新运行" in text and "参数和结果" in text


# -- steps -------------------------------------------------------------------------------------------------------------


def test_steps_are_listed_and_their_values_shown_to_those_who_may_see_results(staff: Client) -> None:
    stepped.body = lambda context: context.step("charge", lambda: EVIL)
    result = stepped.run.enqueue()
    testing.drain()
    shown = staff.get(page(result.id)).text
    assert "Steps that are done" in shown and "<h3>charge</h3>" in shown
    assert (
        EVIL not in shown and shown.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    )  # and as the return value
    shown = colleague("view_taskrecord").get(page(result.id)).text
    assert "<h3>charge</h3>" in shown and "alert(1)" not in shown
