"""Where consumers run: sync ones on threads, async ones on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from ..layers import DurableLayer
from .connections import close_connections, tidy_after, tidy_before
from .consume import Delivery, run_in_thread, run_on_loop
from .log import logger

OnEnd = Callable[[Delivery], None]


class EventLoop:
    """An event loop on a thread of its own, started when the first async consumer is to run."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run, args=(self._loop,), name="mailrail-loop", daemon=True).start()
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._loop is loop:
            try:
                loop.run_forever()
            except BaseException:  # SystemExit in a task that a consumer has started ends run_forever
                logger.exception("a task on the event loop raised; the loop goes on")
        loop.close()

    def submit(self, delivery: Delivery, on_end: OnEnd) -> None:
        self.loop.call_soon_threadsafe(self._start, delivery, on_end)

    def _start(self, delivery: Delivery, on_end: OnEnd) -> None:
        task = asyncio.get_running_loop().create_task(run_on_loop(delivery))
        self._tasks.add(task)  # the loop itself keeps only a weak reference

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            delivery.cut_off(asyncio.CancelledError())  # where it was cancelled before its first step
            on_end(delivery)

        task.add_done_callback(over)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            with suppress(RuntimeError):  # its thread has seen that it is over, and closed it
                loop.call_soon_threadsafe(loop.stop)


class Threads:
    """A fixed number of daemon threads: one that hangs must not keep the process from ending."""

    def __init__(self, size: int, layer: DurableLayer) -> None:
        self.size = size
        self._layer = layer
        self._queue: SimpleQueue[tuple[Delivery, OnEnd] | None] = SimpleQueue()
        self._started = 0
        self._busy = 0  # only the worker's own thread counts

    @property
    def free(self) -> int:
        return max(0, self.size - self._busy)

    def submit(self, delivery: Delivery, on_end: OnEnd) -> None:
        self._busy += 1
        if self._started < min(self._busy, self.size):
            self._start_one()
        self._queue.put((delivery, on_end))

    def freed(self) -> None:
        """A delivery is over; told by the worker's own thread."""
        self._busy -= 1

    def replace_one(self) -> None:
        """A thread hangs in a consumer past its time limit: another one takes its place."""
        self._start_one()

    def _start_one(self) -> None:
        self._started += 1
        threading.Thread(target=self._run, name=f"mailrail-{self._started}", daemon=True).start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            delivery, on_end = item
            tidy_before()
            run_in_thread(delivery, self._layer)
            tidy_after()
            on_end(delivery)
        close_connections()

    def close(self) -> None:
        for _ in range(self._started):
            self._queue.put(None)
