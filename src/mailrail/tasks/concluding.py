"""Write what came of an attempt, tell of it, and settle its message."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.db import connections

from mailrail.transient import is_lock_timeout, is_transient
from mailrail.worker import Ending, IncomingMessage, Remainder

from . import attempts
from .attempt import TaskAttempt
from .attempts import End
from .beginning import company_of, note_run, note_telling
from .grouping import Company
from .models import READY, TaskRecord

RETRY_SOON_S = 5.0
"""Seconds until a message is due again whose record could not be written."""
LOCKED_AGAIN_S = 1.0
"""Seconds until a message is due again whose record somebody's transaction has locked."""
DATABASE_TIMEOUT_S = 20.0
"""Seconds in which the end of an attempt waits for a database that is away: else the task has run in vain."""


def succeed(attempt: TaskAttempt, value: Any) -> None:
    """Conclude an attempt whose function has returned, or leave that to its thread, with others."""
    note_duration(attempt)
    try:
        end = attempt.succeed(value)
    except Exception as error:  # it has run, and what it returned cannot be stored
        conclude(attempt, attempt.fail(error, has_run=True))
    else:
        message = attempt.message
        if not message.may_end_later:
            conclude(attempt, end)
            return
        if (company := company_of(message)) is not None:
            company.arrive()
        message.ending = Succeeded(attempt, end, company)


def note_duration(attempt: TaskAttempt) -> None:
    """Remember how long the function has taken, whether it has returned or raised."""
    note_run(attempt.record.task, time.monotonic() - (attempt.message.started_at or 0.0))


@dataclass(frozen=True, slots=True)
class Succeeded(Ending):
    """An attempt whose short function has returned. ``company`` has counted it."""

    attempt: TaskAttempt
    end: End
    company: Company | None

    def end_all(self, endings: Sequence[Succeeded]) -> Iterator[Remainder]:
        until, left = time.monotonic() + DATABASE_TIMEOUT_S, list[Succeeded]()
        for using, some in _by_database(endings).items():
            companies = {each.company for each in some}
            answers = attempts.end_together([each.end for each in some], using, companies)
            for each, answer in zip(some, answers, strict=True):
                if answer is True:
                    yield each.attempt.message, partial(tell, each.attempt, was_written=True)
                else:
                    left.append(each)
        for each in left:  # alone: it may wait for a lock, or for the database
            yield each.attempt.message, partial(conclude, each.attempt, each.end, until)


def _by_database(endings: Iterable[Succeeded]) -> dict[str, list[Succeeded]]:
    by_database: dict[str, list[Succeeded]] = {}
    for ending in endings:
        by_database.setdefault(ending.attempt.backend.database, []).append(ending)
    return by_database


def conclude(attempt: TaskAttempt, end: End, until: float | None = None) -> None:
    """Write an end, and tell of it. ``until`` (time.monotonic()): see ``write``."""
    try:
        was_written = write(attempt, end, until)
    except Exception as error:
        if is_transient(error):  # no failure of the task: it runs again
            release_or_raise(attempt.message, error)
            return
        # Another run would end like this one.
        was_written = write(attempt, attempt.fail(error, has_run=True))
    tell(attempt, was_written)
    settle(attempt)


def tell(attempt: TaskAttempt, was_written: bool) -> None:
    """Tell receivers and the log what came of an attempt."""
    begun = time.monotonic()
    attempt.conclude(was_written)
    note_telling(attempt.record.task, time.monotonic() - begun)


def settle(attempt: TaskAttempt) -> None:
    """Retry or release the message if there is to be another attempt; returning finishes it otherwise."""
    message = attempt.message
    if attempt.again_in is not None and message.outcome is None:
        decide = message.retry if attempt.is_counted else message.release
        decide(attempt.again_in, attempt.why)


def write(attempt: TaskAttempt, end: End, until: float | None = None) -> bool:
    """Write the end of an attempt. While the database is away, try again for a while, or until that moment."""
    using = attempt.backend.database
    until = time.monotonic() + DATABASE_TIMEOUT_S if until is None else until
    while True:
        try:
            return attempts.end(end, using, company_of(attempt.message)) or look_again(attempt, end)
        except Exception as error:
            if not is_transient(error) or time.monotonic() >= until or connections[using].in_atomic_block:
                raise
            connections[using].close()
            time.sleep(0.5)


def release_or_raise(message: IncomingMessage, error: Exception) -> None:
    if not is_transient(error):
        raise error
    seconds = LOCKED_AGAIN_S if is_lock_timeout(error) else RETRY_SOON_S
    message.release(seconds, f"its record cannot be written just now: {error}")


def look_again(attempt: TaskAttempt, end: End) -> bool:
    """Find out why an end could not be written. If the task is cancelled and was to run again, end it for good."""
    using = attempt.backend.database
    if end.status == READY and attempts.is_cancelled(end.id, end.token, using):
        return attempts.end(attempt.cancel(), using)
    return _was_written(end, using)


def _was_written(end: End, using: str) -> bool:
    """Tell whether an earlier try has written this end although its reply was lost."""
    return (
        end.finished_at is not None
        and TaskRecord._base_manager.using(using)
        .filter(pk=end.id, status=end.status, finished_at=end.finished_at)
        .exists()
    )
