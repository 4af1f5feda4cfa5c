"""The worker: claim, consume, settle."""

from .execution_context import ExecutionContext, current_execution
from .incoming import IncomingMessage
from .worker import Worker

__all__ = ["ExecutionContext", "IncomingMessage", "Worker", "current_execution"]
