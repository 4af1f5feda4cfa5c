"""The demo's settings. The environment changes what a deployment would; the defaults are for development."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import django
from django.utils.deprecation import RemovedAfterNextVersionWarning, RemovedInNextVersionWarning

# Also in the processes that are started with these settings, where nobody says -W error.
for _category in (RemovedInNextVersionWarning, RemovedAfterNextVersionWarning):
    warnings.simplefilter("error", _category)


def _setting(name: str, default: str) -> str:
    return os.environ.get(f"MAILRAIL_DEMO_{name}", default)


FOLDER = Path(__file__).resolve().parent

# Whoever brings a key is deploying; whoever does not is developing, on this machine.
DEBUG = "MAILRAIL_DEMO_SECRET_KEY" not in os.environ
SECRET_KEY = _setting("SECRET_KEY", "not a secret: good for development only")
ALLOWED_HOSTS = _setting("HOSTS", "localhost,127.0.0.1").split(",")

INSTALLED_APPS = [
    "mailrail",  # first: daphne and staticfiles have a runserver, channels has a runworker
    "mailrail.invitations",
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
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "demo.urls"
ASGI_APPLICATION = "demo.asgi.application"
WSGI_APPLICATION = "demo.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [FOLDER / "templates"],
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
STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "mailrail_invitations:list"
LOGOUT_REDIRECT_URL = LOGIN_URL
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Messages travel in this database, too. The options let processes write side by side: a transaction takes its
# lock when it begins, and readers do not stand in the way of the writer.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _setting("DATABASE", str(FOLDER / "demo.sqlite3")),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# Where the links in email point.
MAILRAIL = {"BASE_URL": _setting("BASE_URL", "http://localhost:8000")}

DEFAULT_FROM_EMAIL = "Invites <invites@example.com>"
SMTP_HOST = _setting("SMTP_HOST", "localhost")
SMTP_PORT = int(_setting("SMTP_PORT", "1025"))
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": SMTP_HOST, "port": SMTP_PORT, "timeout": 30},
        }
    }
else:
    EMAIL_HOST, EMAIL_PORT, EMAIL_TIMEOUT = SMTP_HOST, SMTP_PORT, 30
