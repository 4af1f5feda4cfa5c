#!/usr/bin/env bash
# Celery's crontab() takes a set for a field: crontab(minute=0, hour={1, 2, 3}). The database scheduler of
# django-celery-beat stores it as the text "{1, 2, 3}", which Celery cannot parse. Such an entry of beat_schedule runs at
# first, from memory, and no longer when beat was restarted; its row stays, switched on.
#
# Prints what happened. Exit status: 0 as described, 1 it behaves otherwise now.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check celery==5.7.0 django-celery-beat==2.9.0 Django==5.2.19
cat >"$folder/try.py" <<'END'
import logging
import sys
from importlib.metadata import version

import django
from celery import Celery
from celery.schedules import crontab
from django.conf import settings
from django.core.management import call_command

settings.configure(
    INSTALLED_APPS=["django_celery_beat"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()
call_command("migrate", verbosity=0)
from django_celery_beat.models import CrontabSchedule
from django_celery_beat.schedulers import DatabaseScheduler


class Records(logging.Handler):
    seen = []

    def emit(self, record):
        self.seen.append(record.getMessage().split("Contents")[0].strip())


logging.getLogger().addHandler(Records())
app = Celery("shop", broker="memory://")
app.conf.beat_schedule = {
    "with a set": {"task": "shop.report", "schedule": crontab(minute=0, hour={1, 2, 3})},
    "with a text": {"task": "shop.report", "schedule": crontab(minute=0, hour="1,2,3")},
}
starts = []
for _ in range(2):
    scheduler = DatabaseScheduler(app=app)
    starts.append(sorted(name for name in scheduler.schedule if name.startswith("with")))
hours = sorted(CrontabSchedule.objects.filter(minute="0").exclude(hour="4").values_list("hour", flat=True))
print(f"django-celery-beat {version('django-celery-beat')}, Celery {version('celery')}, Django {django.__version__}")
print(f"  stored as hour: {hours}")
print(f"  in the schedule after the first start: {starts[0]}, after the second: {starts[1]}")
print(f"  in the log: {Records.seen}")
sys.exit(0 if "{1, 2, 3}" in hours and starts == [["with a set", "with a text"], ["with a text"]] else 1)
END
"$folder/venv/bin/python" "$folder/try.py" "$folder/db.sqlite3"
