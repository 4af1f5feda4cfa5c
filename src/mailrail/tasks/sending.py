"""Send the messages of records, on the channels of their queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mailrail import Channel
from mailrail.moments import aware
from mailrail.options import Lane

from .inserting import Insertion
from .models import TaskRecord
from .queues import channel_of
from .rates import rate_of


def send(records: Iterable[TaskRecord], using: str) -> None:
    """Send the messages of new records on their channels, with the transaction of the database ``using``."""
    alike: dict[tuple[Any, ...], list[TaskRecord]] = defaultdict(list)
    for record in records:
        alike[record.queue, record.priority, record.run_after, lane_of(record)].append(record)
    for (queue, priority, run_after, lane), together in alike.items():
        Channel(channel_of(queue)).send_many(
            [content_of(record) for record in together],
            at=run_after and aware(run_after),
            priority=priority,
            lane=lane,
            unique=True,
            using=using,
        )


def send_with_record(record: TaskRecord, insertion: Insertion, using: str) -> None:
    """Store a new record that has no lane, and send its message: both, or none, and in one round trip if possible."""
    Channel(channel_of(record.queue)).send_with_record(
        insertion,
        content_of(record),
        at=record.run_after and aware(record.run_after),
        priority=record.priority,
        unique=True,
        using=using,
    )


def lane_of(record: TaskRecord) -> Lane | None:
    """Return the lane of a record's message, as ``Channel.send`` takes it."""
    return (record.lane, record.places) if record.places else record.lane or None


def content_of(record: TaskRecord) -> dict[str, Any]:
    """Return the content of the message of a record. Reconciliation knows the message by it."""
    content: dict[str, Any] = {"id": str(record.id)}
    if record.dispatch:
        content["dispatch"] = record.dispatch
    if record.backend != "default":
        content["backend"] = record.backend
    if record.timeout is not None:
        content["timeout"] = record.timeout
    if record.rate:
        content["rate"] = rate_of(record.task, record.rate)
    if record.is_async or record.is_isolated:
        content["run"] = run_of(record.is_async, record.is_isolated)
    return content


def run_of(is_async: bool, is_isolated: bool) -> str:
    """Return how a task runs, as contents have it: what the consumers of tasks filter by."""
    return "-".join(word for word, applies in (("isolated", is_isolated), ("async", is_async)) if applies)


def cancel_message(record: TaskRecord) -> None:
    """Remove the message of a record, unless somebody has claimed it."""
    channel = Channel(channel_of(record.queue))
    channel.layer.cancel(channel.name, [channel.unique_id(content_of(record))])
