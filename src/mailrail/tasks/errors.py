"""Name why a task failed that raised nothing itself.

    MailrailError
    └── TaskFailure
        ├── TaskCancelled      somebody cancelled it, and it had not run, or has stopped
        ├── TaskDiscarded      the task raised Discard, or an exception that its discard_on names
        ├── TaskExpired        its time was over before it could run
        ├── TaskLost           its worker processes died, or stopped renewing the lease, while it ran
        ├── TaskNotFound       the worker's code has no such task
        └── StepNotKept        a step has run, and what it returned cannot be kept

``TaskResult.errors`` names one of these in ``exception_class_path``. Only the steps of a task raise any:
``StepNotKept``, and ``TaskCancelled`` before the next step of a task that was cancelled.
"""

from __future__ import annotations

from mailrail import MailrailError

__all__ = [
    "StepNotKept",
    "TaskCancelled",
    "TaskDiscarded",
    "TaskExpired",
    "TaskFailure",
    "TaskLost",
    "TaskNotFound",
]


class TaskFailure(MailrailError):
    """Name the reason of a failure that the task's own code did not cause."""


class TaskCancelled(TaskFailure):
    """Say that somebody cancelled the task before it could run, or that it has stopped since."""


class TaskDiscarded(TaskFailure):
    """Say that the task raised ``Discard``, or an exception that its ``discard_on`` names."""


class TaskExpired(TaskFailure):
    """Say that the time of ``expires`` was over before the task could run."""


class TaskLost(TaskFailure):
    """Say that worker processes died, or stopped renewing their lease, while they ran the task."""


class TaskNotFound(TaskFailure):
    """Say that the worker's code has no task at the dotted path that was enqueued."""


class StepNotKept(TaskFailure, TypeError, ValueError):
    """Say that a step has returned what is no JSON, or too long.

    The step has run, so the task fails at once: the next attempt would run the step again, for the same end.
    """
