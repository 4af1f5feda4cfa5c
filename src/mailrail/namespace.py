"""The names of one project among those of others that share its database: ``MAILRAIL["NAMESPACE"]``.

A name is qualified on its way into a table, ``:shop:invite``, and bare everywhere else. Without a namespace both are
the same. No bare channel, mailer or address begins with a colon, so a project without a namespace tells the others'
apart.
"""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import QuerySet

from .conf import is_in_check, settings
from .errors import InvalidSettings

SIGN = ":"
LONGEST = 20
"""Characters of a namespace."""
ROOM = LONGEST + 2
"""Characters that a column needs beside those of its bare names."""


class Qualified(str):
    """A name as a table has it. Only ``qualified`` makes one, so that nobody's input passes for it."""

    __slots__ = ()


def current() -> str:
    """Return the namespace of this project; empty: it has none. A check that runs beside a wrong one goes on."""
    try:
        return settings.namespace
    except InvalidSettings:
        if is_in_check():
            return ""  # mailrail.E001 tells
        raise


def prefix() -> str:
    """Return what the qualified names of this project begin with; empty without a namespace."""
    return f"{SIGN}{name}{SIGN}" if (name := current()) else ""


def qualified(name: str) -> str:
    """Return a bare name as the tables have it. One that is qualified already stays as it is."""
    begins = prefix()
    return Qualified(begins + name) if begins and not isinstance(name, Qualified) else name


def bare(stored: str) -> str:
    """Return a name of this project without its namespace."""
    return stored.removeprefix(begins) if (begins := prefix()) else stored


def owns(stored: str, begins: str) -> bool:
    """Tell whether a qualified name is one of those that begin so; without a namespace: whether it has none, too."""
    return stored.startswith(begins) if begins else not stored.startswith(SIGN)


class OwnNameField(models.CharField):  # type: ignore[type-arg]  # generic only for the type checker
    """A ``CharField`` that holds qualified names, and gives and takes bare ones. For migrations it is a ``CharField``.

    Patterns (``startswith`` and its like) are compared with what is stored: give them ``qualified`` text.
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
    """Rows whose ``OwnNameField`` of this name holds one of our namespace."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def get_queryset(self) -> QuerySet[Any]:
        rows = super().get_queryset()
        if begins := prefix():
            return rows.filter(**{f"{self._name}__startswith": begins})
        return rows.exclude(**{f"{self._name}__startswith": SIGN})


class OwnRows(models.Manager[Any]):
    """Rows whose column ``namespace`` is ours."""

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(namespace=current())


def namespace_field() -> models.CharField[str, str]:
    """Return the column that ``OwnRows`` looks at; a new row gets the namespace of the project that makes it."""
    return models.CharField(max_length=LONGEST, default=current, db_default="", editable=False)
