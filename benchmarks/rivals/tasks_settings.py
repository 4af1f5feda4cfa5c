"""The benchmarks' project with the backends of tasks that rivals have, and connections that stay open."""

from __future__ import annotations

from importlib.util import find_spec

from .. import settings
from ..settings import *  # noqa: F403

HAS_OX = find_spec("django_ox") is not None  # it needs Python 3.12
INSTALLED_APPS = [*settings.INSTALLED_APPS, "django_tasks_db", *["django_ox"][:HAS_OX]]
DATABASES = {alias: {**database, "CONN_MAX_AGE": None} for alias, database in settings.DATABASES.items()}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
if HAS_OX:
    TASKS["ox"] = {"BACKEND": "django_ox.backend.OxBackend"}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {name: {"level": "WARNING"} for name in ("django.tasks", "django_ox", "django_tasks_db")},
}
