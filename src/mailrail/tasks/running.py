"""Run the task of a message, on a thread or on an event loop, and settle the message."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from typing import Any

from django.utils import timezone

from mailrail import Channel, LostClaim
from mailrail.conf import settings
from mailrail.moments import seconds_between
from mailrail.transient import is_lock_timeout, is_transient
from mailrail.worker import IncomingMessage
from mailrail.worker.atomic import RollBack, finishing

from . import attempts
from .aside import tell_aside, write_aside
from .attempt import TaskAttempt, call, start_of
from .attempts import End, Start
from .backend import ChannelBackend
from .batch_ends import look_after
from .beginning import Begun, record_of
from .compat import task_finished
from .concluding import (
    DATABASE_TIMEOUT_S,
    RETRY_SOON_S,
    conclude,
    look_again,
    note_duration,
    release_or_raise,
    settle,
    succeed,
    write,
)
from .ending import end_waiting, send
from .errors import TaskCancelled, TaskExpired
from .models import READY, RUNNING, UNFINISHED, TaskRecord
from .named import backend_of
from .rates import give_back
from .retrying import logger
from .transactions import closing_transactions


def run_task(message: IncomingMessage) -> None:
    """Run a task that is a plain function."""
    attempt = _begin(message)
    if attempt is None:
        give_back(message)
        return
    attempt.announce()
    try:
        attempt.check_found()
        if attempt.options.atomic:
            _run_atomic(attempt)
            return
        value = _call(attempt)
    except KeyboardInterrupt:
        _stop(attempt)
        raise
    except RollBack:  # its transaction was aborted, by who has decided what comes of the run
        return
    except BaseException as error:
        note_duration(attempt)
        conclude(attempt, attempt.fail(error))
    else:
        succeed(attempt, value)


def _call(attempt: TaskAttempt) -> Any:
    with attempt.watched(), closing_transactions(attempt.record.task):
        return call(attempt.result.task, attempt.arguments, attempt.result.kwargs)


def _run_atomic(attempt: TaskAttempt) -> None:
    """Commit what the task writes, its result and the end of its message together. Raises what the task raises."""
    message, unstorable = attempt.message, None
    attempt.backend.check_atomic()
    try:
        with finishing(message, Channel(message.channel).layer):
            value = _call(attempt)
            try:
                end = attempt.succeed(value)
            except Exception as error:  # it cannot be stored, and what the task wrote is rolled back
                unstorable = error
                raise
            if not attempts.end(end, attempt.backend.database):
                raise LostClaim("Another worker has its record.")
    except LostClaim:
        attempt.conclude(False)
        return
    except RollBack:
        raise
    except BaseException as error:
        if message.outcome is not None and message.outcome.settled:
            logger.exception("%s was finished, and then one of its on_commit hooks raised", message)
        elif error is unstorable:
            conclude(attempt, attempt.fail(error, has_run=True))
            return
        elif message.outcome is None:
            raise
    attempt.conclude(True)


def _stop(attempt: TaskAttempt) -> None:
    """Write that an attempt was interrupted. If that cannot be written, the next attempt begins all the same."""
    try:
        was_written = write(attempt, attempt.stop())
        if attempt.is_cancelled:  # so this was its end
            attempt.conclude(was_written)
    except Exception:
        logger.exception(
            "%s of %s was interrupted, which cannot be written", attempt.record.id, attempt.record.task
        )
        if attempt.message.outcome is None:  # the message would count it, and the next claim by that
            attempt.message.release(RETRY_SOON_S, "it was interrupted")


# -- on an event loop --------------------------------------------------------------------------------------------------


async def run_task_async(message: IncomingMessage) -> None:
    """Run a task that is a coroutine function."""
    attempt = await _abegin(message)
    if attempt is None:
        await write_aside(give_back, message)
        return
    await tell_aside(attempt.announce)
    try:
        attempt.check_found()
        with attempt.watched():
            value = await attempt.result.task.acall(*attempt.arguments, **attempt.result.kwargs)
    except KeyboardInterrupt:
        await write_aside(_stop, attempt)
        raise
    except RollBack:  # as in ``run_task``
        return
    except asyncio.CancelledError as error:
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise
        await _aconclude(attempt, attempt.fail(error), error)  # the task's own matter
    except BaseException as error:
        await _aconclude(attempt, attempt.fail(error), error)
    else:
        await _asucceed(attempt, value)


async def _asucceed(attempt: TaskAttempt, value: Any) -> None:
    try:
        end = attempt.succeed(value)
    except Exception as error:
        await _aconclude(attempt, attempt.fail(error, has_run=True), error)
    else:
        await _aconclude(attempt, end, None)


async def _aconclude(attempt: TaskAttempt, end: End, error: BaseException | None) -> None:
    try:
        was_written = await _awrite(attempt, end)
    except Exception as refusal:
        if is_transient(refusal):  # no failure of the task: it runs again
            release_or_raise(attempt.message, refusal)
            return
        error = refusal
        was_written = await _awrite(attempt, attempt.fail(error, has_run=True))
    await tell_aside(_conclude_handling, attempt, was_written, error)
    settle(attempt)


def _conclude_handling(attempt: TaskAttempt, was_written: bool, error: BaseException | None) -> None:
    """Tell receivers on a thread where they may use the database, and let them see the error as being handled."""
    if error is None:
        attempt.conclude(was_written)
        return
    trace = error.__traceback__
    try:
        raise error
    except BaseException:
        error.__traceback__ = trace
        attempt.conclude(was_written)


# -- before it ---------------------------------------------------------------------------------------------------------


def _begin(message: IncomingMessage) -> TaskAttempt | None:
    """Begin an attempt; ``None`` if the message's task is not to run, and the message is settled."""
    backend, start = backend_of(message.content), start_of(message)
    if start is None:
        message.bury(f"It names no task: {message.content!r}.")
        return None
    try:
        if (record := record_of(message)) is None:
            record = attempts.begin(start, backend.database) or _begin_late(message, start, backend)
    except Exception as error:
        release_or_raise(message, error)
        return None
    return None if record is None else _attempt(message, record, backend)


