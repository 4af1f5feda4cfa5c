"""What people see of the schedule, and decide about it: for the command and the admin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from mailrail import MailrailError
from mailrail.moments import as_django

from . import registry
from .choices import BY_HAND, CODE
from .definition import Definition
from .engine import logger
from .enqueuing import database, enqueue, state_of
from .entries import create_rows, definition_of, server_time
from .models import ScheduleEntry


class UnknownEntry(MailrailError, LookupError):
    """Report a name that no entry of the schedule has."""


@dataclass(frozen=True)
class EntryStatus:
    """Show an entry: its row, what it runs, and why it cannot be followed if ``definition`` is ``None``."""

    row: ScheduleEntry
    definition: Definition | None
    problem: str = ""

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def is_on(self) -> bool:
        """Tell whether workers look at it."""
        return self.definition is not None and self.row.paused_at is None

    @property
    def state_of_last_run(self) -> str:
        """Return how the last run stands, a key of ``enqueuing.RUN_STATES``; empty before the first one."""
        return "" if self.row.last is None else state_of(self.row.last)

    def next_ticks(self, number: int = 5) -> list[datetime]:
        """Return the next ticks, in UTC, whether the entry is paused or not."""
        if self.definition is None:
            return []
        return list(islice(self.definition.times.ticks(datetime.now(UTC)), number))


def entries() -> list[EntryStatus]:
    """Return all entries, by name: those of code, also before a worker has seen them, and those of the admin."""
    declared = registry.definitions()
    rows = {row.name: row for row in ScheduleEntry.objects.using(database()).select_related("last")}
    for name, definition in declared.items():
        if name not in rows:
            rows[name] = ScheduleEntry(name=name, source=CODE, times=definition.identity)
    return [entry_of(row, declared) for _, row in sorted(rows.items())]


def entry_of(row: ScheduleEntry, declared: Mapping[str, Definition] | None = None) -> EntryStatus:
    """Return the entry of a row."""
    try:
        definition = definition_of(row, registry.definitions() if declared is None else declared)
    except (TypeError, ValueError, ImportError) as error:
        return EntryStatus(row, None, str(error))
    return EntryStatus(row, definition, "" if definition else "The code no longer declares it.")


def find(name: str) -> EntryStatus:
    """Return an entry by its name, and store the row of one that no worker has seen. Raises ``UnknownEntry``."""
    declared, using = registry.definitions(), database()
    row = ScheduleEntry.objects.using(using).select_related("last").filter(name=name).first()
    if row is None and name in declared:
        row = create_rows([declared[name]], server_time())[name]
    if row is None:
        raise UnknownEntry(f"The schedule has no entry {name!r}: manage.py schedule lists them.")
    return entry_of(row, declared)


def pause(name: str, *, by: str = "", reason: str = "") -> bool:
    """Pause an entry: its ticks are not looked at until ``resume``. Returns whether it was not paused before.

    ``by`` and ``reason`` are for people who look at it. Raises ``UnknownEntry``.
    """
    row = find(name).row
    values = {"paused_at": timezone.now(), "paused_by": by[:200], "paused_reason": reason}
    is_changed = bool(_rows(row).filter(paused_at=None).update(**values))
    if is_changed:
        logger.info("%s is paused%s%s", name, by and f" by {by}", reason and f": {reason}")
    return is_changed


def resume(name: str) -> bool:
    """Resume an entry: its next tick runs. Those of the pause were not missed. Returns whether it was paused.

    Raises ``UnknownEntry``.
    """
    row = find(name).row
    now = as_django(server_time())
    values = {"paused_at": None, "paused_by": "", "paused_reason": "", "decided_until": now}
    is_changed = bool(_rows(row).filter(paused_at__isnull=False).update(**values))
    if is_changed:
        logger.info("%s is resumed", name)
    return is_changed


def run_now(name: str) -> UUID:
    """Run an entry at once, beside its ticks, and return the id of the task's result or of the message.

    It runs although the entry is paused, or its last run has not ended; with ``overlap="queue"`` after that one.
    Raises ``UnknownEntry``, and what ``enqueue`` and ``send`` raise.
    """
    entry = find(name)
    if entry.definition is None:
        raise UnknownEntry(f"The entry {name!r} cannot run. {entry.problem}")
    with transaction.atomic(database()):
        # First, as workers lock the row before the key of the task.
        _rows(entry.row).update(last=None)
        run = enqueue(entry.definition, datetime.now(UTC))
        run.decision = BY_HAND
        run.save(using=database(), force_insert=True)
        _rows(entry.row).update(last=run)
    logger.info("%s was enqueued by hand", name)
    assert run.run_id is not None
    return run.run_id


def _rows(row: ScheduleEntry) -> QuerySet[ScheduleEntry]:
    return ScheduleEntry.objects.using(database()).filter(pk=row.pk)
