"""What people are told to run when a migration was not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, ProgrammingError, connections, transaction

from mailrail.layers import get_layer
from mailrail.missing_tables import migration_for, with_migration
from mailrail.worker.maintenance import _Service

from .tasks import defined


@contextmanager
def without(table: str, using: str = "default") -> Iterator[None]:
    """Hide a table: what the block does fails as if its migration had not been run."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO gone")
    try:
        yield
    finally:
        with connections[using].cursor() as cursor:
            cursor.execute(f"ALTER TABLE gone RENAME TO {table}")


@pytest.mark.parametrize(
    ("command", "table", "app"),
    [
        ("schedule", "mailrail_schedule_scheduleentry", "mailrail_schedule"),
        ("tasks", "mailrail_tasks_taskrecord", "mailrail_tasks"),
        ("mailers", "mailrail_mail_mailerstate", "mailrail_mail"),
    ],
)
@pytest.mark.django_db
def test_a_command_ends_with_what_to_run(command: str, table: str, app: str) -> None:
    with without(table), pytest.raises(CommandError) as raised, transaction.atomic():
        call_command(command)
    assert str(raised.value) == f"no such table: {table}. Run: python manage.py migrate {app}"


def test_a_worker_says_in_one_line_what_the_schedule_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    def look() -> None:
        raise OperationalError("no such table: mailrail_schedule_scheduleentry")

    with caplog.at_level(logging.ERROR, "mailrail"), ThreadPoolExecutor(1) as thread:
        thread.submit(_Service("the schedule", look, get_layer())).result()
    [record] = caplog.records
    assert record.getMessage() == (
        "the schedule has to wait, trying again: no such table: mailrail_schedule_scheduleentry. "
        "Run: python manage.py migrate mailrail_schedule"
    )
    assert not record.exc_info


@pytest.mark.django_db
def test_enqueueing_without_the_table_says_what_to_run() -> None:
    with (
        without("mailrail_tasks_taskrecord"),
        pytest.raises(OperationalError) as raised,
        transaction.atomic(),
    ):
        defined.add.enqueue(1)
    assert raised.value.__notes__ == ["Run: python manage.py migrate mailrail_tasks"]


@pytest.mark.django_db(databases=["default", "postgres"])
def test_the_text_of_postgresql_is_read_too() -> None:
    with (
        without("mailrail_tasks_taskrecord", "postgres"),
        pytest.raises(ProgrammingError) as raised,
        transaction.atomic("postgres"),
    ):
        connections["postgres"].cursor().execute("SELECT * FROM mailrail_tasks_taskrecord")
    assert migration_for(raised.value).startswith("python manage.py migrate mailrail_tasks")
    assert "\n" not in with_migration(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("no such table: shop_order"),
        OperationalError("database is locked"),
        ValueError("no such table: mailrail_tasks_taskrecord"),
    ],
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert not migration_for(error)
    assert with_migration(error) == str(error)
