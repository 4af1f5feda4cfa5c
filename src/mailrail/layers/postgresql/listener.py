"""Hearing PostgreSQL's notifications, on a thread and a connection of their own.

A notification only saves time: a worker looks for itself every few seconds, so nothing is lost with one.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from django.db import connections

from ...prepared_statements import is_pooled
from ...second_connection import unpooled
from ..notifications import NotificationListener, logger

CONNECTION_CHECK_INTERVAL_S = 10.0
"""Seconds between two looks whether the connection still is one."""


class Listener(NotificationListener):
    """Hears the notifications of one database."""

    def __init__(
        self, using: str, on_notification: Callable[[], None], on_change: Callable[[], None]
    ) -> None:
        super().__init__(on_notification, on_change)
        self._using = using

    def _listen(self, wake_reader: int) -> bool:
        wrapper = unpooled(connections[self._using])  # kept for ever, it has no business in a pool
        try:
            wrapper.connect()
            if is_pooled(wrapper):
                self._is_in_vain = True
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
            self._on_change()
            return self._receive(driver, wake_reader)
        finally:
            wrapper.close()

    def _receive(self, driver: Any, wake_reader: int) -> bool:
        poll = select.poll()
        poll.register(driver.fileno(), select.POLLIN)
        poll.register(wake_reader, select.POLLIN)
        while True:
            events = poll.poll(CONNECTION_CHECK_INTERVAL_S * 1000)
            if any(fd == wake_reader for fd, _ in events):
                return True
            if not events:
                driver.execute("SELECT 1")
            if any(notice.payload in self._awaited for notice in list(driver.notifies(timeout=0))):
                self._on_notification()
