"""System checks of the live page.

mailrail.dashboard.E001  an app that the permissions of the page need is not in INSTALLED_APPS
mailrail.dashboard.E002  a middleware that tells who asks is not in MIDDLEWARE
mailrail.dashboard.W001  the URLs of the page are not in those of the project
mailrail.dashboard.W002  the admin stands before the page's app, so that its first page says nothing
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from .links import live_page

_APPS = ("mailrail", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions")
_MIDDLEWARE = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)


@register()
def check_dashboard(**kwargs: Any) -> list[CheckMessage]:
    """Check what the page needs of the project."""
    return [*_check_apps(), *_check_middleware(), *_check_urls(), *_check_order()]


def _check_apps() -> Iterable[CheckMessage]:
    for app in _APPS:
        if not apps.is_installed(app):
            yield Error(
                f'"mailrail.dashboard" needs "{app}", which is not in INSTALLED_APPS.',
                hint=f'Add "{app}" to INSTALLED_APPS, and run: python manage.py migrate',
                id="mailrail.dashboard.E001",
            )


def _check_middleware() -> Iterable[CheckMessage]:
    for path in _MIDDLEWARE:
        if not any(_is_kind_of(used, path) for used in settings.MIDDLEWARE):
            yield Error(
                f"{path} is not in MIDDLEWARE: the live page cannot know who asks for it.",
                hint=f'Add "{path}" to MIDDLEWARE.',
                id="mailrail.dashboard.E002",
            )


def _is_kind_of(used: str, path: str) -> bool:
    """Tell whether a middleware is another one, or a subclass of it."""
    try:
        found = import_string(used)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, import_string(path))


def _check_urls() -> Iterable[CheckMessage]:
    if not live_page():
        yield Warning(
            '"mailrail.dashboard" is in INSTALLED_APPS, and its URLs are not in ROOT_URLCONF: nobody can open it.',
            hint='Add path("mailrail/", include("mailrail.dashboard.urls")) to them, in no namespace of another app.',
            id="mailrail.dashboard.W001",
        )


def _check_order() -> Iterable[CheckMessage]:
    names = [config.name for config in apps.get_app_configs()]
    if "django.contrib.admin" in names[: names.index("mailrail.dashboard")]:
        yield Warning(
            '"mailrail.dashboard" stands behind "django.contrib.admin" in INSTALLED_APPS: the first page of the admin '
            "does not say whether all is well.",
            hint='Move "mailrail.dashboard" before "django.contrib.admin".',
            id="mailrail.dashboard.W002",
        )
