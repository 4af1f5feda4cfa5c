"""What the demo reads from the environment, and what it says when that cannot be followed."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.test import RequestFactory

from demo import environment


def test_all_that_is_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment.NEEDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECRET_KEY", "")  # empty is missing, too
    with pytest.raises(
        ImproperlyConfigured, match=r"SECRET_KEY, DATABASE_URL, EMAIL_URL, BASE_URL;.*DEBUG=1"
    ):
        environment.check_needed()


@pytest.mark.parametrize(
    ("said", "meant"), [("1", True), ("TRUE", True), ("0", False), ("", False), ("off", False)]
)
def test_flags_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch, said: str, meant: bool) -> None:
    monkeypatch.setenv("DEBUG", said)
    assert environment.flag("DEBUG") is meant


def test_a_flag_that_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEBUG", "maybe")
    with pytest.raises(ImproperlyConfigured, match="DEBUG must be 1 or 0, not 'maybe'"):
        environment.flag("DEBUG")


def test_forms_are_taken_from_all_names_of_the_site(
    monkeypatch: pytest.MonkeyPatch, settings: Any, rf: RequestFactory
) -> None:
    """Behind what ends TLS, where Django does not see that the site is https."""
    monkeypatch.setenv("ALLOWED_HOSTS", "www.example.com, .example.org")
    settings.ALLOWED_HOSTS = ["*"]
    settings.CSRF_TRUSTED_ORIGINS = environment.origins("https://example.com")
    view = HttpResponse
    check = CsrfViewMiddleware(view)
    for host, is_ours in (
        ("example.com", True),
        ("www.example.com", True),
        ("a.example.org", True),
        ("b.c", False),
    ):
        token = "a" * 32
        post = rf.post("/", {"csrfmiddlewaretoken": token}, HTTP_HOST=host, HTTP_ORIGIN=f"https://{host}")
        post.COOKIES["csrftoken"] = token
        check.process_request(post)
        assert (check.process_view(post, view, (), {}) is None) == is_ours, host


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("smtp://mail.example.com", {"host": "mail.example.com", "port": 25}),
        (
            "smtp+tls://me%40x:p%2Fw@mail.example.com",
            {"port": 587, "username": "me@x", "password": "p/w", "use_tls": True, "host": "mail.example.com"},
        ),
        ("smtp+ssl://[::1]:4650", {"host": "::1", "port": 4650, "use_ssl": True}),
    ],
)
def test_the_server_of_mail(monkeypatch: pytest.MonkeyPatch, url: str, options: dict[str, Any]) -> None:
    monkeypatch.setenv("EMAIL_URL", url)
    assert environment.smtp() == {"timeout": 30, **options}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("EMAIL_URL", "smtps://me:secret@mail.example.com", environment.smtp),
        ("EMAIL_URL", "mail.example.com", environment.smtp),
        ("EMAIL_URL", "smtp://me:secret@mail.example.com:smtp", environment.smtp),
        ("DATABASE_URL", "oracle5://me:secret@db/x", lambda: environment.database("")),
        ("DATABASE_URL", "postgres://me:secret@db:port/x", lambda: environment.database("")),
        ("BASE_URL", "invites.example.com", lambda: environment.base_url("")),
        ("BASE_URL", "https://invites.example.com/path", lambda: environment.base_url("")),
    ],
)
def test_what_cannot_be_read_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: Any
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=f"^{name} ") as raised:
        read()
    assert "secret" not in str(raised.value)


def test_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://me:p%40ss@db.example:6432/invites")
    found = environment.database("")
    assert (found["ENGINE"], found["HOST"], found["PORT"], found["PASSWORD"], found["NAME"]) == (
        "django.db.backends.postgresql", "db.example", 6432, "p@ss", "invites",
    )  # fmt: skip
    monkeypatch.delenv("DATABASE_URL")
    found = environment.database("sqlite:////srv/demo.sqlite3")
    assert found["NAME"] == "/srv/demo.sqlite3" and found["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
