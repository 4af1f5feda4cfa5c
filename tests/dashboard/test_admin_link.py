"""The admin leads to the live page, and says on its first page whether all is well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailrail.health import Problem
from mailrail.monitoring import Count, FlowFacts, Pause, sampler

from .observed import HOSTILE, NOW, observed
from .test_views import browser_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def without_old_samples() -> Iterator[None]:
    sampler.forget()
    yield
    sampler.forget()


def outage(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    problems = tuple(Problem("", f"mailer {name} has been out", NOW - 660, "mailer", name) for name in names)
    flow = FlowFacts("smtp", waiting={"outage": Count(12)}, outage=Pause(NOW - 660, reason="421 try later"))
    [sample] = observed(problems=problems, flows=[flow])
    monkeypatch.setattr(sampler, "sample", lambda *arguments: sample)


def test_the_first_page_of_the_admin_names_what_is_wrong_and_since_when(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage(monkeypatch, "smtp", HOSTILE)
    html = admin_client.get("/admin/").content.decode()
    assert '<div class="mailrail-state" data-state="bad">' in html
    assert (
        "Mailer smtp is out: 421 try later, since " in html
        and "12 emails wait" in html
        and "and 1 more problem" in html
    )
    assert '<a href="/mailrail/">Mailrail, live</a>' in html
    assert "onerror" in html and "<img src" not in html and "\u202e" not in html
    assert "style=" not in html.partition('class="mailrail-state"')[2].partition("</div>")[0]


def test_the_first_page_of_the_admin_is_calm_while_all_is_well(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage(monkeypatch)
    html = admin_client.get("/admin/").content.decode()
    assert '<div class="mailrail-state" data-state="ok">' in html and "All is well" in html
    assert "mailrail_dashboard/admin_state.css" in html


def test_whoever_may_not_see_the_live_page_is_not_told_and_asks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "sample", None)
    browser = browser_of("operate_dashboard", "view_storedmessage", is_staff=True)
    html = browser.get("/admin/").content.decode()
    assert "storedmessage" in html
    assert "mailrail-state" not in html and 'href="/mailrail/"' not in html
    assert browser.get("/admin/mailrail_dashboard/dashboard/").status_code == 403


def test_the_admin_has_an_entry_that_leads_to_the_page() -> None:
    browser = browser_of("view_dashboard", is_staff=True)
    assert "/admin/mailrail_dashboard/dashboard/" in browser.get("/admin/").content.decode()
    assert browser.get("/admin/mailrail_dashboard/dashboard/")["Location"] == "/mailrail/"
    assert browser.get("/admin/mailrail_dashboard/dashboard/add/").status_code == 403


def test_a_project_whose_urls_lack_the_page_has_no_link(admin_client: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls_without"
    html = admin_client.get("/admin/").content.decode()
    assert 'class="mailrail-state"' not in html and "mailrail_dashboard/dashboard" not in html


def test_a_fresh_sample_costs_the_admin_no_query(admin_client: Client) -> None:
    admin_client.get("/admin/")
    with CaptureQueriesContext(connection) as queries:
        admin_client.get("/admin/")
    assert [query["sql"] for query in queries if "mailrail" in query["sql"]] == []
