"""Tables of builds from before the first release: their migrations are named, with what to do."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from mailrail.leftover_check import check_leftover_tables

pytestmark = pytest.mark.django_db(databases=["default"])


def test_tables_of_this_build_are_fine() -> None:
    assert check_leftover_tables(["default"]) == [] == check_leftover_tables(None)


def test_an_applied_migration_that_this_build_has_not_is_an_error_that_says_what_to_run() -> None:
    recorder = MigrationRecorder(connections["default"])
    recorder.record_applied("mailrail_mail", "0009_normal_addresses")
    recorder.record_applied("shop", "0009_of_somebody_else")
    [error] = check_leftover_tables(["default"])
    assert error.id == "mailrail.E011" and "mailrail_mail.0009_normal_addresses" in error.msg
    assert "0009_of_somebody_else" not in error.msg
    assert "python manage.py migrate mailrail_mail zero --database default" in (error.hint or "")
    with pytest.raises(SystemCheckError, match=r"mailrail\.E011"):
        call_command("check", databases=["default"])
