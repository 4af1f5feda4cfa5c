"""What ``MAILRAIL["REDACT"]`` names is shown by no page of the schedule, and its forms keep it."""

from __future__ import annotations

import html
import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from mailrail.redaction import REDACTED
from mailrail.schedule import schedulable
from mailrail.schedule.models import ScheduleEntry

from ..tasks import defined
from .conftest import declare

SECRET = "hunter2"
pytestmark = pytest.mark.django_db


@pytest.fixture
def entry() -> ScheduleEntry:
    """An entry that somebody has made in the admin."""
    schedulable(defined.add)
    values: Any = {"task": "tests.tasks.defined.add", "args": [{"token": SECRET, "n": 1}]}
    return ScheduleEntry.objects.create(name="nightly", cron="1 1 * * *", **values)


def page(entry: ScheduleEntry) -> str:
    return reverse("admin:mailrail_schedule_scheduleentry_change", args=(entry.pk,))


def test_pages_of_entries_and_the_command_show_a_secret_to_nobody(
    admin_client: Client, entry: ScheduleEntry
) -> None:
    declare(name="of code", content={"rows": [{"api_key": SECRET}]})
    admin_client.get("/admin/mailrail_schedule/scheduleentry/")  # makes the row
    command = io.StringIO()
    call_command("schedule", "--json", stdout=command)
    entries = [entry, ScheduleEntry.objects.get(name="of code")]
    for text in (*(html.unescape(admin_client.get(page(each)).text) for each in entries), command.getvalue()):
        assert REDACTED in text and SECRET not in text


def test_a_form_keeps_what_it_hides(admin_client: Client, entry: ScheduleEntry) -> None:
    form = admin_client.get(page(entry)).context["adminform"].form
    typed = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    assert json.loads(typed["args"]) == [{"token": REDACTED, "n": 1}]
    assert admin_client.post(page(entry), {**typed, "cron": "2 2 * * *"}).status_code == 302
    entry.refresh_from_db()
    assert (entry.cron, entry.args) == ("2 2 * * *", [{"token": SECRET, "n": 1}])
    assert (
        admin_client.post(page(entry), {**typed, "args": '[{"token": "[redacted]", "n": 2}]'}).status_code
        == 302
    )
    entry.refresh_from_db()
    assert entry.args == [{"token": SECRET, "n": 2}]


def test_a_form_refuses_what_it_hides_in_another_place(admin_client: Client, entry: ScheduleEntry) -> None:
    form = admin_client.get(page(entry)).context["adminform"].form
    typed = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    response = admin_client.post(page(entry), {**typed, "args": '[1, {"token": "[redacted]"}]'})
    assert "What nobody sees can stay only where it was" in html.unescape(response.text)
    entry.refresh_from_db()
    assert entry.args == [{"token": SECRET, "n": 1}]
