"""The consumers that run tasks. Their module's name is what routing looks for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, connections
from django.db.models import QuerySet
from django.dispatch import receiver

from mailrail import Channel
from mailrail.policy import LimitInContent
from mailrail.reconciliation import reconcile
from mailrail.routing import consumer
from mailrail.signals import message_buried, message_discarded, message_retried, worker_maintenance
from mailrail.terminal import counted
from mailrail.worker import IncomingMessage

from . import attempts, batch_ends, retention, running
from .attempt import TaskAttempt, start_of
from .beginning import begin_together, record_of
from .compat import DEFAULT_TASK_QUEUE_NAME
from .concluding import look_again
from .errors import TaskCancelled, TaskLost
from .models import UNFINISHED, TaskRecord, first_id
from .named import backend_of, named_by
from .queues import PREFIX, channel_of, known_channels, used_databases
from .rates import amay_start, may_start
from .retrying import logger
from .running_unrecorded import (
    UnrecordedAttempt,
    run_unrecorded,
    run_unrecorded_async,
    tell_buried,
    tell_discarded,
)
from .sending import content_of, lane_of

MAX_ATTEMPTS = 1_000_000
"""Attempts of a message: how often a task is tried is its record's matter."""
RETRY_SOON_S = 5.0
"""Seconds until a message is tried again whose task could not even begin."""
DEAD_PER_PAGE, DEAD_PAGES = 500, 20
"""Dead messages of a queue that one look reads. There are few: who buries a message fails its task at once."""
PRUNE_EVERY_S = 30.0
"""Seconds between two deletions of a process, which looks once a minute for each of its queues."""
CHANNELS = f"{PREFIX}*"

LOOK_AT_BATCHES_EVERY_S = 30.0
"""Seconds between two looks of a process at all open batches, for the same reason."""

_pruned_at = _batches_looked_at = float("-inf")  # time.monotonic()
_batches_looked_at_until: dict[str, UUID | None] = {}


def wait_after_timeout(message: IncomingMessage, error: TimeoutError) -> float | None:
    """Return the seconds until a message comes again after its time limit, or ``None`` if it is to be buried.

    The options of the task decide. Without a record, ``Discard`` may be raised. A record is written by
    ``count_time_limit`` afterwards, which removes the message if there is to be no other attempt.
    """
    if "task" in message.content:
        return UnrecordedAttempt(message).wait_after_timeout(error)
    try:
        attempt = _recorded_attempt(message)
    except (Error, SynchronousOnlyOperation) as reason:  # the database is away, or has not answered in time
        logger.warning(
            "the backoff of %s is not known just now, and it comes again soon: %s", message, reason
        )
        attempt = None
    if attempt is not None:
        attempt.fail(error)
    return RETRY_SOON_S if attempt is None or attempt.again_in is None else attempt.again_in


def _recorded_attempt(message: IncomingMessage) -> TaskAttempt | None:
    """Return the attempt that a message has begun. Of one in a process of its own, the record has to be read."""
    backend, record = backend_of(message.content), record_of(message)
    if record is None and (start := start_of(message)) is not None:
        is_connected = connections[backend.database].connection is not None
        try:
            rows = TaskRecord.objects.using(backend.database).filter(pk=start.id, token=start.token)
            record = rows.first()
        finally:
            if not is_connected:  # on a thread that needs none otherwise
                connections[backend.database].close()
    return None if record is None else TaskAttempt(message, record, backend)


_options: dict[str, Any] = {
    "attempts": MAX_ATTEMPTS,
    "backoff": lambda attempt: RETRY_SOON_S,  # where no task is asked
    "known_channels": known_channels,
    "prepare": begin_together,
    "timeout": LimitInContent("timeout"),
    "on_timeout": wait_after_timeout,
}


@consumer(CHANNELS, run="^async$", **_options)
async def run_coroutine(message: IncomingMessage) -> None:
    """Run the task ``{"id": …, "run": "async"}``, or ``{"task": …, "run": "async"}``, on the event loop."""
    if "rate" in message.content and not await amay_start(message, running.seconds_left):
        return
    if "task" in message.content:
        await run_unrecorded_async(message)
    else:
        await running.run_task_async(message)


@consumer(CHANNELS, run="^isolated-async$", isolate=True, **_options)
async def run_coroutine_apart(message: IncomingMessage) -> None:
    """Run the task of a coroutine function in a process of its own."""
    await run_coroutine(message)


@consumer(CHANNELS, run="^isolated$", isolate=True, **_options)
def run_function_apart(message: IncomingMessage) -> None:
    """Run the task of a plain function in a process of its own."""
    run_function(message)


@consumer(CHANNELS, **_options)
def run_function(message: IncomingMessage) -> None:
    """Run the task ``{"id": …}``, or the one without a record ``{"task": …}``, on a thread."""
    if "rate" in message.content and not may_start(message, running.seconds_left):
        return
    if "task" in message.content:
        run_unrecorded(message)
    else:
        running.run_task(message)


# -- messages that ended outside the consumers -------------------------------------------------------------------------


