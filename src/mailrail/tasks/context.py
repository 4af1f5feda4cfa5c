"""What a task that takes ``context`` gets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mailrail.worker import IncomingMessage

from .aside import write_aside
from .batches import Batch
from .compat import InvalidTask, TaskContext
from .json_values import normalized
from .watching import RunState

if TYPE_CHECKING:
    from .steps import Steps

SAVE_EVERY_S = 1.0
"""Seconds between two writes of ``progress``; what comes in between is written with the next one, or at the end."""

Save = Callable[[dict[str, Any] | None, dict[str, Any]], None]
"""Writes a progress and a metadata into the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelContext(TaskContext):  # type: ignore[misc,type-arg,unused-ignore]
    """The context of a running task: ``task_result``, and ``attempt``, which counts from 1."""

    _message: IncomingMessage = field(repr=False, compare=False)
    # None: the task has no record.
    _state: RunState | None = field(repr=False, compare=False)
    _save: Save | None = field(repr=False, compare=False)
    _steps: Steps | None = field(repr=False, compare=False)
    _saved_at: list[float] = field(default_factory=lambda: [float("-inf")], repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Tell whether somebody has cancelled the task, two seconds ago or earlier. Costs no query.

        A task that was told so may return or raise, as it likes: it ends as cancelled. One with ``results=False``
        cannot be cancelled.
        """
        return self._state is not None and self._state.tell_cancelled()

    @property
    def stopping(self) -> bool:
        """Tell whether the worker has been told to stop. ``raise mailrail.Later(after=0)`` hands the task over."""
        return self._message.stopping

    @property
    def lost(self) -> bool:
        """Tell whether another worker has the task by now, or its record is gone. Nothing of this attempt is kept.

        Raises ``InvalidTask`` if the task has ``results=False``.
        """
        self._writer("context.lost")
        return self._state is not None and self._state.tell_lost()

    @property
    def batch(self) -> Batch | None:
        """Return the batch that the task follows, or is a member of; ``None`` without one. Costs no query.

        Raises ``InvalidTask`` if the task has ``results=False``.
        """
        self._writer("context.batch")
        if self._state is None or self._state.batch_id is None:
            return None
        return Batch(self._state.batch_id, self._state.using)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return a dictionary that the task may change, and that its next attempt finds as this one has left it.

        It is saved by ``save``, with ``progress``, and when the attempt ends, also by an exception. Raises
        ``InvalidTask`` if the task has ``results=False``, as all do that write.
        """
        self._writer("context.metadata")
        result: Any = self.task_result
        metadata: dict[str, Any] = result.metadata
        return metadata

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Say how far the task is, for ``result.progress``. Call it as often as you like: few calls write."""
        self._note(done, total, text)
        if self._is_due():
            self.save()

    async def aprogress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Say from a coroutine how far the task is, as ``progress`` does."""
        self._note(done, total, text)
        if self._is_due():
            await self.asave()

    def save(self) -> None:
        """Write progress and metadata now. Raises ``TypeError`` or ``ValueError`` for metadata that are no JSON."""
        write = self._writer("context.save()")
        self._saved_at[0] = time.monotonic()
        result: Any = self.task_result
        write(result.progress, normalized(self.metadata, "metadata"))

    async def asave(self) -> None:
        """Write progress and metadata from a coroutine, as ``save`` does."""
        await write_aside(self.save)

    def step(
        self, name: str, function: Callable[..., Any], /, *args: Any, atomic: bool = False, **kwargs: Any
    ) -> Any:
        """Call the function once for all attempts of the task, and return what it has returned.

        ``name``: one for each step, of 1 to 255 characters. What the function returns is kept as JSON, at most 64 KiB.
        If it raises, nothing is kept, and the next attempt calls it again. ``atomic``: what it writes into the database
        of the layer is committed together with its result, so exactly once.

        Raises ``InvalidTask`` if the task has ``results=False`` or ``atomic=True``, or if the layer is in no database
        and the step is atomic. Raises ``ValueError`` for a name that comes twice,
        ``mailrail.tasks.errors.StepNotKept`` for a result that cannot be kept, and ``mailrail.LostClaim`` if another
        worker has the task. A cancelled task does not begin another step: it raises
        ``mailrail.tasks.errors.TaskCancelled``.
        """
        return self._steps_of("context.step()").step(name, function, args, kwargs, atomic)

    async def astep(
        self, name: str, function: Callable[..., Any], /, *args: Any, atomic: bool = False, **kwargs: Any
    ) -> Any:
        """Call an async function once for all attempts, as ``step`` does. A plain function runs on a thread."""
        return await self._steps_of("context.astep()").astep(name, function, args, kwargs, atomic)

    def each(self, name: str, items: Any, chunk: int = 500) -> Iterator[Any]:
        """Yield the items; the next attempt goes on behind the last chunk that this one has finished.

        ``items``: a queryset, which is read by chunks in the order of its primary keys. It may also be a list, which
        has to be the same in each attempt. A chunk is finished when the loop asks for the item behind it. Raises what
        ``step`` raises, and ``TypeError`` for items in which a loop cannot go on.
        """
        return self._steps_of("context.each()").each(name, items, chunk)

    def aeach(self, name: str, items: Any, chunk: int = 500) -> AsyncIterator[Any]:
        """Yield the items to a coroutine, as ``each`` does: ``async for row in context.aeach(…)``."""
        return self._steps_of("context.aeach()").aeach(name, items, chunk)

    def _steps_of(self, what: str) -> Steps:
        self._writer(what)
        assert self._steps is not None
        return self._steps

    def _note(self, done: float, total: float | None, text: str) -> None:
        self._writer("context.progress()")
        progress = normalized({"done": done, "total": total, "text": str(text)}, "progress")
        object.__setattr__(self.task_result, "progress", progress)

    def _writer(self, what: str) -> Save:
        """Return what writes into the record. Raises ``InvalidTask`` if there is none."""
        if self._save is None:
            raise InvalidTask(
                f"{what} of {self.task_result.task.module_path} needs a record, and the task has results=False. "
                "Leave that out, or set results=True for this task."
            )
        return self._save

    def _is_due(self) -> bool:
        return time.monotonic() - self._saved_at[0] >= SAVE_EVERY_S
