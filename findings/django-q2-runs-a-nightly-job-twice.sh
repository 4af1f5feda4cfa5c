#!/usr/bin/env bash
# django-q2 computes the runs of a cron schedule with croniter, which takes a fixed local time for due whenever clocks
# show it. In the night when clocks go back, "30 2 * * *" in Europe/Berlin is enqueued at both 2:30. Debian's cron, whose
# format this is, runs such a job once: "if time has moved backward, care is taken to avoid running jobs twice" (cron(8)).
#
# Prints what happened. Exit status: 0 as described, 1 it behaves otherwise now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    django-q2==1.11.1 croniter==7.0.0 Django==5.2.19 time-machine==3.6.0
cat >"$folder/try.py" <<'END'
import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import django
import time_machine
from django.conf import settings
from django.core.management import call_command

settings.configure(
    INSTALLED_APPS=["django_q"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    TIME_ZONE="Europe/Berlin",
    SECRET_KEY="for this try",
    Q_CLUSTER={"orm": "default", "timeout": 60, "retry": 120, "log_level": "ERROR"},
)
django.setup()
call_command("migrate", verbosity=0)
from django_q.brokers import get_broker
from django_q.models import OrmQ, Schedule
from django_q.scheduler import scheduler

berlin = ZoneInfo("Europe/Berlin")
clock = datetime(2026, 10, 24, 22, tzinfo=timezone.utc)  # midnight; at 1:00 UTC, 3:00 becomes 2:00
with time_machine.travel(clock, tick=False):
    Schedule.objects.create(func="shop.tasks.report", schedule_type=Schedule.CRON, cron="30 2 * * *")
enqueued = []
for _ in range(8 * 60):
    clock += timedelta(minutes=1)
    with time_machine.travel(clock, tick=False):
        before = OrmQ.objects.count()
        scheduler(get_broker())
        if OrmQ.objects.count() > before:
            enqueued.append(clock.astimezone(berlin).strftime("%H:%M %z"))
print(f"django-q2 {version('django-q2')}, croniter {version('croniter')}, Django {django.__version__}")
print(f"  '30 2 * * *' in Europe/Berlin, the night of 25 October 2026, enqueued at: {', '.join(enqueued)}")
sys.exit(0 if len(enqueued) == 2 else 1)
END
"$folder/venv/bin/python" "$folder/try.py"
