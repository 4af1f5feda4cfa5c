"""Run sync code for a coroutine on threads that no code of tasks uses.

``sync_to_async`` runs the sync code of all coroutines on one thread. A task that blocks that thread must not keep the
others from beginning and ending. In tests, which run a coroutine by ``async_to_sync``, that thread is the one whose
transaction is rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

from mailrail.worker.connections import close_connections, tidy_after, tidy_before
from mailrail.worker.pools import at_end, is_worker_loop

P = ParamSpec("P")
T = TypeVar("T")

_writer = ThreadPoolExecutor(1, "mailrail-records")
_teller = ThreadPoolExecutor(1, "mailrail-signals")
_used: set[ThreadPoolExecutor] = set()


async def write_aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Read or write records for a coroutine."""
    return await _run(_writer, function, *args, **kwargs)


async def tell_aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call receivers of signals for a coroutine. One that blocks keeps no attempt from being written."""
    return await _run(_teller, function, *args, **kwargs)


async def _run(
    executor: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    if not is_worker_loop(asyncio.get_running_loop()):
        return await sync_to_async(function)(*args, **kwargs)
    _used.add(executor)
    aside: Any = sync_to_async(_tidily(function), thread_sensitive=False, executor=executor)
    result: T = await aside(*args, **kwargs)
    return result


def _tidily(function: Callable[P, T]) -> Callable[P, T]:
    """Look after the connections of the thread, as a worker does around a consumer."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        tidy_before()
        try:
            return function(*args, **kwargs)
        finally:
            tidy_after()

    return call


@at_end.append
def _close() -> None:
    """Close the connections of both threads, without waiting: a receiver may block one of them."""
    while _used:
        _used.pop().submit(close_connections)
