"""Do the steps of a task once: what they return is kept, and the next attempt gets it back.

A step is kept as soon as its function has returned. Killed between the two, it is done again by the next attempt,
unless it is atomic.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime
from inspect import isawaitable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from mailrail import Channel, LostClaim
from mailrail import options as checked
from mailrail.routes import is_async_function
from mailrail.transient import is_lock_timeout, is_transient
from mailrail.worker.atomic import abortable_transaction

from .aside import write_aside
from .backend import ChannelBackend
from .compat import InvalidTask
from .errors import StepNotKept, TaskCancelled
from .json_values import PLAIN, dumps, normalized
from .kept_steps import DoneStep, Kept, keep, load
from .loops import LoopSource, Position
from .models import TaskRecord
from .transactions import open_blocks, writing_only_into
from .watching import RunState

MAX_VALUE_BYTES = 64 * 1024
"""Bytes of JSON that a step may return."""
DATABASE_TIMEOUT_S = 20.0
"""Seconds for which a step that is done waits to be written while the database is away."""
RETRY_INTERVAL_S = 0.5
"""Seconds between two tries to write it."""


class Steps:
    """Run the steps of one attempt, and keep what they return."""

    def __init__(
        self, record: TaskRecord, state: RunState, backend: ChannelBackend, *, is_atomic: bool
    ) -> None:
        self._path = record.task
        self._state = state
        self._backend = backend
        self._is_atomic = is_atomic
        self._asked: dict[str, object] = {}
        self._loaded: dict[str, Kept] | None = None
        # In a test, a task runs inside the test's transaction; of a coroutine, that is open on another thread.
        in_test = record.began_in_transaction
        self._outer_blocks = None if in_test and record.is_async else open_blocks() if in_test else {}

    # -- steps --------------------------------------------------------------------------------------------------

    def step(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, atomic: bool) -> Any:
        """Return what the function returns, or has returned in an earlier attempt."""
        what = self._begin(f"step({name!r})", name)
        self._check_function(what, function, atomic)
        if is_async_function(function):
            raise TypeError(f"{what}: {_name_of(function)} is async. Write: await context.astep(…).")
        kept = self._kept()
        if name in kept:
            return self._value(what, kept.pop(name))  # nobody asks for it again
        self._check_goes_on(what)
        if atomic:
            return self._run_atomic(what, name, function, args, kwargs)
        self._check_blocks(what)
        started_at = timezone.now()
        value = function(*args, **kwargs)
        self._check_blocks(what)
        return self._keep_value(what, name, value, started_at)

    async def astep(
        self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, atomic: bool
    ) -> Any:
        """Return what the function returns, or has returned in an earlier attempt. A plain one runs on a thread."""
        what = self._begin(f"astep({name!r})", name)
        self._check_function(what, function, atomic)
        kept = await self._akept()
        if name in kept:
            return self._value(what, kept.pop(name))  # nobody asks for it again
        self._check_goes_on(what)
        if atomic:
            return await sync_to_async(self._run_atomic)(what, name, function, args, kwargs)
        started_at = timezone.now()
        value = (function if is_async_function(function) else sync_to_async(function))(*args, **kwargs)
        while isawaitable(value):
            value = await value
        value, step = self._step(what, name, value, started_at)
        await self._awrite(what, step)
        return value

    def _run_atomic(self, what: str, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """Commit what the function writes together with what it returns."""
        self._check_blocks(what)
        started_at = timezone.now()
        layer = Channel(self._state.message.channel).layer
        with abortable_transaction(layer), writing_only_into(self._using, f"{what} of {self._path}"):
            value, step = self._step(what, name, function(*args, **kwargs), started_at)
            if not keep(step, self._state.id, self._state.token, self._using, replaces=False):
                raise self._lost(what)
        return value

    # -- loops --------------------------------------------------------------------------------------------------

    def each(self, name: str, items: Any, chunk: int) -> Iterator[Any]:
        """Yield the items behind the last chunk that an earlier attempt has finished."""
        what = self._begin(f"each({name!r})", name)
        return self._each(what, name, LoopSource.of(items, chunk, what))

    def _each(self, what: str, name: str, source: LoopSource) -> Iterator[Any]:
        position, started_at = self._position(what, name, self._kept()), timezone.now()
        while not position.is_done:
            self._check_goes_on(what)
            rows, position = source.next_chunk(position)
            yield from rows
            self._check_blocks(what)
            position = source.worked_through(position)
            self._write(what, DoneStep(name, True, dumps(position.to_json()), started_at, timezone.now()))

    def aeach(self, name: str, items: Any, chunk: int) -> AsyncIterator[Any]:
        """Yield the items behind the last chunk that an earlier attempt has finished."""
        what = self._begin(f"aeach({name!r})", name)
        return self._aeach(what, name, LoopSource.of(items, chunk, what))

    async def _aeach(self, what: str, name: str, source: LoopSource) -> AsyncIterator[Any]:
        position, started_at = self._position(what, name, await self._akept()), timezone.now()
        while not position.is_done:
            self._check_goes_on(what)
            rows, position = await sync_to_async(source.next_chunk)(position)
            for row in rows:
                yield row
            position = source.worked_through(position)
            await self._awrite(
                what, DoneStep(name, True, dumps(position.to_json()), started_at, timezone.now())
            )

    def _position(self, what: str, name: str, kept: Mapping[str, Kept]) -> Position:
        if name not in kept:
            return Position()
        if not kept[name].is_loop:
            raise self._other_kind(what, "a step")
        return Position.from_json(kept[name].value)

    # -- checks -------------------------------------------------------------------------------------------------

    def _begin(self, call: str, name: str) -> str:
        """Note that this attempt asks for a name, and return what errors call the step. Raises for a second time."""
        what = f"context.{call}"
        if self._is_atomic:
            raise InvalidTask(
                f"{what} of {self._path}: the task has atomic=True, so its steps would be undone with it. Leave that "
                "out of the task, and write context.step(…, atomic=True) instead."
            )
        checked.label("name of a step", name)
        mine = object()
        if self._asked.setdefault(name, mine) is not mine:  # in one step, as two threads may ask at once
            raise ValueError(
                f"{what} of {self._path} comes twice in one run, and a name can have one result. Give each step a name "
                f'of its own; in a loop, with the number or the key: f"{name[:40]}-{{pk}}".'
            )
        return what

    def _check_function(self, what: str, function: Any, atomic: bool) -> None:
        if not callable(function):
            raise TypeError(
                f"{what} needs a function, not {function!r:.100}. Give the function and its arguments: "
                'context.step("charge", charge, pk), not charge(pk).'
            )
        if not atomic:
            return
        if is_async_function(function):
            raise InvalidTask(
                f"{what} of {self._path}: atomic=True needs a plain function, as Django's transactions are not async, "
                f"and {_name_of(function)} is. Leave atomic out, or give a plain function: it runs on a thread."
            )
        try:
            self._backend.check_atomic()
        except InvalidTask as error:
            raise InvalidTask(f"{what} of {self._path}: {error}") from None

    def _check_goes_on(self, what: str) -> None:
        """Raise ``TaskCancelled`` or ``LostClaim`` if there is no point in another step."""
        if self._state.tell_cancelled():
            raise TaskCancelled(f"Somebody cancelled it while it ran, and it has stopped before {what}.")
        if self._state.is_lost:
            raise self._lost(what)

    def _check_blocks(self, what: str) -> None:
        """Refuse a step inside a transaction of the task: rolled back, that would undo what the step has done."""
        outer = self._outer_blocks
        if outer is None:
            return
        inner = [alias for alias, depth in open_blocks().items() if depth > outer.get(alias, -1)]
        if inner:
            raise TransactionManagementError(
                f"{what} of {self._path}: a transaction is open on {', '.join(map(repr, inner))}. Rolled back, it "
                "would undo the step, or what the step has kept. Leave the block of transaction.atomic() before, or "
                "let the step open it."
            )

    def _lost(self, what: str) -> LostClaim:
        return LostClaim(
            f"{what} of {self._path} is not kept: another worker has the task, its time limit is over, or its record "
            "is gone."
        )

    def _other_kind(self, what: str, other: str) -> ValueError:
        return ValueError(
            f"{what} of {self._path}: an earlier attempt has kept {other} by this name. Give it another name."
        )

    # -- what is kept -------------------------------------------------------------------------------------------

    @property
    def _using(self) -> str:
        return self._state.using

    def _kept(self) -> dict[str, Kept]:
        if self._loaded is None:
            self._loaded = load(self._state.id, self._using)
        return self._loaded

    async def _akept(self) -> dict[str, Kept]:
        return self._kept() if self._loaded is not None else await write_aside(self._kept)

    def _value(self, what: str, kept: Kept) -> Any:
        if kept.is_loop:
            raise self._other_kind(what, "a loop")
        return kept.value

    def _step(self, what: str, name: str, value: Any, started_at: datetime) -> tuple[Any, DoneStep]:
        """Return a value as a later attempt gets it, and the step to be written. Raises ``StepNotKept``."""
        returned = f"what {what} returned"
        try:
            value = normalized(value, returned)
        except (TypeError, ValueError) as error:
            raise StepNotKept(str(error)) from None
        try:
            text = dumps(value)
        except ValueError as error:  # a number of more digits than Python turns into text
            raise StepNotKept(f"{returned} is no JSON: {error}") from None
        if len(text) > MAX_VALUE_BYTES:
            raise StepNotKept(
                f"{what} of {self._path} returned {len(text):,} bytes of JSON, and {MAX_VALUE_BYTES:,} can be kept. "
                "Store it in a row or a file, and return its key or its name."
            )
        if type(value) not in PLAIN:  # inside may be subclasses of text and of numbers
            value = json.loads(text)
        return value, DoneStep(name, False, text, started_at, timezone.now())

    def _keep_value(self, what: str, name: str, value: Any, started_at: datetime) -> Any:
        value, step = self._step(what, name, value, started_at)
        self._write(what, step)
        return value

    def _write(self, what: str, step: DoneStep) -> None:
        """Write a step. While the database is away, try again for a while."""
        until = time.monotonic() + DATABASE_TIMEOUT_S
        while True:
            try:
                is_ours = keep(step, self._state.id, self._state.token, self._using)
                break
            except Exception as error:
                is_over = time.monotonic() >= until or connections[self._using].in_atomic_block
                if is_over or not is_transient(error):
                    raise
                connections[self._using].close()
                time.sleep(RETRY_INTERVAL_S)
        if not is_ours:
            raise self._lost(what)

    async def _awrite(self, what: str, step: DoneStep) -> None:
        """Write a step of a coroutine, as ``_write`` does, and keep no other coroutine waiting for a locked record."""
        until = time.monotonic() + DATABASE_TIMEOUT_S
        while True:
            try:
                is_ours = await write_aside(
                    keep, step, self._state.id, self._state.token, self._using, is_patient=False
                )
                break
            except Exception as error:
                is_over = time.monotonic() >= until and not is_lock_timeout(error)
                if is_over or not is_transient(error):
                    raise
            await asyncio.sleep(RETRY_INTERVAL_S)
        if not is_ours:
            raise self._lost(what)


def _name_of(function: Any) -> str:
    function = getattr(function, "func", function)  # of functools.partial
    return getattr(function, "__qualname__", type(function).__qualname__)
