"""Start a task no more often than its rate allows, over all workers.

An attempt needs a token of a bucket on the layer, which all workers share. A task that gets none is released, as if it
had not been claimed, until its place in a line of this process. The places are as far apart as tokens are. So tasks
over a rate neither run in circles nor hold up others of their queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha256

from mailrail import Channel
from mailrail.backoff import chance
from mailrail.routing import Rate
from mailrail.transient import is_transient
from mailrail.worker import IncomingMessage

from .aside import write_aside
from .grouping import GroupedWrites

MAX_WAIT_S = 3600.0
"""Seconds ahead for which a task gets a place. Those beyond come again before then, so that changes of a rate hold."""
MIN_GRID_S, MAX_GRID_S = 0.1, 1.0
"""Seconds to which places are rounded up: neighbours are released, and due, together."""
RETRY_SOON_S = 5.0
"""Seconds until a task is due again whose bucket could not be asked."""
MAX_BUCKET_LENGTH = 255
SecondsLeft = Callable[[IncomingMessage], float]


def rate_of(task: str, rate: str) -> str:
    """Return what messages say of a rate: the dotted path of the task, and the rate. Each pair is one bucket."""
    return f"{task}:{rate}"


class TaskRate:
    """One rate of one task, as this process knows it. ``name``: as ``rate_of`` returns it."""

    def __init__(self, channel: str, name: str) -> None:
        self._layer, self._rate = Channel(channel).layer, Rate.parse(name.rpartition(":")[2])
        bucket = f"task:{name}"
        self._bucket = (
            bucket if len(bucket) <= MAX_BUCKET_LENGTH else f"task:{sha256(name.encode()).hexdigest()}"
        )
        self._spacing = self._rate.seconds / self._rate.count
        self._grid = min(max(self._rate.seconds, MIN_GRID_S), MAX_GRID_S)
        self._tokens = GroupedWrites(self._take)
        self._lock = threading.Lock()
        self._closed_until = self._line_end = float("-inf")  # time.monotonic()

    def admit(self) -> float:
        """Take a token, and return 0; or return the seconds until there is one for this task."""
        return self._answer(self._is_open and self._tokens(1))

    async def aadmit(self) -> float:
        """Take a token for a coroutine, as ``admit`` does."""
        return self._answer(self._is_open and await self._tokens.acall(1))

    def give_back(self) -> None:
        """Give a token back that was not needed."""
        self._layer.take(self._bucket, -1, self._rate)

    @property
    def _is_open(self) -> bool:
        return time.monotonic() >= self._closed_until

    def _take(self, asked: Sequence[int]) -> list[bool]:
        granted, retry_after = self._layer.take(self._bucket, len(asked), self._rate)
        if granted < len(asked):
            self._closed_until = time.monotonic() + retry_after
        return [place < granted for place in range(len(asked))]

    def _answer(self, is_granted: bool) -> float:
        return 0.0 if is_granted else self._reserve()

    def _reserve(self) -> float:
        """Return the seconds, more than 0, until the next place in the line of this process."""
        with self._lock:
            now = time.monotonic()
            place = max(now, self._closed_until, self._line_end + self._spacing)
            if place > now + MAX_WAIT_S:
                wait = chance.uniform(MAX_WAIT_S / 2, MAX_WAIT_S)
            else:
                self._line_end, wait = place, place - now
        return max(math.ceil(wait / self._grid), 1) * self._grid  # 0 would mean a token


@lru_cache(maxsize=1000)
def known_rate(channel: str, name: str) -> TaskRate:
    """Return the one rate of this name and of this channel's layer. Raises ``ValueError`` for what is no rate."""
    return TaskRate(channel, name)


def forget() -> None:
    """Forget what this process knows of rates. For tests that move time."""
    known_rate.cache_clear()


# -- messages ----------------------------------------------------------------------------------------------------------


def may_start(message: IncomingMessage, seconds_left: SecondsLeft) -> bool:
    """Tell whether the task of a message may start now; otherwise the message is released until its place.

    ``seconds_left``: returns those in which the task may start at all.
    """
    try:
        wait = _of(message).admit()
    except Exception as error:
        _release(message, error)
        return False
    if wait > 0:
        _wait(message, wait, seconds_left)
    return wait <= 0


async def amay_start(message: IncomingMessage, seconds_left: SecondsLeft) -> bool:
    """Tell whether the coroutine of a message may start now, as ``may_start`` does."""
    try:
        wait = await _of(message).aadmit()
    except Exception as error:
        _release(message, error)
        return False
    if wait > 0:
        await write_aside(_wait, message, wait, seconds_left)
    return wait <= 0


def give_back(message: IncomingMessage) -> None:
    """Give the token back of a message whose task is not to run after all."""
    if "rate" in message.content:
        _of(message).give_back()


def _of(message: IncomingMessage) -> TaskRate:
    return known_rate(message.channel, message.content["rate"])


def _wait(message: IncomingMessage, wait: float, seconds_left: SecondsLeft) -> None:
    """Release a message until its place, or until its task expires. One that has expired is done."""
    try:
        left = seconds_left(message)
    except Exception as error:
        _release(message, error)
        return
    if left > 0:
        text = f"its task has used up its rate, {message.content['rate']}"
        message.release(min(wait, left), text, is_logged=True)


def _release(message: IncomingMessage, error: Exception) -> None:
    if not is_transient(error):
        raise error
    message.release(RETRY_SOON_S, f"the rate of its task cannot be asked just now: {error}")
