"""Ending an asyncio task for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_AFTER = 0.05
"""Seconds until a task that was cancelled, and goes on, is cancelled again."""


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task, and wait until it is over, also if the caller is cancelled meanwhile.

    One cancellation may be swallowed: ``asyncio.wait_for`` of Python 3.11, in which redis-py sends, forgets one that
    arrives when what it waits for is done (https://github.com/python/cpython/issues/86296).
    """
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait({task}, timeout=AGAIN_AFTER)
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
