"""``python -m benchmarks.rivals.mail_fill MODULE COUNT``: so many emails wait to be sent, and nothing else does."""

from __future__ import annotations

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.rivals.mail_settings"
from importlib import import_module

import django
import redis
from django.core.management import call_command
from django.db import connection


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    django.setup()
    redis.Redis.from_url(os.environ["BENCHMARKS_VALKEY"]).flushall()
    call_command("migrate", verbosity=0)
    from ..mail.models import new_invitations

    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE post_office_email CASCADE")
    import_module(f"benchmarks.rivals.{name}").fill(new_invitations(count))
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
