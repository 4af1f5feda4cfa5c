"""Where consumers run: sync ones on threads, async ones on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

from asgiref.sync import sync_to_async
from django.db import close_old_connections

from ..layers import DurableLayer
from .connections import close_connections, tidy_after, tidy_before
from .consume import ConsumerRun, run_in_thread, run_on_loop
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


class Threads:
    """A fixed number of daemon threads: one that hangs must not keep the process from ending.

    To wake a thread costs more than a short consumer does. So they wake one another: each that takes a run wakes
    one more if another waits. Where consumers end at once, the first thread has run them all before the second is up.
    """

    def __init__(self, size: int, layer: DurableLayer) -> None:
        self.size = size
        self._layer = layer
        self._waiting: deque[tuple[ConsumerRun, OnEnd]] = deque()
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # False: end
        self._is_waking = False  # a wake is on its way to a thread
        self._started = 0
        self.busy = 0
        """Runs that are submitted and not over. ``Capacity`` counts them, with its lock."""
        self._starting = threading.Lock()

    def submit(self, run: ConsumerRun, on_end: OnEnd) -> None:
        if self._started < min(self.busy, self.size):
            with self._starting:
                if self._started < self.size:
                    self._start_one()
        if not self._started:
            raise RuntimeError("The system starts no thread.")
        self._waiting.append((run, on_end))
        if not self._is_waking:
            self._is_waking = True
            self._wakes.put(True)

    def replace_one(self) -> None:
        """A thread hangs in a consumer past its time limit: another one takes its place."""
        with self._starting:
            self._start_one()

    def close(self) -> None:
        for _ in range(self._started):
            self._wakes.put(False)

    def _start_one(self) -> None:
        """Start a thread. If the system refuses, those that there are go on, and the next run tries again."""
        thread = threading.Thread(target=self._run, name=f"mailrail-{self._started + 1}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            logger.error("a thread for consumers cannot be started: %s", error)
        else:
            self._started += 1

    def _run(self) -> None:
        while self._wakes.get():
            # Before the look at `_waiting`: whoever adds to it after that look has to wake somebody else.
            self._is_waking = False
            while self._waiting:
                try:
                    run, on_end = self._waiting.popleft()
                except IndexError:  # another thread was quicker
                    break
                if self._waiting and not self._is_waking:
                    self._is_waking = True
                    self._wakes.put(True)
                try:
                    tidy_before()
                    run_in_thread(run, self._layer)
                    tidy_after()
                except BaseException as error:  # neither thread nor run may be lost if one ever raises
                    logger.exception("%s: the worker itself failed", run.route.name)
                    run.cut_off(error)
                on_end(run)
        close_connections()
