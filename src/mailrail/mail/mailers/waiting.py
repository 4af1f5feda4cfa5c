"""The one answer of all limits of a mailer, "may leave now" or "not before", and what ends a wait.

An outage and the use of all connections end at a moment that nobody knows. One thread of each process looks every
second or so, and only while something is waited for. So the claim loop has nothing to do meanwhile.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from math import inf
from typing import NamedTuple, Protocol
from weakref import WeakSet

from django.db import connections

from mailrail.backoff import chance
from mailrail.log import logger_of
from mailrail.transient import is_transient

logger = logger_of("mailrail.mail")

LOOK_INTERVAL_S = 1.5
"""Seconds between two looks, or up to a quarter less: each costs a query, and email may leave within two seconds."""
RELEASE_DELAY_S = 1.0
"""Seconds until email is due again that its mailer does not take now. Its limiter lets nobody claim it before then."""


class Permission(NamedTuple):
    """Say how many emails may leave now, or connections be opened: ``limit``.

    If that is less than what was asked for, the others may not before ``wait`` seconds, for this reason. ``is_probe``:
    the mailer is out, and whoever asked probes it for all.
    """

    limit: int = sys.maxsize
    wait: float = 0.0
    reason: str = ""
    is_probe: bool = False

    @property
    def is_paused(self) -> bool:
        """Tell whether it takes a person to let email leave, so that no other mailer may stand in."""
        return self.wait == inf


NOW = Permission()
"""All may leave."""
PAUSED = Permission(0, inf)
"""A person has paused the mailer."""


# -- the limiters of this process, to be asked again at once when what they wait for is over ---------------------------


class Reopenable(Protocol):
    """Wait for a mailer."""

    def waits_for(self, mailer: str) -> bool:
        """Tell whether email may leave by this mailer."""

    mailer: str | None
    open_at: float

    def reopen(self) -> None:
        """Let the worker ask again now."""


_limiters: WeakSet[Reopenable] = WeakSet()


def add(limiter: Reopenable) -> None:
    """Tell a limiter when a mailer can take more."""
    _limiters.add(limiter)


def close(mailer: str, seconds: float) -> None:
    """Let this process claim no email of this mailer for so long."""
    until = time.monotonic() + seconds
    for limiter in list(_limiters):
        if limiter.mailer == mailer:
            limiter.open_at = max(limiter.open_at, until)


def reopen(mailer: str) -> None:
    """Let this process claim email again that this mailer may take: it works, or has a free connection."""
    for limiter in list(_limiters):
        if limiter.waits_for(mailer):
            limiter.reopen()


# -- the thread that looks ---------------------------------------------------------------------------------------------

_looks: dict[Hashable, Callable[[], bool]] = {}
_lock = threading.Lock()
_thread: threading.Thread | None = None
_stopped = threading.Event()


def watch(name: Hashable, is_over: Callable[[], bool]) -> None:
    """Call ``is_over`` every second or so until it returns true. Of each name, the last one given is called."""
    global _thread
    with _lock:
        # Unlike any other: an answer that is under way ends only the look it is of.
        _looks[name] = partial(is_over)
        if _thread is None:
            _stopped.clear()
            _thread = threading.Thread(target=_run, name="mailrail-watch", daemon=True)
            _thread.start()


def _run() -> None:
    global _thread
    try:
        while not _stopped.wait(LOOK_INTERVAL_S * chance.uniform(0.75, 1)):
            with _lock:
                if not _looks:
                    _thread = None
                    return
                looks = dict(_looks)
            for name, is_over in looks.items():
                _look(name, is_over)
    finally:
        connections.close_all()


def _look(name: Hashable, is_over: Callable[[], bool]) -> None:
    try:
        is_done = is_over()
    except Exception as error:
        logger.log(
            logging.DEBUG if is_transient(error) else logging.ERROR,
            *("cannot look whether %s is over: %s", name, error),
            exc_info=not is_transient(error),
        )
        connections.close_all()
        return
    with _lock:
        if is_done and _looks.get(name) is is_over:
            del _looks[name]


def forget() -> None:
    """Stop to look. For tests, and for a forked child, in which the thread is not there."""
    global _thread, _lock
    thread, _thread, _lock = _thread, None, threading.Lock()
    _looks.clear()
    _stopped.set()
    if thread is not None and thread.is_alive():
        thread.join(10)


os.register_at_fork(after_in_child=forget)
