"""Hearing PostgreSQL's notifications, on a thread and a connection of their own.

A hint and no more: a worker looks for itself at least once a second, so nothing is lost with a notification.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from django.db import connections

logger = logging.getLogger("mailrail.layers")

FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0
LOOK_EVERY = 10.0
"""Seconds between two looks whether the connection still is one."""

_direct: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def is_direct(connection: Any) -> bool:
    """Does this connection (Django's wrapper) lead to one server process, and not to a pooler of them?

    A pooler hands out a process id of its own making as the key for cancelling (PostgreSQL manual, 55.2.9), which is
    not the one that the server process gives itself.
    """
    driver = connection.connection
    if driver not in _direct:
        with connection.wrap_database_errors:
            (pid,) = driver.execute("SELECT pg_backend_pid()").fetchone()
        _direct[driver] = pid == driver.info.backend_pid
    return _direct[driver]


class Listener:
    """Calls ``heard`` after a notification of an awaited channel, ``changed`` when listening begins or ends."""

    def __init__(self, using: str, heard: Callable[[], None], changed: Callable[[], None]) -> None:
        self._using = using
        self._heard = heard
        self._changed = changed
        self._awaited: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bell: int | None = None  # written to, it ends the thread
        self._pid = 0
        self._pooled = False
        self.is_live = False
        """Do notifications arrive? Otherwise look often."""

    def listen(self, channels: Iterable[str]) -> bool:
        """From now on hear of these channels. Returns at once: whether notifications arrive already."""
        self._awaited = frozenset(channels)
        if (self._thread is None or self._pid != os.getpid()) and not self._pooled:
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
            while not self._pooled:
                begun = time.monotonic()
                try:
                    if self._listen(ring):
                        return
                except Exception as error:  # whatever it is, polling goes on
                    if not told:
                        logger.warning(
                            "cannot listen to PostgreSQL just now, looking often instead: %s", error
                        )
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

    def _listen(self, ring: int) -> bool:
        """Until the bell rings (then True) or the connection breaks (then it raises)."""
        wrapper = connections[self._using].copy()
        wrapper.settings_dict = {**wrapper.settings_dict, "OPTIONS": _without_pool(wrapper)}
        try:
            wrapper.connect()
            if not is_direct(wrapper):
                self._pooled = True
                logger.info(
                    "database %r is reached through a connection pooler, so no notifications: looking for messages "
                    "every 20 ms to 1 s",
                    self._using,
                )
                return False
            driver = wrapper.connection
            driver.execute("SET idle_session_timeout = 0")  # idle is what this session is
            driver.execute("LISTEN mailrail")
            self.is_live = True
            self._changed()
            return self._hear(driver, ring)
        finally:
            wrapper.close()

    def _hear(self, driver: Any, ring: int) -> bool:
        poll = select.poll()
        poll.register(driver.fileno(), select.POLLIN)
        poll.register(ring, select.POLLIN)
        while True:
            events = poll.poll(LOOK_EVERY * 1000)
            if any(fd == ring for fd, _ in events):
                return True
            if not events:
                driver.execute("SELECT 1")
            if any(notice.payload in self._awaited for notice in list(driver.notifies(timeout=0))):
                self._heard()


def _without_pool(wrapper: Any) -> dict[str, Any]:
    """A connection kept for ever has no business in a pool."""
    return {name: value for name, value in wrapper.settings_dict["OPTIONS"].items() if name != "pool"}


def _rings(ring: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
