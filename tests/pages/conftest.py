"""What tests of pages share: a browser, a site under a strict policy, and somebody who invites."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser
from pytest_django.live_server_helper import LiveServer

from ..chromium import Windows
from .catalogue import Stage

STRICT = {
    "default-src": ["'none'"],
    "style-src": ["'self'"],
    "script-src": ["'self'"],
    "connect-src": ["'self'"],
    "form-action": ["'self'"],
    "base-uri": ["'none'"],
    "frame-ancestors": ["'none'"],
}


@pytest.fixture(autouse=True)
def site(browser: Browser, live_server: LiveServer, settings: Any) -> str:
    """Where the site is, which forbids everything that its pages do not need."""
    settings.SECURE_CSP = STRICT
    settings.MAILRAIL = {**settings.MAILRAIL, "BASE_URL": live_server.url}
    return live_server.url


@pytest.fixture
def windows(browser: Browser, site: str) -> Iterator[Windows]:
    windows = Windows(browser, site)
    yield windows
    windows.close()
    assert windows.complaints == []


@pytest.fixture
def ada(site: str) -> User:
    return User.objects.create_user("ada", "ada@example.com")


@pytest.fixture
def stage(windows: Windows, settings: Any, monkeypatch: pytest.MonkeyPatch, ada: User) -> Stage:
    return Stage(windows, settings, monkeypatch, ada)
