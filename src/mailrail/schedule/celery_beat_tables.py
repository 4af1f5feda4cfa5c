"""Describe the tables of django-celery-beat 2.9 as models that belong to no app.

The package cannot be installed with Django 6.1. The models have a registry of their own, so that they get no
migrations, and do not clash with the package where it is installed.
"""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import connections, models

_registry = Apps()


class BeatTable(models.Model):
    """Be the base of the tables: they are read, and never made or changed."""

    class Meta:
        abstract = True
        apps = _registry
        app_label = "django_celery_beat"
        managed = False

    def __str__(self) -> str:
        return f"{self._meta.db_table} {self.pk}"


class BeatInterval(BeatTable):
    """Hold ``every`` so many of ``period``: days, hours, minutes, seconds or microseconds."""

    every = models.IntegerField()
    period = models.CharField(max_length=24)

    class Meta(BeatTable.Meta):
        db_table = "django_celery_beat_intervalschedule"


class BeatCrontab(BeatTable):
    """Hold the fields of a crontab as texts, and its time zone."""

    minute = models.CharField(max_length=240)
    hour = models.CharField(max_length=96)
    day_of_month = models.CharField(max_length=124)
    month_of_year = models.CharField(max_length=64)
    day_of_week = models.CharField(max_length=64)
    timezone = models.CharField(max_length=63)

    class Meta(BeatTable.Meta):
        db_table = "django_celery_beat_crontabschedule"


class BeatSolar(BeatTable):
    """Hold an event of the sun, such as ``sunrise``, at a place."""

    event = models.CharField(max_length=24)
    latitude = models.DecimalField(max_digits=9, decimal_places=6)
    longitude = models.DecimalField(max_digits=9, decimal_places=6)

    class Meta(BeatTable.Meta):
        db_table = "django_celery_beat_solarschedule"


class BeatClocked(BeatTable):
    """Hold the one moment of a task that runs once."""

    clocked_time = models.DateTimeField()

    class Meta(BeatTable.Meta):
        db_table = "django_celery_beat_clockedschedule"


class BeatTask(BeatTable):
    """Hold what runs, and the ids of when, of which one is to be set."""

    name = models.CharField(max_length=200)
    task = models.CharField(max_length=200)
    interval_id = models.IntegerField(null=True)
    crontab_id = models.IntegerField(null=True)
    solar_id = models.IntegerField(null=True)
    clocked_id = models.IntegerField(null=True)
    args = models.TextField()
    kwargs = models.TextField()
    queue = models.TextField(null=True)  # noqa: DJ001 - as the package has it
    exchange = models.TextField(null=True)  # noqa: DJ001
    routing_key = models.TextField(null=True)  # noqa: DJ001
    headers = models.TextField()
    priority = models.PositiveIntegerField(null=True)
    expires = models.DateTimeField(null=True)
    expire_seconds = models.PositiveIntegerField(null=True)
    one_off = models.BooleanField()
    start_time = models.DateTimeField(null=True)
    enabled = models.BooleanField()
    total_run_count = models.PositiveIntegerField()

    class Meta(BeatTable.Meta):
        db_table = "django_celery_beat_periodictask"


TABLES: tuple[type[BeatTable], ...] = (BeatInterval, BeatCrontab, BeatSolar, BeatClocked, BeatTask)


def missing_from(using: str) -> list[str]:
    """Return the tables, and the columns of the others, that a database lacks."""
    connection = connections[using]
    introspection = connection.introspection
    with connection.cursor() as cursor:
        there = introspection.table_names(cursor)
        missing = [table._meta.db_table for table in TABLES if table._meta.db_table not in there]
        for table in TABLES:
            name = table._meta.db_table
            if name in there:
                columns = {column.name for column in introspection.get_table_description(cursor, name)}
                missing += [
                    f"{name}.{each.column}" for each in table._meta.fields if each.column not in columns
                ]
    return missing
