"""Check that no tables are left from a build before the first release (a system check).

mailrail.E011  migrations are applied that this build does not have (with --database)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Error as Mistake
from django.db import Error, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from .database_check import APPS


@register(Tags.database)
def check_leftover_tables(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Compare the migrations applied in these databases with those of this build."""
    return [mistake for using in databases or () for mistake in _check_database(using)]


def _check_database(using: str) -> Iterable[CheckMessage]:
    try:
        applied = MigrationRecorder(connections[using]).applied_migrations().keys()
    except Error:
        return  # the check of the layers reports that the database cannot be asked
    installed = {config.label for config in apps.get_app_configs()}.intersection(APPS)
    applied_here = {(label, name) for label, name in applied if label in installed}
    if leftover := sorted(applied_here - MigrationLoader(None).disk_migrations.keys()):
        labels = [label for label in reversed(APPS) if label in dict(leftover)]
        names = ", ".join(f"{label}.{name}" for label, name in leftover)
        undo = ", ".join(f"python manage.py migrate {label} zero --database {using}" for label in labels)
        yield Mistake(
            f"The database {using!r} has tables that a build of Mailrail from before the first release has made: "
            f"{names}. This build has other tables of the same names.",
            hint=f"Let the workers run dry, and remove those tables with the build that made them: {undo}. "
            f"Then, with this build: python manage.py migrate --database {using}",
            id="mailrail.E011",
        )
