"""Change entries that people have made. Those that code declares are changed there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailrail import MailrailError

from . import registry
from .choices import CODE
from .control import find
from .definition import Definition
from .entries import definition_of


class UnchangedEntry(MailrailError, ValueError):
    """Report an entry that cannot be changed as asked; the text says why. Nothing was changed."""


def change(name: str, values: Mapping[str, Any]) -> Definition:
    """Change columns of an entry's row, and return what it is now. Ticks of new times count from now.

    ``values``: of ``cron``, ``zone``, ``seconds``, ``missed``, ``overlap`` and ``jitter``. A cron expression takes the
    place of seconds, and the other way round. Raises ``UnknownEntry`` and ``UnchangedEntry``.
    """
    entry = find(name)
    if entry.row.source == CODE or name in registry.definitions():
        raise UnchangedEntry(
            f"The entry {name!r} is declared by code. Change it there; here it can be paused."
        )
    row, columns = entry.row, dict(values)
    if "cron" in columns:
        columns["seconds"] = None
    elif columns.get("zone") and (row.seconds is not None or "seconds" in columns):
        raise UnchangedEntry(f"The entry {name!r} was not changed. It counts seconds, and has no time zone.")
    elif "seconds" in columns:
        columns |= {"cron": "", "zone": ""}
    for column, value in columns.items():
        setattr(row, column, value)
    try:
        definition = definition_of(row, {})
    except (TypeError, ValueError, ImportError) as error:
        raise UnchangedEntry(f"The entry {name!r} was not changed. {error}") from error
    assert definition is not None  # only one of code can be gone
    row.save(update_fields=columns)
    return definition
