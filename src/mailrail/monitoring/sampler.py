"""Share samples among all who ask in this process: at most one a second, and none while nobody asks.

One thread asks at a time. Others get the last sample, if it is at most a few seconds old; else a sample that says so.
Where samples take long, as with a thousand channels, a thread takes the next one while whoever asks gets the last one.
Nothing runs while nobody asks, so that a process that forks loses nothing but the last sample.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from django.core.signals import setting_changed
from django.db import connections
from django.dispatch import receiver

from ..health import Problem, Readiness
from ..layers import default_alias
from .rates import Depths
from .sample import Sample, most_counted, sample

FRESH_S = 1.0
"""Seconds for which a sample is given to all who ask."""
STALE_AFTER_S = 5.0
"""Seconds after which a sample says that it is old; until then those who come while another asks get it."""
ANSWER_TIMEOUT_S = 2.0
"""Seconds that others wait for the thread that asks, where there is no such sample."""
SLOW_S = 0.04
"""Seconds for which whoever asks waits for a sample. If the last one took longer, the next one is taken aside."""
THREAD_IDLE_S = 10.0
"""Seconds after which the thread that asks aside closes its connections and ends."""


class Sampler:
    """Take the samples of one layer."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._asking = threading.Lock()
        self._began_at = 0.0  # monotonic, as is the next
        self._last_at = float("-inf")
        self._took = 0.0  # seconds, the last one
        self._last: Sample | None = None
        self._depths = Depths()
        self._first_seen: dict[tuple[str, str], float] = {}
        self._thread = _SamplingThread(self)

    def latest(self) -> Sample:
        """Return a sample of the last second. If there is none yet, this thread takes it, unless that takes long.

        See ``latest`` below.
        """
        if (fresh := self.fresh()) is not None:
            return fresh
        if self._last is not None and self._is_slow():
            self._thread.asked()
            return self._last
        return self.taken()

    def taken(self) -> Sample:
        """Return a sample of the last second, taken by this thread if there is none yet."""
        if (fresh := self.fresh()) is not None:
            return fresh
        if not self._asking.acquire(timeout=self.patience()):
            return self.last_or_silence()
        try:
            return self.fresh() or self._take()
        finally:
            self._asking.release()

    def fresh(self) -> Sample | None:
        """Return the sample of the last second, if there is one."""
        return self._last if time.monotonic() - self._last_at < FRESH_S else None

    def patience(self) -> float:
        """Return the seconds to wait for the thread that asks: none where the last sample will do."""
        now = time.monotonic()
        if now - self._last_at < STALE_AFTER_S:
            return 0.0
        return max(0.0, self._began_at + ANSWER_TIMEOUT_S - now)

    def last_or_silence(self) -> Sample:
        """Return the last sample. If that is old, or there is none, its health says that the layer does not answer."""
        if self._last is not None and time.monotonic() - self._last_at < STALE_AFTER_S:
            return self._last
        reason = f"the layer {self._alias!r} does not answer"
        began = time.time() - (time.monotonic() - self._began_at if self._began_at else 0.0)
        health = Readiness((Problem(reason, reason, began, "layer", self._alias),))
        return replace(self._last, health=health) if self._last else Sample(began, self._alias, health)

    def latest_aside(self) -> Sample:
        """Return a sample as ``latest`` does, taken by the thread aside, so that this one never waits long."""
        if (fresh := self.fresh()) is not None:
            return fresh
        pending, seconds = self._asked()
        done, _ = wait([pending], timeout=seconds)
        return done.pop().result() if done else self.last_or_silence()

    async def alatest(self) -> Sample:
        """Return a sample as ``latest`` does, taken by the thread aside."""
        if (fresh := self.fresh()) is not None:
            return fresh
        pending, seconds = self._asked()
        done, _ = await asyncio.wait([asyncio.wrap_future(pending)], timeout=seconds)
        return done.pop().result() if done else self.last_or_silence()

    def _asked(self) -> tuple[Future[Sample], float]:
        """Return the sample that the thread takes, and the seconds to wait for it: none where the last one will do."""
        pending, is_first = self._thread.asked()
        will_do = not is_first and time.monotonic() - self._last_at < STALE_AFTER_S
        return pending, 0.0 if will_do or self._is_slow() else ANSWER_TIMEOUT_S

    def _is_slow(self) -> bool:
        """Tell whether to give the last sample while the next one is taken."""
        return self._took > SLOW_S and time.monotonic() - self._last_at < STALE_AFTER_S

    def close(self) -> None:
        """Let the thread aside end, as soon as it asks nothing."""
        self._thread.close()

    def _take(self) -> Sample:
        self._began_at = time.monotonic()
        taken = sample(self._alias, most_counted(len(self._last.channels) if self._last else 0), self._depths)
        self._last = replace(taken, health=self._dated(taken.health, taken.at))
        self._last_at = time.monotonic()
        self._took = self._last_at - self._began_at
        return self._last

    def _dated(self, health: Readiness, now: float) -> Readiness:
        """Give each problem that does not know since when it lasts the moment when it was first seen here."""
        keys = {(problem.kind, problem.name or problem.reason) for problem in health.problems}
        self._first_seen = {key: self._first_seen.get(key, now) for key in keys}
        problems = tuple(
            problem
            if problem.since is not None
            else replace(problem, since=self._first_seen[problem.kind, problem.name or problem.reason])
            for problem in health.problems
        )
        return replace(health, problems=problems)


