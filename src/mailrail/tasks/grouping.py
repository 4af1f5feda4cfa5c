"""Write for many threads and coroutines at once: one statement, and one commit, for all that ask in the meantime.

Nobody waits for company. Whoever comes first writes alone; all who come while that is written form the next group.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from mailrail.transient import is_transient

from .aside import write_aside

MAX_GROUP_SIZE = 200
"""Items that one statement writes at most."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Request(Generic[Item, Answer]):
    """One item on its way to the database."""

    __slots__ = ("answer", "error", "is_done", "item", "leads")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.leads = False  # its thread writes the next group
        self.is_done = threading.Event()  # its answer is there, or it leads

    def result(self) -> Answer:
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]  # set before `is_done`


@dataclass(slots=True)
class _LoopQueue(Generic[Item, Answer]):
    """What waits on one event loop, and the task that writes it."""

    waiting: list[tuple[Item, asyncio.Future[Answer]]]
    writer: asyncio.Task[None] | None = None


class GroupedWrites(Generic[Item, Answer]):
    """Write items together. ``write``: takes some, and returns an answer for each, in order."""

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Answer]]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Request[Item, Answer]] = []
        self._is_led = False
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopQueue[Item, Answer]] = (
            WeakKeyDictionary()
        )

    def __call__(self, item: Item) -> Answer:
        """Write an item, and return its answer. Raises what ``write`` raises for it."""
        request: _Request[Item, Answer] = _Request(item)
        with self._lock:
            self._waiting.append(request)
            request.leads, self._is_led = not self._is_led, True
        if not request.leads:
            request.is_done.wait()
        if request.leads:
            self._lead()
        return request.result()

    def _lead(self) -> None:
        """Write what waits, this thread's own item first, and hand over to the next thread."""
        with self._lock:
            group, self._waiting = self._waiting[:MAX_GROUP_SIZE], self._waiting[MAX_GROUP_SIZE:]
        try:
            self._answer(group)
        finally:
            with self._lock:
                self._is_led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].is_done.set()
            for request in group:
                request.is_done.set()

    def _answer(self, group: Sequence[_Request[Item, Answer]]) -> None:
        try:
            answers = self._write([request.item for request in group])
        except BaseException as error:
            if len(group) == 1 or is_transient(
                error
            ):  # in an outage each of them would wait for the database
                for request in group:
                    request.error = error
                return
            for request in group:  # one of them may be at fault, and must not cost the others their answer
                self._answer([request])
        else:
            for request, answer in zip(group, answers, strict=True):
                request.answer = answer

    async def acall(self, item: Item) -> Answer:
        """Write an item from a coroutine. Items of one event loop are written together, on one thread."""
        loop = asyncio.get_running_loop()
        queue = self._loops.setdefault(loop, _LoopQueue([]))
        answer: asyncio.Future[Answer] = loop.create_future()
        queue.waiting.append((item, answer))
        if queue.writer is None:  # in a task of its own: whoever asks may be cancelled
            queue.writer = loop.create_task(self._write_for(queue))
        return await answer

    async def _write_for(self, queue: _LoopQueue[Item, Answer]) -> None:
        """Write what waits on this loop until nothing does. Whoever waits gets an answer, whatever ends this task."""
        group: list[tuple[Item, asyncio.Future[Answer]]] = []
        try:
            while queue.waiting:
                group, queue.waiting = queue.waiting[:MAX_GROUP_SIZE], queue.waiting[MAX_GROUP_SIZE:]
                requests = [_Request[Item, Answer](item) for item, _ in group]
                await write_aside(self._answer, requests)
                for (_, answer), request in zip(group, requests, strict=True):
                    _pass_on(request, answer)
        finally:
            queue.writer = None
            left, queue.waiting = [*group, *queue.waiting], []
            for _, answer in left:
                answer.cancel()  # changes nothing where there is an answer


def _pass_on(request: _Request[Item, Answer], answer: asyncio.Future[Answer]) -> None:
    if answer.done():  # whoever asked was cancelled
        return
    if request.error is not None:
        answer.set_exception(request.error)
    else:
        answer.set_result(request.result())
