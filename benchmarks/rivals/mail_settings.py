"""The project of the mail benchmarks with the apps of rivals, and connections to the database that stay open."""

from __future__ import annotations

import os

from ..mail import settings as ours
from ..mail.settings import *  # noqa: F403

INSTALLED_APPS = [*ours.INSTALLED_APPS, "post_office", "huey.contrib.djhuey"]
DATABASES = {alias: {**database, "CONN_MAX_AGE": None} for alias, database in ours.DATABASES.items()}
MAILERS = {**ours.MAILERS, "default": ours.MAILERS["smtp"]}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
POST_OFFICE = {
    "DEFAULT_MAILER": "smtp",
    "THREADS_PER_PROCESS": 16,
    "BATCH_SIZE": 5_000,  # one pair of processes for all
    "LOG_LEVEL": 0,
    "MESSAGE_ID_ENABLED": False,
}
HUEY = {"huey_class": "huey.RedisHuey", "name": "mail", "results": False, "immediate": False}
HUEY["connection"] = {"url": os.environ["BENCHMARKS_VALKEY"]}
