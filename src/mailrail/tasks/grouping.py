"""Write for many threads and coroutines at once: one statement, and one commit, for all that ask in the meantime.

Whoever comes first writes; all who come while that is written form the next group. Short tasks that began together wait
for one another for a moment.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from mailrail.transient import is_lock_timeout, is_transient

from .aside import write_aside

MAX_GROUP_SIZE = 200
"""Threads, or coroutines, for which one statement writes at most."""
COMPANY_LASTS_S = 0.02
"""Seconds after their start in which the ends of attempts that began together wait for one another."""
MAX_WAIT_S = 0.005
"""Seconds that one of them waits at most."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class _Request(Generic[Item, Answer]):
    """One item on its way to the database."""

    __slots__ = ("answer", "error", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | None = None
        self.error: BaseException | None = None

    def result(self) -> Answer:
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[return-value]  # set before `is_done`


class _Caller(Generic[Item, Answer]):
    """A thread that has its items written."""

    __slots__ = ("is_done", "leads", "requests")

    def __init__(self, items: Iterable[Item]) -> None:
        self.requests = [_Request[Item, Answer](item) for item in items]
        self.leads = False  # it writes the next group
        self.is_done = threading.Event()  # its answers are there, or it leads


@dataclass(slots=True)
class _LoopQueue(Generic[Item, Answer]):
    """What waits on one event loop, and the task that writes it."""

    waiting: list[tuple[Item, asyncio.Future[Answer]]]
    writer: asyncio.Task[None] | None = None


class Company:
    """Attempts that have begun together, and whose ends are written together if they come soon."""

    __slots__ = ("_are_here", "_ends_at", "_left", "_lock")

    def __init__(self, size: int) -> None:
        self._left = size
        self._ends_at = time.monotonic() + COMPANY_LASTS_S
        self._lock = threading.Lock()
        self._are_here = threading.Event()

    def arrive(self) -> None:
        """Count one that asks for its write."""
        with self._lock:
            self._left -= 1
        if self._left <= 0:
            self._are_here.set()

    def wait(self) -> None:
        """Wait for the others for a moment, unless they have been running for longer than short tasks do."""
        patience = min(MAX_WAIT_S, self._ends_at - time.monotonic())
        if patience > 0:
            self._are_here.wait(patience)


class GroupedWrites(Generic[Item, Answer]):
    """Write items together. ``write``: takes some, and returns an answer for each, in order."""

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Answer]]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Caller[Item, Answer]] = []
        self._is_led = False
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopQueue[Item, Answer]] = (
            WeakKeyDictionary()
        )

    def __call__(self, item: Item, company: Company | None = None) -> Answer:
        """Write an item, and return its answer. Raises what ``write`` raises for it."""
        if company is not None:
            company.arrive()
        [request] = self._written([item], [company])
        return request.result()

    def write_all(
        self, items: Sequence[Item], companies: Iterable[Company | None]
    ) -> list[Answer | BaseException]:
        """Write several items. Returns for each its answer, or what ``write`` raises for it.

        ``companies``: of the items, which have arrived there.
        """
        requests = self._written(items, companies)
        return [request.result() if request.error is None else request.error for request in requests]

    def _written(
        self, items: Sequence[Item], companies: Iterable[Company | None]
    ) -> Sequence[_Request[Item, Answer]]:
        caller: _Caller[Item, Answer] = _Caller(items)
        with self._lock:
            self._waiting.append(caller)
            caller.leads, self._is_led = not self._is_led, True
        if not caller.leads:
            caller.is_done.wait()
        if caller.leads:
            for company in companies:
                if company is not None:
                    company.wait()
            self._lead()
        return caller.requests

    def _lead(self) -> None:
        """Write what waits, this thread's own items first, and hand over to the next thread."""
        with self._lock:
            callers, self._waiting = self._waiting[:MAX_GROUP_SIZE], self._waiting[MAX_GROUP_SIZE:]
        try:
            self._answer([request for caller in callers for request in caller.requests])
        finally:
            with self._lock:
                self._is_led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].is_done.set()
            for caller in callers:
                caller.is_done.set()

    def _answer(self, group: Sequence[_Request[Item, Answer]]) -> None:
        try:
            answers = self._write([request.item for request in group])
        except BaseException as error:
            # In an outage each of them would wait for the database. A lock is one item's matter.
            if len(group) == 1 or (is_transient(error) and not is_lock_timeout(error)):
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
