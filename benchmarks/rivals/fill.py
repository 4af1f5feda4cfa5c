"""``python -m benchmarks.rivals.fill MODULE COUNT``: so many tasks wait, and nothing else does."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import django
import redis
from django.apps import apps
from django.core.management import call_command
from django.db import connection, transaction

from . import settings


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    django.setup()
    redis.Redis.from_url(os.environ["BENCHMARKS_VALKEY"]).flushall()
    if settings.ON == "redis":
        import_module(f"benchmarks.rivals.{name}").fill(count)
        return
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        for label in {"procrastinate", "django_tasks_database", "django_ox"} & {*apps.app_configs}:
            for model in apps.get_app_config(label).get_models():
                if model._meta.managed or model.__name__ in ("ProcrastinateJob",):
                    cursor.execute(f"TRUNCATE {model._meta.db_table} CASCADE")
    with transaction.atomic():
        import_module(f"benchmarks.rivals.{name}").fill(count)
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
