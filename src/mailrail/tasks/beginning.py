"""Begin the attempts of all messages that a worker has claimed together, in one statement.

What that leaves in ``message.prepared`` is the record of an attempt that has begun, and those that began with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mailrail.transient import is_transient
from mailrail.worker import IncomingMessage
from mailrail.worker.connections import tidy_after, tidy_before

from . import attempts
from .attempt import start_of
from .attempts import Start
from .compat import task_started
from .grouping import Company
from .listeners import has_receivers
from .models import TaskRecord
from .named import backend_of
from .retrying import logger

SHORT_TASK_S = 0.0003
"""Seconds from which on a task is not short: attempts of short ones follow one another on one thread.

Those that wait for a server for 1 ms have half the rate there, as they wait one after another.
"""


class Begun(NamedTuple):
    """What is left for the consumer."""

    record: TaskRecord
    company: Company | None


def record_of(message: IncomingMessage) -> TaskRecord | None:
    """Return the record of a message whose attempt has begun already."""
    return None if message.prepared is None else message.prepared.record


def company_of(message: IncomingMessage) -> Company | None:
    """Return the attempts on threads that began together with that of the message."""
    return None if message.prepared is None else message.prepared.company


def begin_together(messages: Sequence[IncomingMessage]) -> None:
    """Begin the attempts of these messages. One that may not begin, or cannot just now, is left to its consumer."""
    by_database: dict[str, list[tuple[IncomingMessage, Start]]] = {}
    for message in messages:
        # Without a record there is nothing to write, and a rate decides first whether the task may start.
        has_record = "task" not in message.content and "rate" not in message.content
        if has_record and (start := start_of(message)) is not None:
            by_database.setdefault(backend_of(message.content).database, []).append((message, start))
    for using, pairs in by_database.items():
        tidy_before()
        try:
            _begin(using, pairs)
        except Exception as error:
            if not is_transient(error):
                raise
            logger.debug("attempts cannot begin just now: %s", error)
        finally:
            tidy_after()


def _begin(using: str, pairs: Sequence[tuple[IncomingMessage, Start]]) -> None:
    records = attempts.begin_together([start for _, start in pairs], using)
    begun = [(message, record) for (message, _), record in zip(pairs, records, strict=True) if record]
    on_threads = sum(not record.is_async for _, record in begun)
    company = Company(on_threads) if on_threads > 1 else None
    # What receivers keep on a thread from one signal to the other, such as a span, must not meet that of another task.
    may_be_short = not has_receivers(task_started)
    for message, record in begun:
        message.prepared = Begun(record, None if record.is_async else company)
        message.is_short = may_be_short and not record.is_async and is_short(record.task)


_ran: dict[str, float] = {}
_told: dict[str, float] = {}
"""By dotted path: seconds that the function has last taken in this process, and receivers of signals after it."""


def is_short(task: str) -> bool:
    """Tell whether the function of a task, and who is told of its end, last took very little time."""
    return _ran.get(task, SHORT_TASK_S) + _told.get(task, 0.0) < SHORT_TASK_S


def note_run(task: str, seconds: float) -> None:
    """Remember how long the function of a task has just taken."""
    _ran[task] = seconds


def note_telling(task: str, seconds: float) -> None:
    """Remember how long receivers have just taken that were told of a task's end."""
    _told[task] = seconds
