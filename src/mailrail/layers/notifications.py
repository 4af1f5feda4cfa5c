"""Sleeping until a server tells of something, on layers whose server can.

A notification only saves time: a worker looks for itself at least once a second, so nothing is lost with one.
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
FIRST_POLL_INTERVAL_S, LONGEST_POLL_INTERVAL_S = 0.02, 1.0
"""Seconds between two polls of a worker without notifications: the first, and the longest."""


class NotificationListener(ABC):
    """Call ``on_notification`` for each notification of an awaited channel.

    ``on_change`` is called when listening begins or ends. From the first ``listen`` on, the listener has a thread and a
    connection of its own.
    """

    def __init__(self, on_notification: Callable[[], None], on_change: Callable[[], None]) -> None:
        self._on_notification = on_notification
        self._on_change = on_change
        self._awaited: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake_fd: int | None = None  # closing it ends the thread, writing to it makes the thread look
        self._pid = 0
        self._is_in_vain = False  # there will be no notifications: not tried again
        self.is_live = False
        """Do notifications arrive? Otherwise look often."""

    @abstractmethod
    def _listen(self, wake_reader: int) -> bool:
        """Connect and listen. Return True once ``wake_reader`` was closed; raise when the connection breaks."""

    def listen(self, channels: Iterable[str]) -> bool:
        """Listen for these channels from now on. Returns at once: whether notifications arrive already."""
        self._awaited = frozenset(channels)
        if (self._thread is None or self._pid != os.getpid()) and not self._is_in_vain:
            self._start()
        return self.is_live

    def close(self) -> None:
        """End the thread and its connection."""
        with self._lock:
            thread, wake_fd, self._thread, self._wake_fd = self._thread, self._wake_fd, None, None
        if thread is not None and wake_fd is not None and self._pid == os.getpid():
            os.close(wake_fd)
            thread.join(timeout=5)

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None and self._pid == os.getpid():
                return
            wake_reader, self._wake_fd = os.pipe()
            self._pid = os.getpid()
            self.is_live = False
            self._thread = threading.Thread(
                target=self._run, args=(wake_reader,), name="mailrail-listener", daemon=True
            )
            self._thread.start()

    def _run(self, wake_reader: int) -> None:
        backoff = FIRST_BACKOFF
        told = False
        try:
            while not self._is_in_vain:
                begun = time.monotonic()
                try:
                    if self._listen(wake_reader):
                        return
                except Exception as error:  # whatever it is, polling goes on
                    if not told:
                        logger.warning(
                            "no notifications of new messages just now, polling instead: %s", error
                        )
                    told = True
                finally:
                    self.is_live = False
                    self._on_change()
                if time.monotonic() - begun > LONGEST_BACKOFF:
                    backoff, told = FIRST_BACKOFF, False
                if _is_woken(wake_reader, backoff):
                    return
                backoff = min(LONGEST_BACKOFF, backoff * 2)
        finally:
            os.close(wake_reader)


class NotifiedLayer(DurableLayer):
    """A layer that sleeps until a ``NotificationListener`` hears something."""

    _listener: NotificationListener
    _poll_every = FIRST_POLL_INTERVAL_S
    _fruitless = 0  # claims in a row that got nothing

    def wait(self, channels: Sequence[str], timeout: float, seen: int | None = None) -> None:
        seen = self._wakes if seen is None else seen
        deadline = time.monotonic() + timeout
        while self._wakes == seen:
            # In this order: a notification between the two counts as one wake more than `seen`.
            listening = self._listener.listen(channels) if channels else self._listener.is_live
            soon = self._due_at(channels) - time.monotonic()
            if soon <= 0:
                self._poll_every = FIRST_POLL_INTERVAL_S
                soon = self._hesitation()
            left = min(deadline - time.monotonic(), soon)
            looks = self._poll_every * random.uniform(0.75, 1.25) if channels and not listening else left
            if min(left, looks) > 0:
                self._sleep(min(left, looks), seen, listening)
            if time.monotonic() >= deadline or looks >= left == soon:
                return
            self._poll_every = min(LONGEST_POLL_INTERVAL_S, self._poll_every * 1.5)

    def _sleep(self, seconds: float, seen: int, listening: bool) -> None:
        with self._waking:
            self._waking.wait_for(lambda: self._wakes != seen or self._listener.is_live != listening, seconds)

    def _wake_up(self) -> None:
        """Make ``wait`` look again: listening has begun or ended, which changes how long it sleeps."""
        with self._waking:
            self._waking.notify_all()

    def _hesitation(self) -> float:
        """Seconds to wait before a claim of what is due although the last claims did not get it.

        Others claim it just now, or something holds it for a while.
        """
        return 0.0 if self._fruitless < 2 else min(0.05, 0.001 * 2 ** min(self._fruitless, 10))

    def stop_listening(self) -> None:
        self._listener.close()


def _is_woken(wake_reader: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(wake_reader, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
