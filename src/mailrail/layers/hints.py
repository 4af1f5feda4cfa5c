"""Sleeping until a server tells of something, on layers whose server can.

A hint and no more: a worker looks for itself at least once a second, so nothing is lost with a hint.
"""

from __future__ import annotations

import os
import random
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

from ..log import logger_of
from .base import DurableLayer

logger = logger_of("mailrail.layers")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0
LOOK_FIRST, LOOK_SELDOM = 0.02, 1.0
"""Seconds between two looks of a worker that gets no hints: the first ones, and when nothing comes."""


class HintListener(ABC):
    """Calls ``heard`` after a hint for an awaited channel, ``changed`` when listening begins or ends.

    It lives on a thread and a connection of its own, from the first ``listen`` on.
    """

    def __init__(self, heard: Callable[[], None], changed: Callable[[], None]) -> None:
        self._heard = heard
        self._changed = changed
        self._awaited: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bell: int | None = None  # written to, it ends the thread
        self._pid = 0
        self._is_in_vain = False  # there will be no hints: not tried again
        self.is_live = False
        """Do hints arrive? Otherwise look often."""

    @abstractmethod
    def _listen(self, ring: int) -> bool:
        """Connect, and hear until the bell rings (then True) or the connection breaks (then raise)."""

    def listen(self, channels: Iterable[str]) -> bool:
        """From now on hear of these channels. Returns at once: whether hints arrive already."""
        self._awaited = frozenset(channels)
        if (self._thread is None or self._pid != os.getpid()) and not self._is_in_vain:
            self._start()
        return self.is_live

    def close(self) -> None:
        """End the thread and its connection."""
        with self._lock:
            thread, bell, self._thread, self._bell = self._thread, self._bell, None, None
        if thread is not None and bell is not None and self._pid == os.getpid():
            os.close(bell)
            thread.join(timeout=5)

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None and self._pid == os.getpid():
                return
            ring, self._bell = os.pipe()
            self._pid = os.getpid()
            self.is_live = False
            self._thread = threading.Thread(
                target=self._run, args=(ring,), name="mailrail-listener", daemon=True
            )
            self._thread.start()

    def _run(self, ring: int) -> None:
        backoff = FIRST_BACKOFF
        told = False
        try:
            while not self._is_in_vain:
                begun = time.monotonic()
                try:
                    if self._listen(ring):
                        return
                except Exception as error:  # whatever it is, polling goes on
                    if not told:
                        logger.warning("no hints of new messages just now, looking often instead: %s", error)
                    told = True
                finally:
                    self.is_live = False
                    self._changed()
                if time.monotonic() - begun > LONGEST_BACKOFF:
                    backoff, told = FIRST_BACKOFF, False
                if _rings(ring, backoff):
                    return
                backoff = min(LONGEST_BACKOFF, backoff * 2)
        finally:
            os.close(ring)


class HintedLayer(DurableLayer):
    """A layer that sleeps until a ``HintListener`` hears something."""

    _listener: HintListener
    _look_every = LOOK_FIRST
    _fruitless = 0  # claims in a row that got nothing

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        seen = self._wakes if seen is None else seen
        deadline = time.monotonic() + timeout
        while self._wakes == seen:
            # In this order: a hint between the two counts as one wake more than `seen`.
            listening = self._listener.listen(channels) if channels else self._listener.is_live
            soon = self._due_at(channels) - time.monotonic()
            if soon <= 0:
                self._look_every = LOOK_FIRST
                soon = self._hesitation()
            left = min(deadline - time.monotonic(), soon)
            looks = self._look_every * random.uniform(0.75, 1.25) if channels and not listening else left
            if min(left, looks) > 0:
                self._sleep(min(left, looks), seen, listening)
            if time.monotonic() >= deadline or looks >= left == soon:
                return
            self._look_every = min(LOOK_SELDOM, self._look_every * 1.5)

    def _sleep(self, seconds: float, seen: int, listening: bool) -> None:
        with self._waking:
            self._waking.wait_for(lambda: self._wakes != seen or self._listener.is_live != listening, seconds)

    def _stir(self) -> None:
        """Listening has begun, or ended: look again, and sleep accordingly."""
        with self._waking:
            self._waking.notify_all()

    def _hesitation(self) -> float:
        """Seconds to wait before a claim of what is due although the last claims did not get it.

        Others claim it just now, or something holds it for a while.
        """
        return 0.0 if self._fruitless < 2 else min(0.05, 0.001 * 2 ** min(self._fruitless, 10))

    def stop_listening(self) -> None:
        self._listener.close()


def _rings(ring: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
