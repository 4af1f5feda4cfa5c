"""The admin of batches: what it shows, to whom, and what it lets people decide."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse

from mailrail import testing
from mailrail.tasks import Batch, batch
from mailrail.tasks.compat import task_backends

from ..staff import colleague
from . import batched
from .conftest import layer_settings

LIST = "/admin/mailrail_tasks/batchrecord/"


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.django_db),
        pytest.param("postgres", marks=pytest.mark.django_db(databases=["default", "postgres"])),
    ],
    autouse=True,
)
def on(request: pytest.FixtureRequest, settings: Any) -> str:
    """The alias of the database that keeps the batches."""
    settings.CHANNEL_LAYERS = layer_settings(request.param, request)
    backend: Any = task_backends["default"]
    return str(backend.database)


def page(made: Batch, name: str = "change") -> str:
    return reverse(f"admin:mailrail_tasks_batchrecord_{name}", args=(made.id,))


def half_done(about: str = "order 7") -> Batch:
    """Return a batch of which one member has succeeded, one has failed, and one waits."""
    with batch(then=batched.then, about=about) as made:
        batched.member.enqueue("a")
        batched.member.enqueue("raise")
        batched.member.using(run_after=timedelta(hours=1)).enqueue("b")  # type: ignore[arg-type,unused-ignore]
    testing.drain(raise_errors=False)
    return made


def shown(response: Any) -> list[str]:
    return [str(each.pk) for each in response.context["cl"].result_list]


def test_the_list_shows_how_far_batches_are_without_a_query_for_each(
    admin_client: Client, on: str, django_assert_max_num_queries: Any
) -> None:
    made = [half_done("<b>order</b>") for _ in range(3)]
    made[0].cancel()
    with django_assert_max_num_queries(4, connection=connections[on]):
        response = admin_client.get(LIST)
    assert shown(response) == [str(each.id) for each in reversed(made)]
    assert response.text.count("1 unfinished") == 2 and "1 successful, 2 failed" in response.text
    assert "<b>order</b>" not in response.text
    assert shown(admin_client.get(f"{LIST}?status=ended")) == [str(made[0].id)]
    assert len(shown(admin_client.get(f"{LIST}?status=open&about=%3Cb%3Eorder%3C%2Fb%3E"))) == 2


def test_the_page_of_a_batch_shows_its_progress_its_tasks_and_what_follows(admin_client: Client) -> None:
    made = half_done()
    response = admin_client.get(page(made))
    assert "2 of 3 have ended, of which 1 failed; 0 are running" in response.text
    assert "when all have succeeded" in response.text and "order 7" in response.text
    members = admin_client.get(f"/admin/mailrail_tasks/taskrecord/?batch={made.id}")
    assert len(shown(members)) == 3
    assert shown(admin_client.get("/admin/mailrail_tasks/taskrecord/?batch=none")) == []
    held = admin_client.get(reverse("admin:mailrail_tasks_taskrecord_change", args=(made.record.then_id,)))
    assert "waits for its batch" in held.text
    assert admin_client.get(f"{LIST}none/change/").status_code == 302


def test_people_retry_the_failed_and_cancel_a_batch_and_that_is_logged(admin_client: Client) -> None:
    made = half_done()
    assert ">Cancel</button>" in admin_client.get(page(made)).text
    admin_client.post(page(made, "decide"), {"decision": "cancel"})
    assert made.progress.failed == 2 and made.record.cancelled_at is not None
    text = admin_client.get(page(made)).text
    assert ">Cancel</button>" not in text and "Run the failed tasks again</button>" in text
    response = admin_client.post(page(made, "decide"), {"decision": "retry"}, follow=True)
    assert "Run the failed tasks again: 2 tasks." in response.text
    assert made.record.finished_at is None and made.progress.ready == 2
    assert LogEntry.objects.count() == 2
    assert admin_client.post(page(made, "decide"), {"decision": "other"}).status_code == 404


def test_whoever_may_only_look_is_offered_nothing_and_refused() -> None:
    made, client = half_done(), colleague("view_batchrecord")
    text = client.get(page(made)).text
    assert "Run the failed tasks again</button>" not in text and ">Cancel</button>" not in text
    assert client.post(page(made, "decide"), {"decision": "retry"}).status_code == 403
    assert colleague_without(client).get(page(made)).status_code == 403


def colleague_without(client: Client) -> Client:
    User.objects.get(username="colleague").user_permissions.clear()
    return client
