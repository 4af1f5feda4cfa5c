"""The threads on which sync consumers run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from ..layers import DurableLayer
from .connections import close_connections, tidy_after, tidy_before
from .consume import ConsumerRun, run_in_thread
from .incoming import IncomingMessage, current_message, decide_all
from .log import logger
from .outcomes import FINISHED
from .pools import OnEnd

SHORT_RUN_S = 0.02
"""Seconds after which a run that was expected to be short keeps nothing waiting any longer."""
LEAST_LIMIT_S = 1.0
"""A run whose time limit is shorter than this is ended at once."""

Submitted = tuple[ConsumerRun, OnEnd]
Item = TypeVar("Item")


@dataclass(slots=True, eq=False)
class _Returned:
    """Runs whose consumers have returned on one thread, which is to end them. Another thread may take them over."""

    since: float = 0.0  # time.monotonic() from which on something waits here
    is_writing: bool = False  # for several runs at once
    runs: deque[Submitted] = field(default_factory=deque)
    ends: deque[tuple[Submitted, Callable[[], object]]] = field(default_factory=deque)  # each for itself

    def add(self, submitted: Submitted) -> None:
        if not self.runs:
            self.since = submitted[0].started_at or time.monotonic()
        self.runs.append(submitted)

    def hand_over(self, other: _Returned) -> None:
        other.since = time.monotonic()
        other.runs.extend(_popped(self.runs))
        other.ends.extend(_popped(self.ends))

    def end(self) -> None:
        """End the runs: those that are ended alike, together, and then each alone. Raises nothing."""
        self.is_writing = bool(self.runs)
        tidy_before()
        for runs in _alike(_popped(self.runs)):
            for end in _end_together(runs):
                if not self.ends:
                    self.since = time.monotonic()
                self.ends.append(end)
        self.is_writing = False
        for submitted, what_is_left in _popped(self.ends):
            _end_alone(*submitted, what_is_left)


class Threads:
    """A fixed number of daemon threads: one that hangs must not keep the process from ending.

    To wake a thread costs more than a short consumer does. So they wake one another: each that takes a run wakes
    one more if another waits. Where consumers end at once, the first thread has run them all before the second is up.

    Runs that are expected to be short (``IncomingMessage.is_short``) follow one another on the thread that has taken
    the first of them. They are ended together where their consumers leave that to it (``ending``). If one of them
    takes longer than expected, ``look`` lets other threads go on.
    """

    def __init__(self, size: int, layer: DurableLayer) -> None:
        self.size = size
        self._layer = layer
        self._waiting: deque[Submitted] = deque()
        self._wakes: SimpleQueue[bool] = SimpleQueue()  # False: end
        self._is_waking = False  # a wake is on its way to a thread
        self._started = 0
        self.busy = 0
        """Runs that are submitted and not over. ``Capacity`` counts them, with its lock."""
        self._moved_at = 0.0  # time.monotonic() when what waits has last become less, or begun to wait
        self._starting = threading.Lock()
        self._returned: list[_Returned] = []  # of each thread

    def submit(self, run: ConsumerRun, on_end: OnEnd) -> None:
        if self._started < min(self.busy, self.size):
            with self._starting:
                if self._started < self.size:
                    self._start_one()
        if not self._started:
            raise RuntimeError("The system starts no thread.")
        if not self._waiting:
            self._moved_at = time.monotonic()
        self._waiting.append((run, on_end))
        self._wake()

    def look(self) -> None:
        """Let other threads go on with what waits behind a run, or an end, that was expected to be short."""
        before = time.monotonic() - SHORT_RUN_S
        for returned in tuple(self._returned):
            if (returned.runs or returned.ends) and returned.since <= before:
                # All threads of the pool may be busy, and the runs are over but for this.
                with suppress(RuntimeError):  # no thread just now: the next look tries again
                    threading.Thread(target=self._end_aside, args=(returned,), daemon=True).start()
        if self._waiting:
            self._wake()
        if self._moved_at <= before:  # whoever is woken may be held up as well
            for _ in range(len(self._waiting) - self._wakes.qsize()):
                self._wakes.put(True)

    def next_look(self, runs: Collection[ConsumerRun]) -> float:
        """Return when (time.monotonic()) a look is due, at these runs, or at what waits behind one of them."""
        now = time.monotonic()
        short = [run for run in runs if run.message is not None and run.message.is_short]
        moments = [(run.started_at or now) + SHORT_RUN_S for run in short]
        if short and any(r.runs or r.ends or r.is_writing for r in tuple(self._returned)):
            moments.append(now + SHORT_RUN_S)
        later = [each for each in moments if each > now]
        # Nobody tells when a run begins whose limit is known.
        limits = [
            run.overdue_at if run.started_at is not None or run.limit is None else now + run.limit
            for run in runs
        ]
        return min([*later, *limits], default=float("inf"))

    def replace_one(self) -> None:
        """A thread hangs in a consumer past its time limit: another one takes its place."""
        with self._starting:
            self._start_one()

    def close(self) -> None:
        for _ in range(self._started):
            self._wakes.put(False)

    def _wake(self) -> None:
        if not self._is_waking:
            self._is_waking = True
            self._wakes.put(True)

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
        returned = _Returned()
        self._returned.append(returned)
        while self._wakes.get():
            # Before the look at `_waiting`: whoever adds to it after that look has to wake somebody else.
            self._is_waking = False
            while (submitted := self._next(returned)) or returned.runs or returned.ends:
                if submitted is None:
                    returned.end()
                else:
                    self._run_one(*submitted, returned)
        close_connections()

    def _next(self, returned: _Returned) -> Submitted | None:
        """Take the next run; none if this thread has something to end first, as the next may take its time."""
        if returned.runs and returned.since < time.monotonic() - SHORT_RUN_S / 2:  # long enough
            if self._waiting:
                self._wake()
            return None
        try:
            submitted = self._waiting.popleft()
        except IndexError:  # or another thread was quicker
            return None
        self._moved_at = time.monotonic()
        if (returned.runs or returned.ends) and not _is_short(submitted):
            self._waiting.appendleft(submitted)
            self._wake()
            return None
        try:
            is_next_short = _is_short(self._waiting[0])
        except IndexError:
            return submitted
        if not (is_next_short and _is_short(submitted)):
            self._wake()
        return submitted

    def _run_one(self, run: ConsumerRun, on_end: OnEnd, returned: _Returned) -> None:
        if (message := run.message) is not None:
            message.may_end_later = message.is_short and (run.limit is None or run.limit >= LEAST_LIMIT_S)
        try:
            tidy_before()
            run_in_thread(run, self._layer)
            tidy_after()
        except BaseException as error:  # neither thread nor run may be lost if one ever raises
            logger.exception("%s: the worker itself failed", run.route.name)
            run.cut_off(error)
        if message is not None and message.ending is not None and message.outcome is None:
            returned.add((run, on_end))
        else:
            on_end(run)

    def _end_aside(self, stuck: _Returned) -> None:
        returned = _Returned()
        self._returned.append(returned)
        try:
            stuck.hand_over(returned)
            returned.end()
        finally:
            self._returned.remove(returned)
            close_connections()


def _is_short(submitted: Submitted) -> bool:
    message = submitted[0].message
    return message is not None and message.is_short


def _popped(items: deque[Item]) -> Iterator[Item]:
    """Take items off, one by one, while other threads may do so."""
    while True:
        try:
            item = items.popleft()
        except IndexError:
            return
        yield item


def _alike(runs: Iterable[Submitted]) -> Iterable[dict[IncomingMessage, Submitted]]:
    """Return by their messages the runs that one class of endings ends."""
    by_kind: dict[type, dict[IncomingMessage, Submitted]] = {}
    for submitted in runs:
        message = submitted[0].message
        assert message is not None
        by_kind.setdefault(type(message.ending), {})[message] = submitted
    return by_kind.values()


def _end_together(
    by_message: dict[IncomingMessage, Submitted],
) -> Iterator[tuple[Submitted, Callable[[], object]]]:
    """Yield what is left for each of these runs alone, once that is so. Raises nothing."""
    endings = [message.ending for message in by_message]
    assert endings[0] is not None
    error: BaseException = RuntimeError("Its run was not ended.")
    try:
        for message, what_is_left in endings[0].end_all(endings):
            yield by_message.pop(message), what_is_left
    except BaseException as caught:
        logger.exception("the worker itself failed to end runs that had returned")
        error = caught
    for submitted in by_message.values():
        yield submitted, partial(submitted[0].cut_off, error)


def _end_alone(run: ConsumerRun, on_end: OnEnd, what_is_left: Callable[[], object]) -> None:
    before = current_message.set(run.message)
    try:
        what_is_left()
        decide_all(run.messages, FINISHED)
    except BaseException as error:
        run.fail(error)
    finally:
        current_message.reset(before)
    tidy_after()  # a receiver's transaction is not to hold what the next one writes
    on_end(run)
