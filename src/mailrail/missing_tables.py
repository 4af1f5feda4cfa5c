"""Say which migration creates the table that an error of a database names."""

from __future__ import annotations

import re

from django.apps import apps
from django.db import OperationalError, ProgrammingError, router

_NAMED = re.compile(r'no such table: (?:main\.)?(\w+)|relation "(\w+)" does not exist')
"""SQLite's text, and PostgreSQL's in English."""


def migration_for(error: BaseException) -> str:
    """Return the command that creates the missing table of ours that an error names, or an empty text."""
    found = _NAMED.search(str(error)) if isinstance(error, OperationalError | ProgrammingError) else None
    if found is None:
        return ""
    table = found[1] or found[2]
    for model in apps.get_models(include_auto_created=True):
        if model._meta.db_table == table and model._meta.app_label.startswith("mailrail"):
            using = router.db_for_write(model)
            database = "" if using == "default" else f" --database {using}"
            return f"python manage.py migrate {model._meta.app_label}{database}"
    return ""


def with_migration(error: BaseException) -> str:
    """Return the first line of an error; if it names a missing table of ours, with what to run."""
    first = str(error).partition("\n")[0]
    migration = migration_for(error)
    return f"{first.rstrip('.')}. Run: {migration}" if migration else first
