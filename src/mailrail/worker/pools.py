"""The event loop on which async consumers run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from .consume import ConsumerRun, run_on_loop
from .log import logger
from .outcomes import OutcomeKind

OnEnd = Callable[[ConsumerRun], None]

_of_workers: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def is_worker_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether async consumers run on this event loop, as opposed to one of a test or a server."""
    return loop in _of_workers


at_end: list[Callable[[], object]] = []
"""What to call when the event loop of a worker ends: its process may go on, as in tests."""


class EventLoop:
    """An event loop on a thread of its own, started when the first async consumer is to run."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        # The loop itself keeps only weak references.
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidying: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = loop = asyncio.new_event_loop()
            _of_workers.add(loop)
            try:
                threading.Thread(target=self._run, args=(loop,), name="mailrail-loop", daemon=True).start()
            except RuntimeError:  # the system starts no thread
                self._loop = None
                loop.close()
                raise
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._loop is loop:
            try:
                loop.run_forever()
            except BaseException:  # SystemExit in a task that a consumer has started ends run_forever
                logger.exception("a task on the event loop raised; the loop goes on")
        if self._tidying:
            loop.run_until_complete(asyncio.wait({*self._tidying}, timeout=1.0))
        for each in at_end:
            each()
        loop.close()

    def submit(self, run: ConsumerRun, on_end: OnEnd) -> None:
        self.loop.call_soon_threadsafe(self._start, run, on_end)

    def _start(self, run: ConsumerRun, on_end: OnEnd) -> None:
        def over(task: asyncio.Task[None]) -> None:
            run.cut_off(asyncio.CancelledError())  # where it was cancelled before its first step
            if any(m.outcome is not None and m.outcome.kind != OutcomeKind.FINISHED for m in run.messages):
                _create_task(_tidy_connections(), self._tidying)
            on_end(run)

        _create_task(run_on_loop(run), self._tasks).add_done_callback(over)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            with suppress(RuntimeError):  # its thread has seen that it is over, and closed it
                loop.call_soon_threadsafe(loop.stop)


def _create_task(coroutine: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    task = asyncio.get_running_loop().create_task(coroutine)
    among.add(task)
    task.add_done_callback(among.discard)
    return task


async def _tidy_connections() -> None:
    """Close broken connections of async consumers after a failure. All their database work runs on one thread, where no
    request ends, so Django itself never looks."""
    try:
        await sync_to_async(close_old_connections)()
    except Exception as error:
        logger.warning("the connections of async consumers cannot be tidied: %s", error)
