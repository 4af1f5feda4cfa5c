"""Hearing what a server tells, on a thread of its own.

A notification only saves time: a worker looks for itself every few seconds, so nothing is lost with one.
"""

from __future__ import annotations

import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from ..backoff import Backoff
from ..log import logger_of

logger = logger_of("mailrail.layers")

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.1, 5.0
"""Seconds until listening is tried again, first and at most."""


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
        backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, jitter=0.0)
        try:
            while not self._is_in_vain:
                begun = time.monotonic()
                try:
                    if self._listen(wake_reader):
                        return
                except Exception as error:  # whatever it is, polling goes on
                    if time.monotonic() - begun > LONGEST_BACKOFF_S:  # until then, it listened
                        backoff.succeeded()
                    if backoff.failed():
                        logger.warning(
                            "no notifications of new messages just now, polling instead: %s", error
                        )
                finally:
                    self.is_live = False
                    self._on_change()
                if _is_woken(wake_reader, backoff.delay):
                    return
        finally:
            os.close(wake_reader)


def _is_woken(wake_reader: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(wake_reader, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
