"""The tables of the database layer: whether they are there, and what to say if not."""

from __future__ import annotations

from django.apps import apps
from django.db import Error, connections

from ..errors import LayerUnavailable


def lacks_tables(using: str) -> str | None:
    """What to say of a database in which one of Mailrail's tables is missing. Asks it; raises ``LayerUnavailable``."""
    try:
        with connections[using].cursor() as cursor:
            tables = connections[using].introspection.table_names(cursor)
    except Error as error:
        raise LayerUnavailable(f"The database {using!r} cannot be asked for its tables: {error}") from error
    wanted = [model._meta.db_table for model in apps.get_app_config("mailrail").get_models()]
    if not (missing := [table for table in wanted if table not in tables]):
        return None
    return (
        f"The database {using!r} has no table {missing[0]}: no send can be kept there. Run: {_migrate(using)}"
    )


def _migrate(using: str) -> str:
    database = "" if using == "default" else f" --database {using}"
    return f"python manage.py migrate mailrail{database}"


def tables_are_missing(error: Exception, using: str) -> LayerUnavailable:
    """What to raise when the tables are not there."""
    [first, *_] = str(error).splitlines()
    first_of_all = "" if apps.is_installed("mailrail") else 'Put "mailrail" at the top of INSTALLED_APPS. '
    return LayerUnavailable(f"{first.rstrip('.')}. {first_of_all}Run: {_migrate(using)}")
