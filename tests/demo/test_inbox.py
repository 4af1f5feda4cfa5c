"""The demo's pages in the process of the test: their languages, their times, and the inbox."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from email.message import EmailMessage as Message
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.mail import EmailMessage
from django.test import Client
from django.utils import translation
from playwright.sync_api import Browser
from pytest_django.live_server_helper import LiveServer

from demo.inbox import EmailBackend
from demo.inbox.mails import newest
from scripts.catalogues import CHINESE
from tests.chromium import Windows, axe, expect
from tests.visible import english, texts

OF_THE_SITE = (
    *("MIDDLEWARE", "TEMPLATES", "LANGUAGES", "LANGUAGE_CODE", "LOCALE_PATHS", "TIME_ZONE", "ROOT_URLCONF"),
    *("LOGIN_URL", "LOGIN_REDIRECT_URL", "STATICFILES_DIRS"),
)
IN_CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}
NAMES = ("UTC", "English", "worker", "admin", "guest@example.com", "Welcome", "eml", "HTML", "Hello")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the inbox keeps its mail, on a developer's machine."""
    monkeypatch.setenv("DEBUG", "1")
    monkeypatch.delenv("EMAIL_URL", raising=False)
    monkeypatch.setenv("INBOX_FOLDER", str(tmp_path / "captured"))
    return tmp_path / "captured"


@pytest.fixture
def demo(folder: Path, settings: LazySettings) -> Iterator[None]:
    """The settings of the demo, as far as they make its pages. The language of a request stays active after it."""
    demo = importlib.import_module("demo.settings")
    for name in OF_THE_SITE:
        setattr(settings, name, getattr(demo, name))
    yield
    translation.deactivate()


@pytest.fixture
def staff(demo: None, admin_client: Client) -> Client:
    return admin_client


def deliver(subject: str = "Welcome", to: str = "guest@example.com", sender: str = "me@example.com") -> str:
    """Deliver one email, and return its name."""
    assert EmailBackend().send_messages([EmailMessage(subject, "Hello", sender, [to])]) == 1
    return newest(1)[0].name


def read(response: Any) -> str:
    assert response.status_code == 200
    return "\n".join(texts(response.text))


def test_the_envelope_has_mailboxes_without_names(folder: Path) -> None:
    name = deliver(to="Guest <Guest@example.com>", sender='"Invites, Ann" <invites@example.com>')
    first, second = (folder / f"{name}.eml").read_text().splitlines()[:2]
    assert (first, second) == ("Return-Path: <invites@example.com>", "Delivered-To: Guest@example.com")


def test_times_are_in_utc_and_the_page_says_so(staff: Client, folder: Path) -> None:
    folder.mkdir()
    message = Message()
    message["Subject"] = "Welcome"
    (folder / "01795985520000000000-0.eml").write_bytes(bytes(message))
    for path in ("/inbox/", "/inbox/01795985520000000000-0/"):
        text = read(staff.get(path))
        assert "8:52 p.m." in text and "Times are in the time zone UTC." in text, path


@pytest.mark.parametrize("page", ["/inbox/", "/inbox/{name}/", "/invites/", "/invites/new/"])
def test_who_asks_for_chinese_gets_chinese(staff: Client, page: str) -> None:
    said = read(staff.get(page.format(name=deliver()), headers=IN_CHINESE))
    said, _, _headers = said.partition("邮件头")
    assert len(re.findall(f"{CHINESE}+", said)) > 5 and english(said, *NAMES) == []


def test_the_way_in_is_chinese_too(demo: None, client: Client, db: None) -> None:
    text = read(client.get("/login/", headers=IN_CHINESE))
    assert "登录" in text and "时间均为 UTC 时区。" in text and english(text, *NAMES) == []


def test_a_language_that_is_chosen_stays(staff: Client) -> None:
    assert 'name="language" value="zh-hans"' in staff.get("/inbox/").text
    chosen = staff.post(
        "/i18n/setlang/", {"language": "zh-hans"}, headers={"Referer": "http://testserver/inbox/"}
    )
    assert chosen.headers["Location"] == "http://testserver/inbox/"
    page = staff.get("/inbox/")
    assert "收件箱" in page.text and 'name="language" value="en"' in page.text


