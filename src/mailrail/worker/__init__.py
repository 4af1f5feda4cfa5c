"""The worker: claim, consume, settle."""

from .incoming import IncomingMessage
from .running import Run, current_run
from .worker import Worker

__all__ = ["IncomingMessage", "Run", "Worker", "current_run"]
