"""Enqueue what an entry names, inside the transaction that claims the tick; and say how a run stands."""

from __future__ import annotations

from datetime import datetime, timedelta
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

    task = find_task(definition.task)
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
    """Enqueue the task of an entry, and return the id of its result. Its metadata name the entry and the tick."""
    task = task_of(definition)
    if lane is not None:
        task = task.using(lane=lane)
    if delay:
        task = task.using(run_after=timedelta(seconds=delay))
    from mailrail.tasks.models import TaskRecord

    id = UUID(task.enqueue(*definition.args, **definition.kwargs).id)
    unmarked = TaskRecord.objects.using(database()).filter(pk=id, metadata={})
    unmarked.update(metadata=_origin(definition, tick))
    return id


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
    if run.run_id is None:
        return ENDED
    if run.task:
        from mailrail.tasks.models import TaskRecord

        status = (
            TaskRecord.objects.using(database())
            .filter(pk=run.run_id)
            .values_list("status", flat=True)
            .first()
        )
        if status is not None:
            return _STATES_OF_TASKS[status]
    return _state_of_message(Channel(run.channel).layer, run.channel, run.run_id)


def _state_of_message(layer: DurableLayer, channel: str, id: UUID) -> str:
    for message in layer.get(channel, [id]):
        return WAITS if message.token is None else RUNS
    return FAILED if layer.get(channel, [id], dead=True) else ENDED
