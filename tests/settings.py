"""The project that tests run in: a file database per test run, as several processes look at it."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import django
from django.utils.deprecation import RemovedAfterNextVersionWarning, RemovedInNextVersionWarning

# Also in the processes that are started with these settings, where nobody says -W error.
for _category in (RemovedInNextVersionWarning, RemovedAfterNextVersionWarning):
    warnings.simplefilter("error", _category)

_folder = Path(os.environ.get("MAILRAIL_TEST_FOLDER") or tempfile.mkdtemp(prefix="mailrail-tests-"))


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        # processes that a test starts are told to use its test database
        "NAME": os.environ.get(f"MAILRAIL_TEST_{name.upper()}") or _folder / f"{name}.sqlite3",
        "TEST": {"NAME": _folder / f"test-{name}-{os.getpid()}.sqlite3"},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def postgres() -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["MAILRAIL_TEST_POSTGRES_PORT"],
        "USER": "postgres",
        "NAME": os.environ.get("MAILRAIL_TEST_POSTGRES") or "mailrail",
        "TEST": {"NAME": "mailrail", "DEPENDENCIES": []},
    }


SECRET_KEY = "not a secret: tests only"
DEBUG = False
USE_TZ = True
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": _sqlite("default"), "other": _sqlite("other")}
if "MAILRAIL_TEST_POSTGRES_PORT" in os.environ:  # tests/conftest.py starts the server
    DATABASES["postgres"] = postgres()
    CHANNEL_LAYERS = {
        alias: {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": alias}}
        for alias in ("default", "postgres")
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "mailrail",
    "mailrail.invitations",
    "tests.project",
    "daphne",
    "channels",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.urls"
ASGI_APPLICATION = "tests.asgi.application"
STATIC_URL = "/static/"
LOGIN_URL = "/accounts/login/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_FROM_EMAIL = "Invites <invites@example.com>"
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
MAILRAIL = {"BASE_URL": "https://testserver.example", "SHUTDOWN_TIMEOUT": 10.0}
