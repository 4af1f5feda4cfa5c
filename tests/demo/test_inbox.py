"""The demo's pages in the process of the test: their languages, their times, and the inbox."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from email.message import EmailMessage as Message
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.mail import EmailMessage
from django.test import Client
from django.utils import translation

from demo.inbox import EmailBackend
from demo.inbox.mails import newest
from scripts.catalogues import CHINESE
from tests.visible import english, texts

OF_THE_SITE = (
    *("MIDDLEWARE", "TEMPLATES", "LANGUAGES", "LANGUAGE_CODE", "LOCALE_PATHS", "TIME_ZONE", "ROOT_URLCONF"),
    *("LOGIN_URL", "LOGIN_REDIRECT_URL"),
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
        said = read(staff.get(path))
        assert "8:52 p.m." in said and "Times are in the time zone UTC." in said, path


@pytest.mark.parametrize("page", ["/inbox/", "/inbox/{name}/", "/invites/", "/invites/new/"])
def test_who_asks_for_chinese_gets_chinese(staff: Client, page: str) -> None:
    said = read(staff.get(page.format(name=deliver()), headers=IN_CHINESE))
    said, _, _headers = said.partition("邮件头")
    assert len(re.findall(f"{CHINESE}+", said)) > 5 and english(said, *NAMES) == []


def test_the_way_in_is_chinese_too(demo: None, client: Client, db: None) -> None:
    said = read(client.get("/login/", headers=IN_CHINESE))
    assert "登录" in said and "时间均为 UTC 时区。" in said and english(said, *NAMES) == []


def test_a_language_that_is_chosen_stays(staff: Client) -> None:
    assert 'name="language" value="zh-hans"' in staff.get("/inbox/").text
    chosen = staff.post(
        "/i18n/setlang/", {"language": "zh-hans"}, headers={"Referer": "http://testserver/inbox/"}
    )
    assert chosen.headers["Location"] == "http://testserver/inbox/"
    page = staff.get("/inbox/")
    assert "收件箱" in page.text and 'name="language" value="en"' in page.text
