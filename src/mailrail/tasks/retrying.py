"""Decide what follows from an exception of a task: is it final, or when is the task tried again?"""

from __future__ import annotations

from typing import Any

from mailrail import Discard, Retry
from mailrail.log import logger_of

from .errors import TaskFailure
from .options import Effective

logger = logger_of("mailrail.tasks")


def is_discarded(error: BaseException, options: Effective, path: str) -> bool:
    """Tell whether the task is over by its own will: it raised ``Discard``, or what its ``discard_on`` names."""
    return isinstance(error, Discard) or _is_named(options.is_discarded, error, path, otherwise=False)


def wait_after(error: BaseException, failures: int, options: Effective, path: str) -> float | None:
    """Return the seconds until the next attempt, if one is left; ``None`` if there is to be none after this error."""
    if isinstance(error, TaskFailure):
        return None
    if isinstance(error, Retry):
        after: float | None = getattr(error, "after", None)  # a subclass may not call __init__
        return _backoff(failures, options, path) if after is None else after
    if not _is_named(options.is_retried, error, path, otherwise=True):
        return None
    return _backoff(failures, options, path)


def _backoff(failures: int, options: Effective, path: str) -> float:
    try:
        return options.delay_after(failures)
    except Exception:
        logger.exception("backoff of %s cannot be used; the default is", path)
        return Effective().delay_after(failures)


def _is_named(names: Any, error: BaseException, path: str, *, otherwise: bool) -> bool:
    try:
        return bool(names(error))
    except Exception:  # a dotted path that leads nowhere
        logger.exception("retry_on or discard_on of %s cannot be used", path)
        return otherwise
