"""Enqueue what an entry names, inside the transaction that claims the tick; and say how a run stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.utils.translation import pgettext_lazy

from mailrail import Channel, InvalidSettings
from mailrail.layers import get_layer
from mailrail.moments import as_django, for_machines

from .choices import QUEUE
from .definition import Definition
from .models import ScheduleTick

if TYPE_CHECKING:
    from mailrail.layers import DurableLayer

WAITS, RUNS, FAILED, ENDED = "waiting", "running", "failed", "ended"
RUN_STATES = {
    WAITS: pgettext_lazy("scheduled run", "waiting"),
    RUNS: pgettext_lazy("scheduled run", "running"),
    FAILED: pgettext_lazy("scheduled run", "failed"),
    ENDED: pgettext_lazy("scheduled run", "ended"),
}
"""How a run stands. ``ended``: successful, or no longer known, as messages leave no trace."""
_STATES_OF_TASKS = {"READY": WAITS, "RUNNING": RUNS, "FAILED": FAILED, "SUCCESSFUL": ENDED}


def database() -> str:
    """Return the alias of the database that keeps the schedule: that of the default layer."""
    return get_layer().using


def channel_of(definition: Definition) -> str:
    """Return the channel of an entry's messages."""
    if not definition.task:
        return definition.channel
    from mailrail.tasks.queues import channel_of as channel_of_queue

    return channel_of_queue(task_of(definition).queue_name)


def task_of(definition: Definition) -> Any:
    """Return the task of an entry. Raises ``InvalidSettings`` if workers cannot enqueue it together with its tick."""
    from mailrail.tasks.definition import find_task

    try:
        task = find_task(definition.task)
    except Exception as error:  # a module may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InvalidSettings(f"{definition.name}: {definition.task} cannot be imported: {reason}") from error
    if task is None:
        raise InvalidSettings(f"{definition.name}: there is no task at {definition.task!r}.")
    backend: Any = task.get_backend()
    if not hasattr(backend, "task_options"):
        raise InvalidSettings(
            f"{definition.name}: the backend of {definition.task} must be mailrail.tasks.ChannelBackend, not "
            f"{type(backend).__name__}."
        )
    if backend.database != database():
        raise InvalidSettings(
            f"{definition.name}: the records of {definition.task} are in the database {backend.database!r}, and the "
            f"schedule is in {database()!r}, that of the default layer. A tick and its task must commit together."
        )
    return task


def bind_arguments(task: Any, definition: Definition) -> None:
    """Raise ``TypeError`` unless the function of a task takes the arguments of an entry."""
    context = (None,) if task.takes_context else ()
    signature(task.func).bind(*context, *definition.args, **definition.kwargs)


def enqueue(definition: Definition, tick: datetime, delay: float = 0.0) -> ScheduleTick:
    """Enqueue a run for a tick, in the caller's transaction, and return the tick with what was enqueued, unsaved.

    ``delay``: seconds that it waits.

    A message goes to a server, such as Redis, before the transaction commits. If the commit fails, the tick comes
    again, and its message is the one that waits. Raises what ``enqueue`` and ``send`` raise.
    """
    lane = f"schedule: {definition.name}" if definition.overlap == QUEUE else None
    of_task = enqueue_task if definition.task else send_message
    run_id = of_task(definition, tick, delay, lane)
    return ScheduleTick(
        name=definition.name,
        tick=as_django(tick),
        task=definition.task,
        channel=channel_of(definition),
        run_id=run_id,
    )


def enqueue_task(definition: Definition, tick: datetime, delay: float, lane: str | None) -> UUID:
    """Enqueue the task of an entry, and return the id of its result. Its metadata name the entry and the tick.

    One without a result, on a server apart, is sent at once, as messages are: nothing else would know of it.
    """
    from mailrail.tasks.enqueuing import enqueue_calls
    from mailrail.tasks.models import TaskRecord

    task = task_of(definition)
    if lane is not None:
        task = task.using(lane=lane)
    if delay:
        task = task.using(run_after=timedelta(seconds=delay))
    is_apart = not get_layer().joins_transactions
    if is_apart and _is_message_alone(task):
        task = task.using(key=" ".join(_origin(definition, tick).values()))
    call = (definition.args, definition.kwargs)
    [result] = enqueue_calls(task.get_backend(), task, [call], immediately=is_apart)
    id = UUID(result.id)
    unmarked = TaskRecord.objects.using(database()).filter(pk=id, metadata={})
    unmarked.update(metadata=_origin(definition, tick))
    return id


def _is_message_alone(task: Any) -> bool:
    """Tell whether a task has neither a record nor a key of its own."""
    effective = task.get_backend().task_options.effective(task, task.module_path)
    return not effective.results and effective.key is None


def send_message(definition: Definition, tick: datetime, delay: float, lane: str | None) -> UUID:
    """Send the message of an entry, and return its id. Its headers name the entry and the tick."""
    origin = _origin(definition, tick)
    is_apart = not get_layer().joins_transactions
    return Channel(definition.channel).send(
        dict(definition.content),
        delay=delay or None,
        lane=lane,
        headers=origin,
        key=" ".join(origin.values()) if is_apart else None,
        immediately=is_apart,
    )


def _origin(definition: Definition, tick: datetime) -> dict[str, str]:
    return {"schedule": definition.name, "tick": for_machines(tick)}


# -- what became of it -------------------------------------------------------------------------------------------------


def state_of(run: ScheduleTick) -> str:
    """Return how a run stands: one of ``RUN_STATES``."""
    return states_of([run]).get(run.run_id, ENDED)


def states_of(runs: Iterable[ScheduleTick]) -> dict[UUID | None, str]:
    """Return how runs stand, by their ids: one query for all tasks, and two look-ups for each channel of the rest."""
    enqueued = {run.run_id: run for run in runs if run.run_id is not None}
    states: dict[UUID | None, str] = dict.fromkeys(enqueued, ENDED)
    tasks = _states_of_records([id for id, run in enqueued.items() if run.task])
    by_channel: dict[str, list[UUID]] = {}
    for id, run in enqueued.items():
        if id not in tasks:
            by_channel.setdefault(run.channel, []).append(id)
    for channel, ids in by_channel.items():
        states |= _states_of_messages(Channel(channel).layer, channel, ids)
    return states | tasks


def _states_of_records(ids: Sequence[UUID]) -> dict[UUID | None, str]:
    """Return the states of tasks that have records."""
    if not ids:
        return {}
    from mailrail.tasks.models import TaskRecord

    rows = TaskRecord.objects.using(database()).filter(pk__in=ids).values_list("pk", "status")
    return {id: _STATES_OF_TASKS[status] for id, status in rows}


def _states_of_messages(layer: DurableLayer, channel: str, ids: Sequence[UUID]) -> dict[UUID | None, str]:
    """Return the states of messages that are not finished."""
    dead: dict[UUID | None, str] = {message.id: FAILED for message in layer.get(channel, ids, dead=True)}
    dead.update((m.id, WAITS if m.token is None else RUNS) for m in layer.get(channel, ids))
    return dead
