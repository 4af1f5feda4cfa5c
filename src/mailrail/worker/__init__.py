"""The worker: claim, consume, settle."""

from .incoming import IncomingMessage
from .worker import Worker

__all__ = ["IncomingMessage", "Worker"]
