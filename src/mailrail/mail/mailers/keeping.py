"""Renew what this process holds for a few seconds at a time: connections of a mailer, and the probe of one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from django.db import Error, connections

from mailrail.log import logger_of

logger = logger_of("mailrail.mail")

Key = TypeVar("Key", bound=Hashable)
Held = TypeVar("Held")


class Keeper(Generic[Key, Held]):
    """Call ``renew`` with all that is held every few seconds, on a thread that runs only while something is held.

    What a process holds that has died, or stands still, is free for others once its lease is over. ``what`` is held,
    in words.
    """

    def __init__(self, what: str, interval: float, renew: Callable[[dict[Key, Held]], None]) -> None:
        self._what = what
        self._interval = interval  # seconds
        self._renew = renew
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """Forget, in a forked child, what its parent holds."""
        self._held: dict[Key, Held] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, key: Key, held: Held) -> None:
        """Hold it from now on."""
        with self._changed:
            self._held[key] = held
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mailrail-keeper", daemon=True)
                self._thread.start()

    def replace(self, key: Key, before: Held, after: Held | None) -> None:
        """Note what it is now, unless that has changed meanwhile. ``None``: somebody else has it."""
        with self._changed:
            if self._held.get(key) != before:
                return
            if after is None:
                del self._held[key]
            else:
                self._held[key] = after

    def remove(self, key: Key) -> None:
        """Hold it no more."""
        with self._changed:
            self._held.pop(key, None)

    def renew(self) -> None:
        """Renew now. Raise what the database raises."""
        with self._changed:
            held = dict(self._held)
        if held:
            self._renew(held)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(self._interval)
                if not self._held:
                    self._thread = None
                    return
            try:
                self.renew()
            except Error as error:
                logger.warning("%s cannot be renewed just now: %s", self._what, error)
            finally:
                connections.close_all()