@receiver(message_retried, dispatch_uid="mailrail.tasks.retried")
def count_time_limit(
    *, message: IncomingMessage, error: str, delay: float, timed_out: bool, **kwargs: Any
) -> None:
    """Count an attempt that ran into the worker's time limit, and fail the task if that was its last one."""
    if not timed_out or not message.channel.startswith(PREFIX):
        return
    if (start := start_of(message)) is None:
        return
    backend = backend_of(message.content)
    rows = TaskRecord.objects.using(backend.database).filter(pk=start.id, token=start.token)
    if (record := rows.first()) is not None:
        attempt = TaskAttempt(message, record, backend)
        end = attempt.fail(TimeoutError(error))
        if attempt.again_in is not None:
            attempt.again_in = delay  # when its message comes
        was_written = attempts.end(end, backend.database) or look_again(attempt, end)
        attempt.conclude(was_written)
        if was_written and attempt.again_in is None:  # nobody in its lane is to wait for it
            Channel(message.channel).layer.cancel(message.channel, [message.id])


@receiver(message_buried, dispatch_uid="mailrail.tasks.buried")
def fail_buried(*, message: IncomingMessage, error: str, **kwargs: Any) -> None:
    """Fail the task of a message that the worker has buried, for the record tells the error from now on."""
    if not message.channel.startswith(PREFIX):
        return
    if "task" in message.content:
        tell_buried(message, error)
    else:
        _fail(message.channel, message.id, message.content, error)


@receiver(message_discarded, dispatch_uid="mailrail.tasks.discarded")
def fail_killed(*, message: IncomingMessage, error: str, **kwargs: Any) -> None:
    """Fail the task whose process was killed on request.

    In no other way is the message of a task with a record discarded.
    """
    if not message.channel.startswith(PREFIX):
        return
    if "task" in message.content:
        tell_discarded(message, error)
        return
    if (start := start_of(message)) is None:
        return
    backend = backend_of(message.content)
    rows = TaskRecord.objects.using(backend.database).filter(pk=start.id, token=start.token)
    if (record := rows.first()) is not None:
        running.fail(record, TaskCancelled(f"Its process was killed while it ran: {error}."), backend)


def fail_dead() -> None:
    """Fail the tasks whose messages are dead and whose worker did not say so, as it was killed."""
    layer = Channel(channel_of(DEFAULT_TASK_QUEUE_NAME)).layer
    for channel in filter(lambda name: name.startswith(PREFIX), layer.list_channels()):
        for dead in _dead_with_records(channel):
            _fail(channel, dead.id, dead.content, dead.error)


def _dead_with_records(channel: str) -> Iterator[Any]:
    """Yield the dead messages of a channel that have a record. They died of no exception, unlike most without one."""
    layer, cursor = Channel(channel).layer, None
    for _ in range(DEAD_PAGES):
        page = layer.list_messages([channel], DEAD_PER_PAGE, "dead", cursor, "")
        for dead in layer.get(channel, [summary.id for summary in page], dead=True):
            if "task" not in dead.content:
                yield dead
        if len(page) < DEAD_PER_PAGE:
            return
        cursor = page[-1].cursor


def _fail(channel: str, id: UUID, content: dict[str, Any], error: str) -> None:
    """Fail the task that a dead message names, and forget the message; unless it has no record, and is all there is."""
    backend, named = backend_of(content), named_by(content)
    record = named and TaskRecord.objects.using(backend.database).filter(pk=named[0]).first()
    if not named or not record:
        return
    if record.dispatch == named[1]:
        running.fail(record, TaskLost(error.strip()), backend)
    Channel(channel).layer.discard(channel, [id])


# -- records whose time is over ----------------------------------------------------------------------------------------


@receiver(worker_maintenance, dispatch_uid="mailrail.tasks.retention")
def prune_records(sender: str, **kwargs: Any) -> None:
    """Delete records that were kept long enough: once for each look of a worker, whatever queues it serves."""
    global _pruned_at
    if not sender.startswith(PREFIX) or time.monotonic() < _pruned_at + PRUNE_EVERY_S:
        return
    _pruned_at = time.monotonic()
    for using in used_databases():
        if deleted := retention.prune_for_a_while(using):
            logger.info("removed %s whose time was over", counted(deleted, "result"))


@receiver(worker_maintenance, dispatch_uid="mailrail.tasks.batches")
def end_batches(sender: str, **kwargs: Any) -> None:
    """End the batches whose last worker was killed before it could: once for each look of a worker."""
    global _batches_looked_at
    if not sender.startswith(PREFIX) or time.monotonic() < _batches_looked_at + LOOK_AT_BATCHES_EVERY_S:
        return
    _batches_looked_at = time.monotonic()
    for using in used_databases():
        _batches_looked_at_until[using] = batch_ends.look_after_open(
            using, _batches_looked_at_until.get(using)
        )


# -- records whose message is missing ----------------------------------------------------------------------------------


def _reconcile(using: str) -> None:
    """Look for unfinished records of a database whose message is missing, if tasks are kept there."""

    def unfinished(before: datetime) -> QuerySet[TaskRecord]:
        if using not in used_databases():
            return TaskRecord.objects.none()
        fail_dead()  # for reconciliation, a record whose message is dead has one
        records = TaskRecord.objects.using(using).filter(
            status__in=UNFINISHED, held=0, pk__lt=first_id(before)
        )
        return records.defer("args", "kwargs", "errors")

    unfinished.__qualname__ = f"unfinished[{using}]"
    reconcile(CHANNELS, channel_of=_channel, content=content_of, priority=_priority, lane=lane_of)(unfinished)


def _channel(record: TaskRecord) -> str:
    return channel_of(record.queue)


def _priority(record: TaskRecord) -> int:
    return record.priority


for _using in connections:
    _reconcile(_using)
