"""The project that tests run in: a file database per test run, as several processes look at it."""

from __future__ import annotations

import json
import os
import sys
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
            # OFF: tests kill processes, and what those have written outlives them. NORMAL is for machines that fail.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }


def postgres() -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["MAILRAIL_TEST_POSTGRES_PORT"],
        "USER": "postgres",
        "NAME": os.environ.get("MAILRAIL_TEST_POSTGRES") or "mailrail",
        "OPTIONS": json.loads(os.environ.get("MAILRAIL_TEST_POSTGRES_OPTIONS", "{}")),
        "TEST": {"NAME": "mailrail", "DEPENDENCIES": []},
    }


SECRET_KEY = "not a secret: tests only"
DEBUG = False
USE_TZ = os.environ.get("MAILRAIL_TEST_USE_TZ") != "False"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": _sqlite("default"), "other": _sqlite("other")}
CHANNEL_LAYERS: dict[str, Any] = {}
if "MAILRAIL_TEST_POSTGRES_PORT" in os.environ:  # tests/conftest.py starts the server
    DATABASES["postgres"] = postgres()
    CHANNEL_LAYERS |= {
        alias: {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {"using": alias}}
        for alias in ("default", "postgres")
    }
if {"MAILRAIL_TEST_REDIS_URL", "MAILRAIL_TEST_REDIS_CONFIG"} & {
    *os.environ
}:  # a test starts workers on servers
    _redis = os.environ.get("MAILRAIL_TEST_REDIS_CONFIG")
    CHANNEL_LAYERS["default"] = {"BACKEND": "mailrail.layers.DatabaseChannelLayer"}
    CHANNEL_LAYERS["redis"] = {
        "BACKEND": "mailrail.layers.RedisChannelLayer",
        "CONFIG": {
            **(json.loads(_redis) if _redis else {"hosts": [os.environ["MAILRAIL_TEST_REDIS_URL"]]}),
            "routing": "tests.routes.redis_routing",  # the consumers of tests.project, without the atomic one
        },
    }
if "MAILRAIL_TEST_LAYER" in os.environ:  # this one is the default one: tasks are enqueued there
    CHANNEL_LAYERS = {"default": CHANNEL_LAYERS[os.environ["MAILRAIL_TEST_LAYER"]]}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "mailrail",
    "mailrail.invitations",
    "mailrail.mail",
    "mailrail.tasks",
    "mailrail.schedule",
    "mailrail.dashboard",
    "tests.project",
    "channels",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
if "pytest" in sys.modules:  # processes that tests start are lighter without: Daphne doubles what they import
    INSTALLED_APPS = [*INSTALLED_APPS[:1], "daphne", *INSTALLED_APPS[1:], "allauth", "allauth.account"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")  # the backport
TASKS = {"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "QUEUES": ["default", "reports"]}}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
if django.VERSION >= (6, 0):
    MIDDLEWARE.append(
        "django.middleware.csp.ContentSecurityPolicyMiddleware"
    )  # which tests give a SECURE_CSP
else:
    MIDDLEWARE.append("tests.csp.ContentSecurityPolicyMiddleware")
if "allauth" in INSTALLED_APPS:
    MIDDLEWARE.append("allauth.account.middleware.AccountMiddleware")
ROOT_URLCONF = "tests.urls"
ASGI_APPLICATION = os.environ.get("MAILRAIL_TEST_ASGI", "tests.asgi.application")
STATIC_URL = "/static/"
LOGIN_URL = "/accounts/login/"
# Half a second for each password is for those who steal the hashes.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
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
if django.VERSION >= (6, 0):
    _options: Any = TEMPLATES[0]["OPTIONS"]
    _options["context_processors"].append("django.template.context_processors.csp")
DEFAULT_FROM_EMAIL = "Invites <invites@example.com>"
MAILERS: dict[str, Any]
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
else:
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
if smtp_port := os.environ.get("MAILRAIL_TEST_SMTP_PORT"):  # workers that tests start deliver to it
    if django.VERSION >= (6, 1):
        MAILERS = {
            "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "out"}},
            "out": {
                "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "OPTIONS": {"host": "127.0.0.1", "port": int(smtp_port)},
            },
        }
    else:
        EMAIL_BACKEND = "mailrail.mail.backend.EmailBackend"
        EMAIL_HOST, EMAIL_PORT = "127.0.0.1", int(smtp_port)
if "MAILRAIL_TEST_MAIL_ON" in os.environ:
    DATABASE_ROUTERS = ["tests.routers.MailElsewhere"]
MAILRAIL = {"BASE_URL": "https://testserver.example", "SHUTDOWN_TIMEOUT": 10.0}
if "MAILRAIL_TEST_LEASE" in os.environ:  # seconds, of workers that tests start
    MAILRAIL["LEASE"] = float(os.environ["MAILRAIL_TEST_LEASE"])
