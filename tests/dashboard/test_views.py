"""Who may see the live page, and how it answers browsers that ask every two seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from mailrail import Channel
from mailrail.dashboard.access import Admissions
from mailrail.monitoring import sampler
from mailrail.monitoring.sample import Sample, sample

from ..visible import texts
from .observed import HOSTILE
from .test_page import hostile

pytestmark = pytest.mark.django_db

PAGE, DATA, LINES, ACTIONS = "/mailrail/", "/mailrail/data/", "/mailrail/lines/", "/mailrail/actions/"


@pytest.fixture(autouse=True)
def without_old_samples() -> Iterator[None]:
    sampler.forget()
    yield
    sampler.forget()


def browser_of(*permissions: str, **fields: Any) -> Client:
    """Return the browser of a user with these permissions alone."""
    user = User.objects.create_user("somebody", **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    browser = Client()
    browser.force_login(user)
    return browser


# -- permissions -------------------------------------------------------------------------------------------------------


def test_whoever_is_not_logged_in_is_sent_to_the_login(client: Client) -> None:
    response = client.get(PAGE + "?q=mail")
    assert (response.status_code, response["Location"]) == (
        302,
        "/accounts/login/?next=/mailrail/%3Fq%3Dmail",
    )


def test_a_project_without_login_page_sends_to_that_of_the_admin(client: Client, settings: Any) -> None:
    settings.LOGIN_URL = "/nowhere/"
    assert client.get(PAGE)["Location"] == "/admin/login/?next=/mailrail/"


@pytest.mark.parametrize(("method", "url"), [("get", DATA), ("get", LINES), ("post", ACTIONS)])
def test_numbers_and_actions_refuse_whoever_is_not_logged_in(client: Client, method: str, url: str) -> None:
    response = getattr(client, method)(url)
    assert (response.status_code, response.json()) == (401, {"text": "Log in again: your session is over."})
    assert response["Cache-Control"] == "private, no-cache"


def test_a_member_of_staff_without_the_permission_is_refused() -> None:
    browser = browser_of("operate_dashboard", "view_storedmessage", is_staff=True)
    assert browser.get(PAGE).status_code == 403
    assert browser.get(LINES).status_code == 403
    response = browser.get(DATA)
    assert (response.status_code, response.json()) == (403, {"text": "You have no permission to do this."})


@pytest.mark.parametrize("fields", [{}, {"is_staff": True}])
def test_the_permission_alone_shows_the_page(fields: dict[str, Any]) -> None:
    browser = browser_of("view_dashboard", **fields)
    assert [browser.get(url).status_code for url in (PAGE, DATA, LINES)] == [200, 200, 200]
    assert browser.post(ACTIONS).status_code == 403


def test_a_superuser_sees_the_page_and_an_inactive_user_does_not(admin_client: Client) -> None:
    assert admin_client.get(PAGE).status_code == 200
    assert admin_client.post(ACTIONS, {"action": "no such"}).status_code == 400
    browser = browser_of("view_dashboard")
    User.objects.filter(username="somebody").update(is_active=False)
    assert browser.get(DATA).status_code == 401


def test_a_permission_that_is_taken_away_ends_the_page_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    browser = browser_of("view_dashboard")
    assert browser.get(DATA).status_code == browser.get(LINES).status_code == 200
    User.objects.get(username="somebody").user_permissions.clear()
    monkeypatch.setattr("mailrail.dashboard.access.time.monotonic", lambda: time.perf_counter() + 1e6)
    assert browser.get(DATA).status_code == browser.get(LINES).status_code == 403


def test_of_many_sessions_about_one_a_second_is_checked(rf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mailrail.dashboard.access.time.monotonic", lambda: now[0])
    admissions, checks = Admissions(), 0
    for second in range(200):
        now[0] = float(second)
        for session in range(50):
            request: Any = rf.get("/", headers={"Cookie": f"sessionid={session}"})
            if admissions.get(request) is None:
                checks += 1
                request.user, request.session = User(pk=session), {"_auth_user_id": str(session)}
                admissions.remember(request, frozenset())
    assert 200 <= checks <= 400


def test_who_logs_in_without_a_session_is_checked_at_each_request(rf: Any) -> None:
    admissions = Admissions()
    for cookie, user in (("", 1), ("sessionid=a", 2)):
        request: Any = rf.get("/", headers={"Cookie": cookie})
        request.user, request.session = User(pk=user), {"_auth_user_id": "1"}
        admissions.remember(request, frozenset())
        assert admissions.get(request) is None


def test_actions_need_post_and_the_token_of_the_page() -> None:
    browser = browser_of("view_dashboard", "operate_dashboard")
    assert browser.get(ACTIONS).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = browser.cookies
    assert strict.post(ACTIONS).status_code == 403
    strict.get(PAGE)
    token = strict.cookies["csrftoken"].value
    assert strict.post(ACTIONS, headers={"X-CSRFToken": token}).status_code == 400


@pytest.mark.parametrize("url", [PAGE, DATA, LINES])
def test_looking_changes_nothing(admin_client: Client, url: str) -> None:
    assert admin_client.post(url).status_code == 405


def test_where_every_page_needs_a_login_the_data_says_so_itself(client: Client, settings: Any) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert client.get(DATA).status_code == 401


def test_links_lead_to_those_pages_of_the_admin_that_the_viewer_may_see() -> None:
    Channel("mails").send({})
    urls = []
    for fields in ({"is_staff": False}, {"is_staff": True}):
        browser = browser_of("view_dashboard", "view_storedmessage", **fields)
        [row] = browser.get(DATA, {"q": "mails"}).json()["sections"]["channels"]["rows"]
        urls.append(row["cells"]["name"].get("h"))
        User.objects.all().delete()
        sampler.forget()
    assert urls == [None, "/admin/mailrail/storedmessage/?layer=default&channel=mails"]


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_the_page_and_the_data_show_what_waits(admin_client: Client) -> None:
    Channel("mails").send_many({"n": n} for n in range(3))
    shown = admin_client.get(DATA, {"q": "mails"}).json()
    [row] = shown["sections"]["channels"]["rows"]
    assert (row["key"], row["cells"]["ready"]["t"]) == ("default/mails", "3")
    assert set(shown) == {"at", "interval", "health", "sections"}
    first = admin_client.get(PAGE, {"q": "mails"})
    assert first.context["page"]["sections"]["channels"]["rows"] == [row]
    assert "mails" in first.content.decode()


def test_a_browser_that_has_the_numbers_gets_304(admin_client: Client) -> None:
    first = admin_client.get(DATA)
    assert first["Cache-Control"] == "private, no-cache"
    assert first["Vary"] == "Cookie, Accept-Language"
    again = admin_client.get(DATA, headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
    Channel("mails").send({})
    sampler.forget()
    assert admin_client.get(DATA, headers={"If-None-Match": first["ETag"]}).status_code == 200


@pytest.mark.parametrize(
    ("tags", "status"), [('"x", {tag}', 304), ("{tag}", 304), ("*", 304), ('"x"', 200), ("?", 200)]
)
def test_tags_are_compared_weakly(admin_client: Client, tags: str, status: int) -> None:
    tag = admin_client.get(DATA)["ETag"].removeprefix("W/")
    assert admin_client.get(DATA, headers={"If-None-Match": tags.format(tag=tag)}).status_code == status


def test_fifty_pages_that_ask_for_four_seconds_make_at_most_five_samples(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, now = [], [1000.0]

    def take(*arguments: Any) -> Sample:
        taken.append(now[0])
        return sample(*arguments)

    monkeypatch.setattr(sampler, "sample", take)
    monkeypatch.setattr("mailrail.monitoring.sampler.time.monotonic", lambda: now[0])
    for request in range(100):
        now[0] = 1000.0 + request / 25
        assert admin_client.get(DATA).status_code in (200, 304)
    assert 4 <= len(taken) <= 5
    assert all(later - earlier >= 1 for earlier, later in pairwise(taken))


def test_data_asks_the_database_for_nothing_but_the_viewer_while_a_sample_is_fresh(
    admin_client: Client,
) -> None:
    admin_client.get(DATA)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        admin_client.get(DATA)
    assert all("auth_user" in query["sql"] or "django_session" in query["sql"] for query in queries)


def test_a_layer_that_cannot_be_used_is_told(admin_client: Client, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
        }
    }
    health = admin_client.get(DATA).json()["health"]
    assert health["state"] == "bad" and "The layer default cannot be used" in health["text"]


def test_nothing_of_others_becomes_markup(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    [facts] = hostile()
    monkeypatch.setattr(sampler, "sample", lambda *arguments: facts)
    html = admin_client.get(PAGE).content.decode()
    assert "onerror" in html and "<img" not in html and "</script><" not in html
    assert not any("\u202e" in text for text in texts(html))
    response = admin_client.get(DATA)
    assert response["Content-Type"] == "application/json" and response["X-Content-Type-Options"] == "nosniff"
    assert (
        HOSTILE[:20] in json.loads(response.content)["sections"]["workers"]["rows"][0]["cells"]["name"]["t"]
    )
