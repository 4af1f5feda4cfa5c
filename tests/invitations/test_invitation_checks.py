"""The system checks of invitations: each fires with its id, names the setting, and is quiet otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import LazySettings

from mailrail.invitations.checks import check_apps, check_base_url, check_names, check_site


def test_invitations_without_mailrail_are_an_error(settings: LazySettings) -> None:
    assert check_apps() == []
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "mailrail"]
    [error] = check_apps()
    assert error.id == "mailrail.invitations.E002" and "INSTALLED_APPS" in str(error.hint)


def test_what_is_named_and_exists_is_no_error() -> None:
    assert check_names() == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("INVITATION_MODEL", "nowhere.Model", "which is no model of an app"),
        ("INVITATION_MODEL", "auth.User", "which is no subclass of"),
        ("INVITATION_MAY_INVITE", "nowhere.at_all", "which cannot be imported"),
        ("INVITATION_MAY_INVITE", "django.VERSION", "which is not a function"),
    ],
)
def test_what_is_named_and_cannot_be_used_is_an_error(
    settings: LazySettings, key: str, value: str, said: str
) -> None:
    settings.MAILRAIL = {key: value}
    [error] = check_names()
    assert error.id == "mailrail.invitations.E001"
    assert error.msg.startswith(f"MAILRAIL[{key!r}] is {value!r}, {said}")


def test_wrong_types_are_left_to_the_check_of_the_settings(settings: LazySettings) -> None:
    settings.MAILRAIL = {"INVITATION_MODEL": 7}
    assert check_names() == []


def test_nobody_saying_where_the_site_is_is_a_warning(settings: LazySettings) -> None:
    assert check_base_url() == []
    settings.MAILRAIL = {}
    [warning] = check_base_url()
    assert warning.id == "mailrail.invitations.W001" and 'MAILRAIL["BASE_URL"]' in str(warning.hint)
    assert check_site(databases=["default"]) == []


SITES = """
from tests.settings import *
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.sites"]
SITE_ID = 1
CHANNEL_LAYERS = {}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SITES_DATABASE"]}}
MAILRAIL = {"BASE_URL": os.environ.get("BASE_URL")}
"""


def test_a_site_that_is_still_example_com_is_a_warning(tmp_path: Path) -> None:
    """In a project of its own: apps cannot be added to one that runs."""
    (tmp_path / "with_sites.py").write_text(SITES)
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}",
        "DJANGO_SETTINGS_MODULE": "with_sites",
        "SITES_DATABASE": str(tmp_path / "sites.sqlite3"),
    }

    def manage(*arguments: str, **more: str) -> str:
        command = [sys.executable, "-m", "django", *arguments]
        done = subprocess.run(
            command, env={**environment, **more}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    check = ("check", "--database", "default")
    assert "invitations.W002" not in manage(*check)  # there is no table yet
    manage("migrate", "sites")
    assert "(mailrail.invitations.W002) Links in email lead to https://example.com" in manage(*check)
    assert "invitations.W002" not in manage(*check, BASE_URL="https://example.org")
    change = "from django.contrib.sites.models import Site; Site.objects.update(domain='example.org')"
    manage("shell", "-c", change)
    assert "invitations.W002" not in manage(*check)
