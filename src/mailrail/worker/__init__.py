"""The worker: claim, consume, settle."""

from .incoming import ExecutionContext, IncomingMessage, current_execution
from .worker import Worker

__all__ = ["ExecutionContext", "IncomingMessage", "Worker", "current_execution"]
