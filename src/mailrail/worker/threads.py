"""The threads on which sync consumers run."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from queue import SimpleQueue

from ..layers import DurableLayer
from .connections import close_connections, tidy_after, tidy_before
from .consume import ConsumerRun, run_in_thread
from .incoming import IncomingMessage
from .log import logger
from .pools import OnEnd

SHORT_RUN_S = 0.02
"""Seconds after which a run that was expected to be short keeps nothing waiting any longer."""
LEAST_LIMIT_S = 1.0
"""A run whose time limit is shorter than this is ended at once."""

Submitted = tuple[ConsumerRun, OnEnd]


class _Returned:
    """Runs whose consumers have returned on one thread, and which that thread is to end together."""

    __slots__ = ("_lock", "_runs", "since")

    def __init__(self) -> None:
        self.since = 0.0  # time.monotonic() when the first of them began
        self._runs: list[Submitted] = []
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, submitted: Submitted) -> None:
        with self._lock:
            if not self._runs:
                self.since = submitted[0].started_at or time.monotonic()
            self._runs.append(submitted)

    def take(self) -> list[Submitted]:
        with self._lock:
            taken, self._runs = self._runs, []
        return taken


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
        self._starting = threading.Lock()
        self._returned: list[_Returned] = []  # of each thread

    def submit(self, run: ConsumerRun, on_end: OnEnd) -> None:
        if self._started < min(self.busy, self.size):
            with self._starting:
                if self._started < self.size:
                    self._start_one()
        if not self._started:
            raise RuntimeError("The system starts no thread.")
        self._waiting.append((run, on_end))
        self._wake()

    def look(self) -> None:
        """Let other threads go on with what waits behind a run that was expected to be short."""
        before = time.monotonic() - SHORT_RUN_S
        for returned in self._returned:
            if returned and returned.since <= before and (runs := returned.take()):
                # All threads of the pool may be busy, and the runs are over but for this.
                try:
                    threading.Thread(target=self._end_aside, args=(runs,), daemon=True).start()
                except RuntimeError:
                    for submitted in runs:
                        returned.add(submitted)
        if self._waiting:
            self._wake()

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
            while (submitted := self._next(returned)) or returned:
                if submitted is None:
                    _end_together(returned.take())
                else:
                    self._run_one(*submitted, returned)
        close_connections()

    def _next(self, returned: _Returned) -> Submitted | None:
        """Take the next run; none if this thread has something to end first, as the next may take its time."""
        try:
            submitted = self._waiting.popleft()
        except IndexError:  # or another thread was quicker
            return None
        if returned and not _is_short(submitted):
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

    def _end_aside(self, runs: Sequence[Submitted]) -> None:
        try:
            _end_together(runs)
        finally:
            close_connections()


def _is_short(submitted: Submitted) -> bool:
    message = submitted[0].message
    return message is not None and message.is_short


def next_check(runs: Collection[ConsumerRun]) -> float:
    """Return when (time.monotonic()) the first of these runs may be overdue, or longer than it was expected to be."""
    now = time.monotonic()
    short = [run for run in runs if run.message is not None and run.message.is_short]
    moments = [(run.started_at or now) + SHORT_RUN_S for run in short]
    return min(
        [*(each for each in moments if each > now), *(run.check_at for run in runs)], default=float("inf")
    )


def _end_together(runs: Sequence[Submitted]) -> None:
    """End runs whose consumers have returned: those that are ended alike, together. Raises nothing."""
    by_kind: dict[type, dict[IncomingMessage, Submitted]] = {}
    for submitted in runs:
        message = submitted[0].message
        assert message is not None
        by_kind.setdefault(type(message.ending), {})[message] = submitted
    for by_message in by_kind.values():
        _end_alike(by_message)


def _end_alike(by_message: dict[IncomingMessage, Submitted]) -> None:
    endings = [message.ending for message in by_message]
    assert endings[0] is not None
    error: BaseException = RuntimeError("Its run was not ended.")
    try:
        tidy_before()
        for message, failure in endings[0].end_all(endings):
            run, on_end = by_message.pop(message)
            if failure is None:
                run.succeed()
            else:
                run.fail(failure)
            on_end(run)
        tidy_after()
    except BaseException as caught:
        logger.exception("the worker itself failed to end runs that had returned")
        error = caught
    for run, on_end in by_message.values():
        run.cut_off(error)
        on_end(run)
