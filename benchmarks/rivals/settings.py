"""The benchmarks' project with the apps of rivals that keep their tasks in its database."""

from __future__ import annotations

from .. import settings
from ..settings import *  # noqa: F403

IN_DATABASE = ["procrastinate.contrib.django", "django_tasks_db"]
INSTALLED_APPS = [*settings.INSTALLED_APPS, *(IN_DATABASE if settings.ON == "postgresql" else [])]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
PROCRASTINATE_IMPORT_PATHS = ["benchmarks.rivals.with_procrastinate"]
