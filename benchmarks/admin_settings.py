"""The project of the benchmark of the admin: that of all others, with users, pages and email."""

from __future__ import annotations

import django

from .settings import *  # noqa: F403 - all of them
from .settings import INSTALLED_APPS as OTHERS

INSTALLED_APPS = [
    *OTHERS,
    "mailrail.mail",
    "mailrail.invitations",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "benchmarks.admin_pages"
STATIC_URL = "static/"
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
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": "mailrail.mail.backend.EmailBackend", "OPTIONS": {"deliver_with": "smtp"}},
        "smtp": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"},
    }
