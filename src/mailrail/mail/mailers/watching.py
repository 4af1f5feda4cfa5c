"""Look every second or so whether what email waits for is over: an outage, or the use of all connections.

One thread of each process looks, and only while something is waited for. So the claim loop has nothing to do meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from functools import partial

from django.db import connections

from mailrail.backoff import chance
from mailrail.log import logger_of
from mailrail.transient import is_transient

logger = logger_of("mailrail.mail")

LOOK_INTERVAL_S = 1.5
"""Seconds between two looks, or up to a quarter less: each costs a query, and email may leave within two seconds."""

_looks: dict[Hashable, Callable[[], bool]] = {}
_lock = threading.Lock()
_thread: threading.Thread | None = None
_stopped = threading.Event()


def watch(name: Hashable, is_over: Callable[[], bool]) -> None:
    """Call ``is_over`` every second or so until it returns true. Of each name, the last one given is called."""
    global _thread
    with _lock:
        _looks[name] = partial(
            is_over
        )  # unlike any other: an answer that is under way ends only the look it is of
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