class _SamplingThread:
    """Take samples aside, so that no event loop waits for a database. The thread lives while somebody asks."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._changing = threading.Lock()
        self._questions: SimpleQueue[Future[Sample] | None] = SimpleQueue()
        self._pending: Future[Sample] | None = None
        self._is_running = False

    def asked(self) -> tuple[Future[Sample], bool]:
        """Return the sample that the thread takes for all who ask, and whether this call is the first to ask."""
        with self._changing:
            if self._pending is not None and not self._pending.done():
                return self._pending, False
            self._pending = Future()
            self._questions.put(self._pending)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="mailrail-sampler", daemon=True).start()
            return self._pending, True

    def close(self) -> None:
        """End the thread, as if nobody had asked for long."""
        self._questions.put(None)

    def _run(self) -> None:
        try:
            while (question := self._next()) is not None:
                try:
                    question.set_result(self._sampler.taken())
                except BaseException as error:
                    question.set_exception(error)
                close_failed_connections()
        finally:
            connections.close_all()

    def _next(self) -> Future[Sample] | None:
        with suppress(Empty):
            if (question := self._questions.get(timeout=THREAD_IDLE_S)) is not None:
                return question
        with self._changing:
            if self._questions.empty():
                self._is_running = False
                return None
        return self._questions.get()


def close_failed_connections() -> None:
    """Close this thread's connections on which something failed, as requests do when they begin and end."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred and not connection.in_atomic_block:
            connection.close()


_samplers: dict[str, Sampler] = {}


def latest(alias: str | None = None) -> Sample:
    """Return a sample that is at most a second old, or what others are told while one thread asks.

    It asks on the connections of this thread, unless samples take long. In a transaction on PostgreSQL, a question that
    fails spoils the transaction; so views that show samples have none. From coroutines use ``alatest``.
    """
    return _sampler_of(alias).latest()


def latest_aside(alias: str | None = None) -> Sample:
    """Return a sample as ``latest`` does, but within some seconds: another thread asks."""
    return _sampler_of(alias).latest_aside()


async def alatest(alias: str | None = None) -> Sample:
    """Return a sample as ``latest`` does; another thread asks, on connections of its own."""
    return await _sampler_of(alias).alatest()


def forget() -> None:
    """Forget all samples."""
    samplers = [*_samplers.values()]
    _samplers.clear()
    for sampler in samplers:
        sampler.close()


def _sampler_of(alias: str | None) -> Sampler:
    alias = alias or default_alias()
    return _samplers.get(alias) or _samplers.setdefault(alias, Sampler(alias))


os.register_at_fork(after_in_child=_samplers.clear)  # threads and locks of the parent are not there


@receiver(setting_changed, dispatch_uid="mailrail.monitoring.sampler")
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("CHANNEL_LAYERS", "MAILRAIL", "DATABASES", "INSTALLED_APPS"):
        forget()