async def _abegin(message: IncomingMessage) -> TaskAttempt | None:
    backend, start = backend_of(message.content), start_of(message)
    if start is None:
        message.bury(f"It names no task: {message.content!r}.")
        return None
    try:
        record = record_of(message) or await attempts.abegin(start, backend.database)
        if record is None:
            record = await write_aside(_begin_late, message, start, backend)
    except Exception as error:
        release_or_raise(message, error)
        return None
    return None if record is None else _attempt(message, record, backend)


def _attempt(message: IncomingMessage, record: TaskRecord, backend: ChannelBackend) -> TaskAttempt:
    """Return an attempt that has begun. Its message keeps the record for the time limit."""
    if message.prepared is None:
        message.prepared = Begun(record, None)
    return TaskAttempt(message, record, backend)


def _begin_late(message: IncomingMessage, start: Start, backend: ChannelBackend) -> TaskRecord | None:
    """Find out why an attempt may not begin, and begin it all the same if it may."""
    using = backend.database
    record = TaskRecord.objects.using(using).filter(pk=start.id).first()
    if record is None:
        logger.warning(
            "task %s does not run: database %r has no record of it. It was deleted, or OPTIONS['DATABASE'] was changed",
            *(start.id, using),
        )
        return None
    if record.status not in UNFINISHED or record.dispatch != start.dispatch:
        if record.batch_id is not None:  # the worker that ended it may have been killed before it looked
            look_after([record.batch_id], using)
        return None  # done, or left to a later message
    now = timezone.now()
    is_ours = record.fence is None or record.fence <= start.fence
    if record.cancelled_at is not None:
        if is_ours or not _is_lost(message):
            why = f"It was cancelled at {record.cancelled_at} while it ran, and then its worker was lost."
            fail(record, TaskCancelled(why), backend)
        return None
    if is_ours and record.started_at is None and record.expires_at is not None and record.expires_at <= now:
        if fail(record, TaskExpired(f"Its time was over at {record.expires_at}."), backend):
            return None
        return _begin_late(message, start, backend)  # a twin has just given it more time
    if record.run_after is not None and record.run_after > now:  # reconciliation has sent the message
        message.release(seconds_between(now, record.run_after), "its time has not come")
        return None
    if is_ours and record.status == RUNNING and record.failures < start.failures:
        return _count_unwritten(message, record, start, backend)
    if is_ours:
        return attempts.begin(start, using)  # its time came between the two looks
    if _is_lost(message):
        return None
    # The claim is ours, but its lease is to end before that of an earlier claim: the setting was lowered meanwhile.
    attempts.drop_fence(record, using)
    return attempts.begin(start, using) or _begin_late(message, start, backend)


def _count_unwritten(
    message: IncomingMessage, record: TaskRecord, start: Start, backend: ChannelBackend
) -> TaskRecord | None:
    """Count the attempt that failed without its record, as at a time limit while the database was away.

    Begin the next one, if there is to be one.
    """
    attempt = TaskAttempt(message, record, backend)
    why = "An attempt has failed, as at its time limit, and that could not be written. The worker's log has its error."
    end = replace(attempt.fail(TimeoutError(why)), token=record.token or 0)
    attempt.again_in = None if attempt.again_in is None else 0.0
    if not attempts.end(end, backend.database):
        return _begin_late(message, start, backend)  # it was changed meanwhile
    attempt.conclude(True)
    return attempts.begin(start, backend.database) if end.status == READY else None


def seconds_left(message: IncomingMessage) -> float:
    """Return the seconds until the task of a message expires, 0 if it has done so and has failed now.

    Infinity: it does not expire, or its message does that.
    """
    start, backend = start_of(message), backend_of(message.content)
    if start is None or "task" in message.content:
        return math.inf
    waiting = TaskRecord.objects.using(backend.database).filter(
        pk=start.id, dispatch=start.dispatch, status=READY, started_at=None
    )
    if (record := waiting.first()) is None or record.expires_at is None:
        return math.inf
    left = seconds_between(timezone.now(), record.expires_at)
    if left <= 0 and not fail(record, TaskExpired(f"Its time was over at {record.expires_at}."), backend):
        return RETRY_SOON_S  # it was changed in this very moment
    return max(left, 0.0)


def _is_lost(message: IncomingMessage) -> bool:
    return bool(Channel(message.channel).layer.renew([message.claim], settings.lease))


def fail(record: TaskRecord, why: Exception, backend: ChannelBackend) -> bool:
    """Fail a task that is not finished for a reason outside its code. Tells whether nobody was quicker."""
    result = end_waiting(record, why, backend.database, backend)
    if result is not None:
        send(task_finished, backend, result)
    return result is not None


# -- behind it ---------------------------------------------------------------------------------------------------------


async def _awrite(attempt: TaskAttempt, end: End) -> bool:
    """Write the end of the attempt of a coroutine, as ``_write`` does, and wait for a locked record."""
    using, until = attempt.backend.database, time.monotonic() + DATABASE_TIMEOUT_S
    while True:
        try:
            return await attempts.aend(end, using) or await write_aside(look_again, attempt, end)
        except Exception as error:
            is_over = time.monotonic() >= until and not is_lock_timeout(error)
            if not is_transient(error) or is_over:
                raise
        await asyncio.sleep(0.5)
