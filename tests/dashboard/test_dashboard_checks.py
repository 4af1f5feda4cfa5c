"""System checks of the live page."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from mailrail.dashboard import urls
from mailrail.dashboard.checks import check_dashboard


def ids() -> list[str | None]:
    return [message.id for message in check_dashboard()]


def test_a_project_that_has_all_is_well() -> None:
    assert ids() == []


@pytest.mark.parametrize("app", ["django.contrib.sessions", "django.contrib.contenttypes"])
def test_an_app_that_is_missing_is_told(settings: Any, app: str) -> None:
    settings.INSTALLED_APPS = [
        "mailrail",
        "mailrail.dashboard",
        *({"django.contrib.auth", "django.contrib.sessions", "django.contrib.contenttypes"} - {app}),
    ]
    settings.ROOT_URLCONF = "tests.dashboard.urls_alone"
    [message] = [message for message in check_dashboard() if message.id == "mailrail.dashboard.E001"]
    assert app in message.msg


@pytest.mark.parametrize("name", ["SessionMiddleware", "AuthenticationMiddleware"])
def test_a_middleware_that_is_missing_is_told(settings: Any, name: str) -> None:
    settings.MIDDLEWARE = [path for path in settings.MIDDLEWARE if name not in path]
    assert ids() == ["mailrail.dashboard.E002"]


def test_a_subclass_of_a_middleware_will_do(settings: Any) -> None:
    settings.MIDDLEWARE = [
        path.replace("django.contrib.sessions.middleware", "tests.dashboard.middleware")
        for path in settings.MIDDLEWARE
    ]
    assert ids() == []


def test_urls_that_are_missing_are_told(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls_without"
    assert ids() == ["mailrail.dashboard.W001"]


def test_an_admin_that_stands_before_the_app_is_told(settings: Any) -> None:
    names = [name for name in settings.INSTALLED_APPS if name != "mailrail.dashboard"]
    settings.INSTALLED_APPS = [*names, "mailrail.dashboard"]
    assert ids() == ["mailrail.dashboard.W002"]


def test_urls_of_an_app_that_is_missing_are_refused(settings: Any) -> None:
    settings.INSTALLED_APPS = ["mailrail", "django.contrib.auth", "django.contrib.contenttypes"]
    with pytest.raises(ImproperlyConfigured, match=r'Add "mailrail\.dashboard" before'):
        importlib.reload(urls)