# -- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("welcome", ["Welcome"]),
        ("grüsse  LIESBETH", ["Grüße, Liesbeth"]),
        ("ann@example.com", ["Grüße, Liesbeth"]),
        ("hello", ["Grüße, Liesbeth", "Welcome"]),
        ("welcome ann@example.com", []),
        (" ", ["Grüße, Liesbeth", "Welcome"]),
    ],
)
def test_a_search_finds_emails_with_all_its_words(staff: Client, query: str, found: list[str]) -> None:
    deliver("Welcome")
    deliver("Grüße, Liesbeth", to="ann@example.com")
    for path in ("/inbox/", "/inbox/lines/"):
        page = staff.get(path, {"q": query}).text
        assert re.findall(r'id="mail-[^>]*>([^<]*)</a>', page) == found
        assert ("No email has all these words." in page) is (not found)
        assert ('id="empty"' in page) is (not query.strip())


def test_the_list_says_that_it_is_not_all(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.inbox.views.SHOWN", 2)
    for number in range(3):
        deliver(f"Email {number}")
    text = read(staff.get("/inbox/"))
    assert "3 emails" in text and "only the newest 2 are shown" in text
    assert "Email 2" in text and "Email 1" in text and "Email 0" not in text


def test_a_look_at_a_list_that_has_not_changed_is_answered_in_short(staff: Client) -> None:
    deliver("Welcome")
    [version] = re.findall(r'data-version="([^"]*)"', staff.get("/inbox/").text)
    known = {"If-None-Match": unescape(version)}
    assert staff.get("/inbox/lines/", headers=known).status_code == 304
    deliver("Another")
    changed = staff.get("/inbox/lines/", headers=known)
    assert "Another" in changed.text and changed.headers["ETag"] != known["If-None-Match"]


def test_emptying_removes_what_was_shown_and_nothing_else(staff: Client, folder: Path) -> None:
    deliver("First")
    shown = deliver("Shown")
    assert f'name="until" value="{shown}"' in staff.get("/inbox/").text
    deliver("Later")
    (folder / "notes.txt").write_text("")
    text = read(staff.post("/inbox/empty/", {"until": shown}, follow=True))
    assert "2 emails were deleted." in text and "Later" in text and "Shown" not in text
    assert (folder / "notes.txt").exists()
    assert staff.get(f"/inbox/{shown}/").status_code == 404
    assert "0 emails were deleted." in read(staff.post("/inbox/empty/", follow=True))


def test_nobody_empties_it_by_a_link_from_another_site_or_without_being_staff(
    demo: None, admin_user: User, client: Client
) -> None:
    until = {"until": deliver()}
    assert client.post("/inbox/empty/", until).headers["Location"].startswith("/login/")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin_user)
    assert strict.post("/inbox/empty/", until).status_code == 403
    assert strict.get("/inbox/empty/", until).status_code == 405
    assert [mail.name for mail in newest(2)] == [until["until"]]


def test_pages_of_the_inbox_have_a_strict_policy_and_nothing_that_breaks_it(staff: Client) -> None:
    for path in ("/inbox/", f"/inbox/{deliver()}/"):
        page = staff.get(path)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert not re.search(r"<style|<script>| style=| on[a-z]+=", page.text)


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(demo: None, browser: Browser, live_server: LiveServer) -> Iterator[Windows]:
    windows = Windows(browser, live_server.url)
    yield windows
    windows.close()
    assert windows.complaints == []


def test_the_page_shows_what_arrives_keeps_the_focus_and_is_emptied(
    windows: Windows, admin_user: User
) -> None:
    first = deliver("First")
    page = windows.open(admin_user)
    page.goto("/inbox/")
    page.get_by_role("link", name="First").focus()
    deliver("Second")
    expect(page.get_by_role("link", name="Second")).to_be_visible()
    expect(page.locator(f"#mail-{first}")).to_be_focused()
    expect(page.locator("#spoken")).to_have_text("2 emails")
    assert axe(page) == []
    page.get_by_role("button", name="Empty the inbox").click()
    expect(page.get_by_text("2 emails were deleted.")).to_be_visible()
    assert newest(1) == []


def test_without_javascript_the_page_is_loaded_again_by_its_link(windows: Windows, admin_user: User) -> None:
    page = windows.open(admin_user, java_script_enabled=False)
    page.goto("/inbox/")
    deliver("Welcome")
    page.get_by_role("link", name="Look again").click()
    expect(page.get_by_role("link", name="Welcome")).to_be_visible()
    page.get_by_role("searchbox").fill("nothing like it")
    page.get_by_role("button", name="Search the mail").click()
    expect(page.get_by_text("No email has all these words.")).to_be_visible()
