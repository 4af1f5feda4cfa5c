"""Polling and the WebSocket bring the same page to the same people; and what the WebSocket has beside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from mailrail import Channel
from mailrail.dashboard import live
from mailrail.monitoring import sampler

from .test_views import browser_of
from .transports import Look, listen, poll, received, socket, until

pytestmark = pytest.mark.django_db(transaction=True)
both = pytest.mark.parametrize("look", [poll, listen], ids=["polling", "websocket"])


@pytest.fixture(autouse=True)
def without_old_samples() -> Iterator[None]:
    sampler.forget()
    yield
    sampler.forget()


def ready_of(page: Any) -> list[str]:
    return [row["cells"]["ready"]["t"] for row in page["sections"]["channels"]["rows"]]


# -- both --------------------------------------------------------------------------------------------------------------


@both
def test_whoever_is_not_logged_in_is_refused(look: Look, client: Client) -> None:
    assert look(client).status == 401


@both
def test_a_session_that_is_over_is_refused(look: Look) -> None:
    browser = browser_of("view_dashboard")
    Session.objects.all().delete()
    assert look(browser).status == 401


@both
def test_whoever_has_not_the_permission_is_refused(look: Look) -> None:
    assert look(browser_of("operate_dashboard", is_staff=True)).status == 403


@both
def test_a_user_who_is_not_active_is_refused(look: Look) -> None:
    browser = browser_of("view_dashboard")
    User.objects.update(is_active=False)
    assert look(browser).status == 401


@both
def test_the_permission_shows_the_channels_that_the_search_means(look: Look) -> None:
    browser = browser_of("view_dashboard")
    Channel("mails").send_many({"n": n} for n in range(3))
    Channel("reports").send({})
    answer = look(browser, q="MAILS", page="7")
    channels = answer.page["sections"]["channels"]
    assert (answer.status, channels["page"], channels["total"]) == (200, 1, len(channels["rows"]))
    assert {row["key"]: row["cells"]["ready"]["t"] for row in channels["rows"]}["default/mails"] == "3"
    assert "default/reports" not in {row["key"] for row in channels["rows"]}


@both
def test_links_and_actions_are_for_those_who_may(look: Look) -> None:
    Channel("mails").send({})
    staff = browser_of("view_dashboard", "view_storedmessage", "operate_dashboard", is_staff=True)
    [row] = look(staff, q="default/mails").page["sections"]["channels"]["rows"]
    assert row["cells"]["name"]["h"] == "/admin/mailrail/storedmessage/?layer=default&channel=mails"
    assert row["actions"] == ["pause"]


def test_both_bring_the_same_page() -> None:
    browser = browser_of("view_dashboard", is_superuser=True, is_staff=True)
    Channel("mails").send({})
    polled, heard = poll(browser).page, listen(browser).page
    assert {**polled, "at": 0} == {**heard, "at": 0}


# -- over the WebSocket ------------------------------------------------------------------------------------------------


def test_a_number_comes_as_it_changes_and_nothing_while_it_does_not() -> None:
    browser = browser_of("view_dashboard")
    Channel("mails").send({})

    async def change() -> list[list[str]]:
        async with socket(browser, q="default/mails") as connection:
            seen = [ready_of((await received(connection)).page)]
            await sync_to_async(Channel("mails").send)({})
            seen.append(ready_of((await received(connection)).page))
            return seen

    assert asyncio.run(change()) == [["1"], ["2"]]


def test_an_unchanged_page_is_sent_again_so_that_the_browser_knows_that_the_connection_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REPEAT_S", 0.0)
    monkeypatch.setattr(live, "FRESH_S", 0.1)
    browser = browser_of("view_dashboard")

    async def twice() -> list[int]:
        async with socket(browser, q="none") as connection:
            return [(await received(connection)).status for _ in range(2)]

    assert asyncio.run(twice()) == [200, 200]


def test_the_browser_chooses_what_it_is_sent() -> None:
    browser = browser_of("view_dashboard")
    Channel("mails").send({})

    async def choose() -> Any:
        async with socket(browser, q="nothing") as connection:
            await received(connection)
            await connection.send_json_to(["no object", 1])
            await connection.send_json_to({"q": "default/mails"})
            return await until(connection, ready_of)

    assert ready_of(asyncio.run(choose())) == ["1"]


def test_however_often_a_browser_asks_it_is_answered_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SHORTEST_WAIT_S", 60.0)
    browser = browser_of("view_dashboard")

    async def ask() -> bool:
        async with socket(browser, q="nothing") as connection:
            await received(connection)
            for n in range(20):
                await connection.send_json_to({"q": f"nothing {n}"})
            return bool(await connection.receive_nothing(0.1))

    assert asyncio.run(ask())


@pytest.mark.parametrize("text", ["no JSON", "[" * 2_000, "1e"])
def test_what_cannot_be_read_ends_the_connection(text: str) -> None:
    browser = browser_of("view_dashboard")

    async def disturb() -> int:
        async with socket(browser) as connection:
            await received(connection)
            await connection.send_to(text)
            return (await received(connection)).status + 4000

    assert asyncio.run(disturb()) == live.UNREADABLE


@pytest.mark.parametrize(
    ("origin", "is_accepted"),
    [
        ("http://testserver", True),
        ("https://testserver", True),
        ("https://ops.example.com", True),
        ("http://ops.example.com", False),
        ("https://evil.example", False),
        ("https://testserver.evil.example", False),
        ("https://example.com.evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
        (None, False),
    ],
)
def test_pages_of_other_sites_are_refused(settings: Any, origin: str | None, is_accepted: bool) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://*.example.com"]
    browser = browser_of("view_dashboard")

    async def is_opened() -> bool:
        async with socket(browser, origin) as connection:
            return bool(connection.accepted)

    assert asyncio.run(is_opened()) is is_accepted


def test_a_host_that_is_not_ours_is_refused(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["testserver"]
    browser = browser_of("view_dashboard")

    async def is_opened() -> bool:
        async with socket(browser, "http://evil.example", "evil.example") as connection:
            return bool(connection.accepted)

    assert asyncio.run(is_opened()) is False


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (Session.objects.all, 401),
        (User.objects.all, 401),
        (User.user_permissions.through.objects.all, 403),
    ],
    ids=["session", "user", "permission"],
)
def test_whoever_loses_the_right_loses_the_page_at_the_next_check(
    monkeypatch: pytest.MonkeyPatch, end: Any, status: int
) -> None:
    monkeypatch.setattr(live, "RECHECK_S", 0.0)
    monkeypatch.setattr(live, "FRESH_S", 0.1)
    browser = browser_of("view_dashboard")

    async def lose() -> int:
        async with socket(browser) as connection:
            assert (await received(connection)).status == 200
            await sync_to_async(lambda: end().delete())()
            while (answer := await received(connection)).status == 200:
                pass
            return answer.status

    assert asyncio.run(lose()) == status


def test_the_page_speaks_the_language_and_the_time_zone_of_the_one_that_opened_it() -> None:
    browser = browser_of("view_dashboard")
    page = listen(browser, language="zh-hans", zone="Asia/Shanghai", q="nothing").page
    assert page["sections"]["workers"]["empty"].startswith("没有发现 worker")
    assert listen(browser, language="../..", zone="../..").status == 200


def test_the_page_lives_while_the_layer_is_down(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mailrail.layers.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1"]},
        }
    }
    health = listen(browser_of("view_dashboard")).page["health"]
    assert health["state"] == "bad" and "The layer default cannot be used" in json.dumps(health)


def test_a_page_that_cannot_be_built_ends_the_connection_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    browser = browser_of("view_dashboard")
    monkeypatch.setattr("mailrail.dashboard.page.pages.known", None)  # a mistake of ours
    assert listen(browser).status == 1011 - 4000
    assert "the live page of a connection ends" in caplog.text


def test_a_session_of_the_secret_key_before_stays_that_of_the_browser(rf: Any, settings: Any) -> None:
    from mailrail.dashboard.access import session_user

    request = rf.get("/")
    cookies = browser_of("view_dashboard").cookies
    request.COOKIES = {name: morsel.value for name, morsel in cookies.items()}
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new" * 20, [settings.SECRET_KEY]
    assert session_user(request) is not None
    assert session_user(request) is not None


def test_a_user_of_another_login_than_the_session_is_checked_again(rf: Any) -> None:
    from mailrail.dashboard.access import session_user

    user = User.objects.create_user("token")
    assert session_user(rf.get("/"), user) == user
    User.objects.update(is_active=False)
    assert session_user(rf.get("/"), user) is None
    assert session_user(rf.get("/")) is None
