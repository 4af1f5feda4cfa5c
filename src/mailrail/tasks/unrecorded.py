"""Enqueue tasks with ``results=False``: each is a message alone, which holds the path of the task and its arguments.

The worker counts its attempts, drops it when its time is over, and keeps it among the dead after its last attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from inspect import iscoroutinefunction
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from mailrail import Channel
from mailrail.moments import aware
from mailrail.options import Lane
from mailrail.worker import IncomingMessage

from .compat import TaskResultStatus
from .json_values import normalized
from .options import UNRECORDED_OPTIONS, Effective, differing, to_json
from .queues import channel_of, queue_of
from .rates import rate_of
from .results import ChannelResult, task_at
from .sending import run_of

Call = tuple[Sequence[Any], Mapping[str, Any]]
"""The positional and the keyword arguments of one call."""
Place = tuple[Lane | None, str | None]
"""The lane and the key of a message."""
MAX_KEY_LENGTH = 255
"""Characters of a message's key."""


def enqueue_unrecorded(
    task: Any,
    decorated: Any,
    effective: Effective,
    calls: Sequence[Call],
    using: str,
    immediately: bool = False,
) -> list[ChannelResult]:
    """Send a message for each call, and return their results. They can be looked at only by receivers of signals."""
    shared, now = _shared(task, decorated, effective), timezone.now()
    contents = [_content(shared, args, kwargs) for args, kwargs in calls]
    places = [_place(effective, task.module_path, args, kwargs) for args, kwargs in calls]
    options = {
        "at": task.run_after and aware(task.run_after),
        "priority": int(task.priority),
        "expires": effective.expires_at(),
        "attempts": effective.attempts,
        "using": using,
        "immediately": immediately,
    }
    ids = _send(Channel(channel_of(task.queue_name)), contents, places, options)
    return [_waiting_result(task, id, content, now) for id, content in zip(ids, contents, strict=True)]


def _shared(task: Any, decorated: Any, effective: Effective) -> dict[str, Any]:
    """Return the fields of contents that are the same for all calls."""
    shared: dict[str, Any] = {"task": task.module_path}
    if task.backend != "default":
        shared["backend"] = task.backend
    if (limit := effective.limit()) is not None:
        shared["timeout"] = limit
    if effective.rate is not None:
        shared["rate"] = rate_of(task.module_path, effective.rate)
    if run := run_of(iscoroutinefunction(task.func), effective.isolate):
        shared["run"] = run
    if changes := differing(task, decorated, UNRECORDED_OPTIONS):
        shared["options"] = to_json(changes)
    return shared


def _content(shared: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    content = {**shared}
    if args:
        content["args"] = normalized(args, "args")
    if kwargs:
        content["kwargs"] = normalized(kwargs, "kwargs")
    return content


def _place(effective: Effective, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Place:
    """Return the lane and the key of a message. Keys are those of a channel, and other tasks have the same queue."""
    lane = effective.lane_of(path, args, kwargs) if effective.has_lane else None
    key = effective.key_of(args, kwargs) if effective.key is not None else None
    if key is None:
        return lane, None
    name = f"{path}:{key}"
    return lane, name if len(name) <= MAX_KEY_LENGTH else sha256(name.encode()).hexdigest()


def _send(
    channel: Channel, contents: Sequence[Any], places: Sequence[Place], options: dict[str, Any]
) -> list[UUID]:
    """Send the contents, all or none of them, and return the ids of their messages, in order."""
    if len(contents) == 1:  # one statement
        [(lane, key)] = places
        return [channel.send(contents[0], lane=lane, key=key, **options)]
    ids: dict[int, UUID] = {}
    with transaction.atomic(options["using"], savepoint=False):
        for (lane, key), numbers in _groups(places):
            if key is None:
                sent = channel.send_many([contents[n] for n in numbers], lane=lane, **options)
            else:
                sent = [channel.send(contents[n], lane=lane, key=key, **options) for n in numbers]
            ids.update(zip(numbers, sent, strict=True))
    return [ids[number] for number in range(len(contents))]


def _groups(places: Sequence[Place]) -> list[tuple[Place, list[int]]]:
    """Return the numbers of messages that are sent together, by their place. Each lane keeps its order."""
    groups: list[tuple[Place, list[int]]] = []
    newest: dict[Any, tuple[Place, list[int]]] = {}  # by lane; without one no order is kept
    for number, place in enumerate(places):
        row = place if place[0] is None else place[0]
        if row not in newest or newest[row][0] != place:
            newest[row] = (place, [])
            groups.append(newest[row])
        newest[row][1].append(number)
    return groups


# -- results, which are kept nowhere -----------------------------------------------------------------------------------


def _waiting_result(task: Any, id: UUID, content: Mapping[str, Any], enqueued_at: Any) -> ChannelResult:
    return ChannelResult(
        task=task,
        id=str(id),
        status=TaskResultStatus.READY,
        enqueued_at=enqueued_at,
        started_at=None,
        finished_at=None,
        last_attempted_at=None,
        args=content.get("args", []),
        kwargs=content.get("kwargs", {}),
        backend=task.backend,
        errors=[],
        worker_ids=[],
    )


def result_of_message(message: IncomingMessage, task: Any = None) -> ChannelResult:
    """Return what a message says of its task. ``worker_ids`` has ``""`` for the workers of earlier attempts.

    ``task``: the one that it names, if the caller has it.
    """
    content, claim = message.content, message.claim
    result = _waiting_result(task or task_of_message(message), message.id, content, message.sent_at)
    result.worker_ids.extend([""] * (message.attempt + message.losses))
    if claim.token is not None:
        result.worker_ids[-1] = claim.worker or ""
        now = timezone.now()
        object.__setattr__(result, "status", TaskResultStatus.RUNNING)
        object.__setattr__(result, "started_at", now if len(result.worker_ids) == 1 else None)
        object.__setattr__(result, "last_attempted_at", now)
    return result


def task_of_message(message: IncomingMessage) -> Any:
    """Return the task of a message as it was enqueued; a stand-in if its function is gone, or cannot be imported."""
    content = message.content
    values = {
        "priority": message.priority,
        "backend": str(content.get("backend", "default")),
        "queue_name": queue_of(message.channel),
    }
    return task_at(str(content["task"]), values, content.get("options", {}))
