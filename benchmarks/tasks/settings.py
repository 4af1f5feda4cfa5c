"""The benchmarks' project on PostgreSQL, with Mailrail as its backend of tasks."""

from __future__ import annotations

from .. import settings
from ..settings import *  # noqa: F403

INSTALLED_APPS = [*settings.INSTALLED_APPS, "mailrail.tasks"]
TASKS = {"default": {"BACKEND": "mailrail.tasks.ChannelBackend", "QUEUES": []}}
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"django.tasks": {"level": "WARNING"}}}
