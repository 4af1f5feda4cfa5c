"""Separate the names of projects that share a database: ``MAILRAIL["NAMESPACE"]``.

Names in tables are qualified, ``:shop:invite``; everywhere else they are bare. Without a namespace both are the same.
No bare channel, mailer or address begins with a colon, so a project without a namespace recognizes those of others.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import QuerySet

from .conf import is_in_check, settings
from .errors import InvalidSettings

SIGN = ":"
MAX_NAMESPACE_LENGTH = 20
"""Characters of a namespace, at most."""
MAX_PREFIX_LENGTH = MAX_NAMESPACE_LENGTH + 2
"""Characters by which a qualified name is longer than the bare one, at most."""


class Qualified(str):
    """Hold a name as stored in a table. Only ``qualified`` creates one, so no input can pass for it."""

    __slots__ = ()


def current() -> str:
    """Return the namespace of this project, or an empty string; also empty in a check if the setting is wrong."""
    try:
        return settings.namespace
    except InvalidSettings:
        if is_in_check():
            return ""  # mailrail.E001 reports it
        raise


def prefix() -> str:
    """Return the prefix of this project's qualified names; empty without a namespace."""
    return f"{SIGN}{name}{SIGN}" if (name := current()) else ""


def qualified(name: str) -> str:
    """Qualify a bare name for a table. A qualified name is returned unchanged."""
    namespace = current()
    return (
        Qualified(f"{SIGN}{namespace}{SIGN}{name}") if namespace and not isinstance(name, Qualified) else name
    )


def bare(stored: str) -> str:
    """Return a name of this project without its namespace."""
    return stored.removeprefix(begins) if (begins := prefix()) else stored


def owns(stored: str, begins: str) -> bool:
    """Tell whether a stored name has this prefix; with an empty prefix, whether it has none."""
    return stored.startswith(begins) if begins else not stored.startswith(SIGN)


class OwnNameField(models.CharField):  # type: ignore[type-arg]  # generic only for the type checker
    """Store qualified names, and take and return bare ones. Migrations see a ``CharField``.

    Lookups such as ``startswith`` compare with the stored text, so pass them ``qualified`` text.
    """

    def deconstruct(self) -> Any:
        name, _path, arguments, options = super().deconstruct()
        return name, "django.db.models.CharField", arguments, options

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return qualified(value) if isinstance(value, str) else value

    def from_db_value(self, value: str | None, *args: Any) -> str | None:
        return value if value is None else bare(value)


class OwnNames(models.Manager[Any]):
    """Select the rows whose ``OwnNameField`` of this name is in our namespace."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def get_queryset(self) -> QuerySet[Any]:
        rows = super().get_queryset()
        if begins := prefix():
            return rows.filter(**{f"{self._name}__startswith": begins})
        return rows.exclude(**{f"{self._name}__startswith": SIGN})


class OwnRows(models.Manager[Any]):
    """Select the rows whose column ``namespace`` is ours."""

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(namespace=current())


def namespace_field() -> models.CharField[str, str]:
    """Return the column that ``OwnRows`` filters by; a new row gets the namespace of the current project."""
    return models.CharField(max_length=MAX_NAMESPACE_LENGTH, default=current, db_default="", editable=False)
